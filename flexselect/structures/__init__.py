"""Types that all packages share: a prompt, its layout, the frames of a video."""
