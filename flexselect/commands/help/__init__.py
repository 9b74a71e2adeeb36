"""Help and mistakes of the command line, without PyTorch: names, types and meanings are read from the source."""
