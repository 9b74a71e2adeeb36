"""The web page to try a model on."""
