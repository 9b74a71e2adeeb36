"""FlexSelect: answers about long videos from the few visual tokens that the question needs (arXiv 2506.00993)."""

from flexselect import moved  # noqa: F401
from flexselect.pipeline import FlexSelect, VideoSession
from flexselect.selectors.lite_selector import LiteSelector, LiteSelectorConfig
from flexselect.structures.prompt import Answer, Selection, VideoClip, VideoPrompt
from flexselect.version import __version__

__all__ = [
    "Answer",
    "FlexSelect",
    "LiteSelector",
    "LiteSelectorConfig",
    "Selection",
    "VideoClip",
    "VideoPrompt",
    "VideoSession",
    "__version__",
]
