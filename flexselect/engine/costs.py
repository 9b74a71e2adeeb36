"""Count what an answer costs, from the shapes of a loaded model. It takes microseconds per question."""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from flexselect.families.base import VideoFamily
from flexselect.running.operations import Decoder, Tower
from flexselect.scoring.scorer import Scorer
from flexselect.structures.cost import Cost
from flexselect.structures.prompt import EncodedVideo, Selection

TERA = 1e12


def cost_of_selecting(
    family: VideoFamily, scorer: Scorer | None, encoded: EncodedVideo, query_ids: Tensor, selection: Selection | None
) -> Cost | None:
    """Count what comes before an answer: the video is decoded and encoded, and its visual tokens are scored.

    Args:
        family: the family of the VideoLLM.
        scorer: what scored the tokens; None: nothing was scored (dense).
        encoded: the video; it counts in full, also if it was encoded for an earlier question.
        query_ids: the text after the video, int64 [Q].
        selection: the result of the scorer; None: dense.

    Returns:
        The cost; None if the size of the frames is unknown.
    """
    if encoded.tower_input is None:
        return None
    count, height, width = encoded.tower_input
    tower = Tower.of(family.model_config.vision_config, height, width)
    operations, scored = tower.operations(encoded.num_units), 0
    if scorer is not None and selection is not None and scorer.ranks_content:
        operations += _operations_of_scoring(scorer, encoded, len(query_ids), selection)
        scored = encoded.num_tokens
    frames = count if encoded.seconds is None else len(encoded.seconds)  # an odd last frame may be encoded twice
    return Cost(frames, encoded.about.decoded, count * height * width, scored, 0, operations / TERA)


def cost_of_answering(family: VideoFamily, tokens: int, kept: int, new: int) -> Cost:
    """Count what an answer of some `new` tokens costs, from a prompt of `tokens`, of which `kept` are visual."""
    decoder = decoder_of(family)
    read = tokens + max(0, new - 1)  # the last new token is not read
    return Cost(kept=kept, tflop=decoder.operations(read, decoder.layers) / TERA)


@lru_cache(maxsize=16)
def decoder_of(family: VideoFamily) -> Decoder:
    """Return the shapes of the VideoLLM's language model."""
    return Decoder.of(family.model_config.get_text_config())


def _operations_of_scoring(scorer: Scorer, encoded: EncodedVideo, query_rows: int, selection: Selection) -> float:
    """Add up the operations of all frame sets, each between the same prefix and query, with the text of its units."""
    outside, sets = len(encoded.prefix_ids) + query_rows, selection.sets
    text = [sum(encoded.text_per_unit[first :: len(sets)]) for first in range(len(sets))]
    return sum(scorer.operations(outside + len(tokens) + more) for tokens, more in zip(sets, text))
