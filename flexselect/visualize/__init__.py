"""Pictures of a selection: kept tokens, scores, layers.

Needs matplotlib, extra `viz`. Each function returns a figure, which a notebook shows and `savefig` writes; `overlay`
writes a video, and `draw_all` all pictures of a question.
"""

from flexselect.visualize.all import draw_all
from flexselect.visualize.frames import heat_map, kept_tokens, timeline
from flexselect.visualize.layers import recall_by_layer, states_by_layer
from flexselect.visualize.overlay import overlay
from flexselect.visualize.side_by_side import side_by_side
from flexselect.visualize.token_map import TokenMap, map_tokens

__all__ = [
    "TokenMap",
    "draw_all",
    "heat_map",
    "kept_tokens",
    "map_tokens",
    "overlay",
    "recall_by_layer",
    "side_by_side",
    "states_by_layer",
    "timeline",
]
