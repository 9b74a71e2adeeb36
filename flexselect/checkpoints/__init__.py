"""Checkpoints in the layouts of their authors, read as they are on the hub, without remote code."""
