"""From frames to visual tokens, some units at a time: a clip that is there, or one that is still being decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from flexselect.engine.clock import Clock
from flexselect.families.base import VideoLM, VisionProjector
from flexselect.structures.frames import FrameStream
from flexselect.structures.prompt import EncodedVideo, VideoClip, VideoPrompt

SHOWN_AFTER = 3  # seconds; a short video needs no progress bar


@torch.inference_mode()
def encode(lm: VideoLM, prompt: VideoPrompt, selector: VisionProjector | None = None) -> EncodedVideo:
    """Make a prompt's clip ready for any question.

    Args:
        lm: whose tower sees it.
        prompt: with its clip.
        selector: projects the same view once more, for a selector.
    """
    encoded = _gathered(lm, prompt.prefix_ids, prompt.clip, lm.views(prompt.clip), selector)
    return encoded if selector is None else replace(encoded, selector_text=prompt.selector_text)


@torch.inference_mode()
def encode_stream(
    lm: VideoLM,
    stream: FrameStream,
    clock: Clock,
    selector: VisionProjector | None = None,
    progress: bool | None = None,
) -> EncodedVideo:
    """The same of a video that is decoded meanwhile; its frames are let go of as soon as the tower has seen them.

    Args:
        lm: whose tower sees it.
        stream: its frames.
        clock: gets the seconds waited for frames under `decode`, the tower's under `encode`.
        selector: see `encode`.
        progress: whether a bar is shown for a video that takes long; None: on a terminal.
    """
    prompter = lm.prompter
    bar = tqdm(
        total=stream.num_frames,
        unit="frame",
        desc="reading the video",
        delay=SHOWN_AFTER,
        disable=None if progress is None else not progress,
    )
    clock.start("decode")
    with bar, closing(stream.steps(lm.units_per_step * lm.family.frames_per_unit)) as steps:
        first = next(steps)
        every = torch.empty(stream.num_frames, *first.shape[1:], dtype=torch.uint8, device="meta")  # takes no memory
        whole = replace(prompter.clip(every, stream.seconds), about=stream.about)

        def views() -> Iterator[tuple[Tensor, tuple[int, int, int]]]:
            frames: Tensor | None = first
            while frames is not None:
                clock.start("encode")
                yield from lm.views(prompter.clip(frames))
                bar.update(len(frames))
                clock.start("decode")
                frames = next(steps, None)

        encoded = _gathered(lm, prompter.prefix_ids, whole, views(), selector)
    clock.stop()
    return encoded


def _gathered(
    lm: VideoLM,
    prefix_ids: Tensor,
    clip: VideoClip,
    views: Iterable[tuple[Tensor, tuple[int, int, int]]],
    selector: VisionProjector | None,
) -> EncodedVideo:
    """Visual tokens of a whole clip, each written to its place: never two copies of them."""
    features, seen, done = torch.empty(0), torch.empty(0), 0
    for vision, grid in views:
        tokens = lm.project(vision, grid)
        if done == 0:
            features = tokens.new_empty(clip.num_units * (len(tokens) // grid[0]), tokens.shape[1])
        stop = done + len(tokens)
        features[done:stop] = tokens
        if selector is not None:
            projected = selector(vision, grid)
            if done == 0:
                seen = projected.new_empty(len(features), projected.shape[1])
            seen[done:stop] = projected
        done = stop
    known = clip.grid, clip.seconds_per_unit, clip.delimiters
    return EncodedVideo(prefix_ids, features, *known, seen if selector else None, None, clip.seconds, clip.about)
