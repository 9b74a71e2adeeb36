"""Frames inside a video file: when each one is shown, and its picture. See `datamodules.video`."""
