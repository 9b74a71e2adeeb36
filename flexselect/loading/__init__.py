"""Read checkpoints in their authors' layouts, without remote code."""
