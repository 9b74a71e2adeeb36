"""What is inside a video file: which frames, when each is shown, and their pictures. See `datamodules.video`."""
