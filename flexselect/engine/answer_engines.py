"""Answer engines by name: what runs the LLM on the kept tokens. They are entry points, so none is a dependency."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol

import torch
from torch import Tensor

from flexselect.families.base import VideoFamily, VideoLM
from flexselect.nearest import did_you_mean
from flexselect.options import Options
from flexselect.running.greedy import CHANGES_ANSWERS, NewTokens, end_ids
from flexselect.validation import OWN_ENGINE

GROUP = "flexselect.answer_engines"  # of modules with `check_engine` and `open_engine`
KNOWN_HERE = "repetition_penalty"  # what every engine follows


@dataclass(frozen=True)
class Prompt:
    """One prompt of N tokens, the kept visual tokens among them, and how its answer ends."""

    embeddings: Tensor  # [N, (1 + E) * D]; E blocks are for the first decoder layers (deepstack), zeros at text
    positions: Tensor  # int64 [N, 3]; the same three times if the model has one axis
    ids: Tensor  # int64 [N]; a repetition penalty counts them
    ends: list[int]  # ids that end an answer
    repetition_penalty: float
    max_new_tokens: int


@dataclass(frozen=True)
class Generated:
    """An answer's tokens, and the seconds to the first one and from there to the last."""

    new: NewTokens
    prefill: float
    generate: float


class AnswerEngine(Protocol):
    """Runs the LLM, for several prompts at a time."""

    def submit(self, prompt: Prompt, on_token: Callable[[int], None]) -> Future[Generated]:
        """Begin to answer; `on_token` is called with each new token, from any thread.

        Greedy: the likeliest token, with the likelihood after the repetition penalty. If `on_token` raises an error,
        the answer ends with it.
        """

    def close(self) -> None:
        """End it."""


OpenEngine = Callable[[VideoFamily], AnswerEngine]


def find_answer_engine(options: Options, family: VideoFamily) -> OpenEngine | None:
    """Find what opens the engine that the options name; None: the loaded model answers itself.

    Open it after the weights are loaded, since it takes what is free of the GPU's memory.

    Raises:
        ValueError: if there is no engine of this name, it cannot answer for this family, the package that it needs is
            missing, or an argument is wrong.
    """
    if options.engine == OWN_ENGINE:
        return None
    installed = {engine.name: engine for engine in entry_points(group=GROUP)}
    if options.engine not in installed:
        known = sorted({OWN_ENGINE, *installed})
        hint = did_you_mean(options.engine, known) or "."
        raise ValueError(f"there is no answer engine {options.engine}{hint} There are {', '.join(known)}")
    url, more = options.engine_url, dict(options.engine_options or {})
    try:
        module = installed[options.engine].load()
        module.check_engine(family, url, more)
    except ImportError as error:
        raise ValueError(f"the answer engine {options.engine} cannot be used: {error}") from error
    return lambda family: module.open_engine(family, url, more, options.dtype)


def prompt_of(lm: VideoLM, inputs: dict[str, Any], max_new_tokens: int) -> Prompt:
    """Make the prompt of an engine from the LLM's input; see `VideoLM.assemble`.

    Raises:
        ValueError: if the checkpoint's generation settings, or positions with gaps, are not supported.
    """
    settings = lm.model.generation_config
    set_here = settings.to_dict()
    unknown = [name for name in CHANGES_ANSWERS if name != KNOWN_HERE and set_here.get(name)]
    if unknown:
        raise ValueError(f"generation_config.json sets {', '.join(unknown)}, which needs engine=transformers")
    positions = inputs["position_ids"].flatten(0, -2).cpu()  # [P, N]
    if len(positions) == 1 and not torch.equal(positions[0], torch.arange(positions.shape[1])):
        raise ValueError('positions="original" needs engine=transformers: of this family, other engines count tokens')
    ids = inputs["input_ids"][0].cpu()
    if not lm.family.penalises_prompt:  # then only new tokens count
        ids = torch.full_like(ids, min(lm.visual_id, lm.decoder.config.vocab_size - 1))
    return Prompt(
        torch.cat([inputs["inputs_embeds"][0], *_deepstack(inputs)], -1).cpu(),
        positions.expand(3, -1).T.contiguous(),
        ids,
        sorted(end_ids(lm.model, lm.prompter.end_of_turn)),
        settings.repetition_penalty or 1.0,
        max_new_tokens,
    )


def _deepstack(inputs: dict[str, Any]) -> list[Tensor]:
    """Return the visual features of each decoder layer that takes some, zeros at text: E of [N, D]."""
    if not inputs["deepstack"]:
        return []
    visual, levels = inputs["deepstack"]["visual_pos_masks"][0], inputs["deepstack"]["deepstack_visual_embeds"]
    rows = [torch.zeros_like(inputs["inputs_embeds"][0]) for _ in levels]
    for row, features in zip(rows, levels):
        row[visual] = features.to(row)
    return rows
