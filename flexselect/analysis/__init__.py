"""Find the layer of a VideoLLM that attends to what a question asks for."""
