"""Encode a video, select its visual tokens and answer, with one loaded model; does not depend on sessions."""
