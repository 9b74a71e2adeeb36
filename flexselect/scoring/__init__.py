"""Score visual tokens for a question, and select the tokens to keep."""
