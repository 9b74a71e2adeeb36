"""FlexSelect: answers about long videos from the few visual tokens that the question needs (arXiv 2506.00993).

Public names are imported at first use, so that `import flexselect` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flexselect import moved  # noqa: F401
from flexselect.version import __version__

if TYPE_CHECKING:
    from flexselect.pipeline import FlexSelect, VideoSession
    from flexselect.selectors.lite_selector import LiteSelector, LiteSelectorConfig
    from flexselect.structures.answer import Answer, Moment
    from flexselect.structures.prompt import Selection, VideoClip, VideoPrompt

HOMES = {
    "FlexSelect": "pipeline",
    "VideoSession": "session",
    "LiteSelector": "selectors.lite_selector",
    "LiteSelectorConfig": "selectors.lite_selector",
    "Answer": "structures.answer",
    "Moment": "structures.answer",
    "Selection": "structures.prompt",
    "VideoClip": "structures.prompt",
    "VideoPrompt": "structures.prompt",
}  # public name: the module that defines it

__all__ = [
    "Answer",
    "FlexSelect",
    "LiteSelector",
    "LiteSelectorConfig",
    "Moment",
    "Selection",
    "VideoClip",
    "VideoPrompt",
    "VideoSession",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import a public name at first use."""
    if name not in HOMES:
        raise AttributeError(f"module 'flexselect' has no attribute {name!r}")
    value = globals()[name] = vars(import_module(f"flexselect.{HOMES[name]}"))[name]
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *HOMES})
