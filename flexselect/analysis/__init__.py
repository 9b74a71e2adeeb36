"""Find the layer of a VideoLLM whose attention finds what a question asks for."""
