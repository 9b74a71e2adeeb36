"""One loaded model: encode a video, select its visual tokens, answer. Knows no session."""
