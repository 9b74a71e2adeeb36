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
    config, tokens, options = plan.family.model_config, math.prod(clip.grid), plan.options
    decoder = Decoder.of(config.get_text_config())
    stages = {"encode": Tower.of(config.vision_config, *clip.pixels.shape[1:3]).operations(clip.num_units)}
    if plan.ranks_content:
        scoring, layers = decoder, plan.layer
        if plan.selector is not None:
            scoring = Decoder.of(plan.selector.text_config)
            layers = scoring.layers - 1  # the last one gives its attention alone
        sets = frame_sets(clip.num_units, tokens // clip.num_units, options.units_per_set)
        stages["score"] = sum(scoring.operations(len(chosen) + QUESTION, layers) for chosen in sets)
    stages["answer"] = decoder.operations(plan.kept(tokens) + QUESTION, decoder.layers)
    return stages
