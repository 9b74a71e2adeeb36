"""Where frames and questions come from. The only package that opens a video or a data set."""
