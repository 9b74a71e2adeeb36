"""Readers other than the default one. Frames are chosen by the same index; only the pictures come from the library."""
