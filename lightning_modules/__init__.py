"""Lightning modules and callbacks: training and prediction steps, logging, output files."""
