"""The values that travel between rooms: a prompt, its layout, the frames of a video."""
