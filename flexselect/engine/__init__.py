"""One loaded model: it encodes a video, selects its tokens and answers. It knows no session."""
