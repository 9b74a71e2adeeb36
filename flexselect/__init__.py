"""FlexSelect: answers about long videos from the few visual tokens that the question needs (arXiv 2506.00993)."""

from flexselect.pipeline import FlexSelect, VideoSession
from flexselect.prompt import Answer, Selection, VideoClip, VideoPrompt

__all__ = ["Answer", "FlexSelect", "Selection", "VideoClip", "VideoPrompt", "VideoSession"]
