"""Run the parts of a VideoLLM: its tower before the projection, its language model's input, and greedy answers."""
