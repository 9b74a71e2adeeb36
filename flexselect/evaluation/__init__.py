"""Whether an answer is right, and how sure a result is."""
