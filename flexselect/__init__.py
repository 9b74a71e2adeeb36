"""FlexSelect: answers about long videos from the few visual tokens that the question needs (arXiv 2506.00993)."""

from flexselect.pipeline import FlexSelect, VideoSession
from flexselect.prompt import Answer, Selection, VideoClip, VideoPrompt
from flexselect.selector import LiteSelector, LiteSelectorConfig

__all__ = [
    "Answer",
    "FlexSelect",
    "LiteSelector",
    "LiteSelectorConfig",
    "Selection",
    "VideoClip",
    "VideoPrompt",
    "VideoSession",
]
