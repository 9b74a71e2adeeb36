"""Which layer of a VideoLLM finds what a question asks for."""
