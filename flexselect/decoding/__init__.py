"""Run a VideoLLM's language model: its input from text and visual tokens, and greedy answers."""
