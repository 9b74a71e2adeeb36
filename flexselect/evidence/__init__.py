"""Evidence: the moments of a video that an answer comes from, and how much of the answer depends on them."""
