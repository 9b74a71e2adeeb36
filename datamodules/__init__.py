"""Videos and questions. Only this package opens video files and data sets."""
