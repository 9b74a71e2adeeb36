"""Checkpoint folders as their authors publish them, read without remote code."""
