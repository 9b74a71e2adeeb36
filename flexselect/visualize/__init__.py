"""Pictures of what was looked at: where the kept tokens lie, what scored best, which layer finds it.

Needs matplotlib, extra `viz`. Every function writes one file; `draw_all` writes all that fit a question.
"""

from flexselect.visualize.all import draw_all
from flexselect.visualize.frames import heat_map, kept_tokens, timeline
from flexselect.visualize.layers import recall_by_layer, states_by_layer
from flexselect.visualize.look import Look, look_at
from flexselect.visualize.overlay import overlay
from flexselect.visualize.side_by_side import side_by_side

__all__ = [
    "Look",
    "draw_all",
    "heat_map",
    "kept_tokens",
    "look_at",
    "overlay",
    "recall_by_layer",
    "side_by_side",
    "states_by_layer",
    "timeline",
]
