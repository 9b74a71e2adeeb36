"""Count what a question costs before a model is loaded; see `flexselect.running.operations` for what is counted."""

from __future__ import annotations

import math

from flexselect.analysis.plan import Plan
from flexselect.running.operations import Decoder, Tower
from flexselect.scoring.frame_sets import frame_sets
from flexselect.structures.prompt import VideoClip

QUESTION = 128  # text tokens after the video


def operations(plan: Plan, clip: VideoClip) -> dict[str, float]:
    """Count the operations of the first question about a clip, by stage: encode, score (if it ranks), answer."""
    config, scored = plan.family.model_config, plan.scored(clip)
    decoder = Decoder.of(config.get_text_config())
    towers = (Tower.of(config.vision_config, *look.pixels.shape[1:3]).operations(look.num_units) for _, look in scored)
    stages = {"encode": sum(towers)}
    if plan.ranks_content:
        stages["score"] = sum(_of_scoring(part, decoder, look) for part, look in scored)
    stages["answer"] = decoder.operations(plan.kept(math.prod(clip.grid)) + QUESTION, decoder.layers)
    return stages


def _of_scoring(plan: Plan, decoder: Decoder, clip: VideoClip) -> float:
    """Count the operations of scoring a clip, each frame set with a question."""
    scoring, layers, per_unit = decoder, plan.layer, math.prod(clip.grid[1:])
    if plan.selector is not None:
        scoring = Decoder.of(plan.selector.text_config)
        layers = scoring.layers - 1  # the last one gives its attention alone
    sets = frame_sets(clip.num_units, per_unit, plan.options.units_per_set)
    return sum(scoring.operations(len(chosen) + QUESTION, layers) for chosen in sets)
