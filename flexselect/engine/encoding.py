"""Turn frames into visual tokens, a few units at a time, from a decoded clip or while a file is being decoded."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from flexselect.engine.clock import Clock
from flexselect.engine.pace import Pace
from flexselect.families.base import VideoLM, VisionProjector
from flexselect.structures.frames import FrameStream
from flexselect.structures.prompt import EncodedVideo, VideoClip, VideoPrompt

log = logging.getLogger(__name__)

SHOWN_AFTER = 3  # seconds until the progress bar appears; a short video needs none


@torch.inference_mode()
def encode(lm: VideoLM, prompt: VideoPrompt, selector: VisionProjector | None = None) -> EncodedVideo:
    """Encode the clip of a prompt; the result serves any question.

    Args:
        lm: the VideoLLM.
        prompt: a clip with its text.
        selector: projection that makes `selector_features` from the same tower output; None: they are not made.
    """
    encoded = _project_all(lm, prompt.prefix_ids, prompt.clip, lm.vision_chunks(prompt.clip), selector)
    return encoded if selector is None else replace(encoded, selector_text=prompt.selector_text)


@torch.inference_mode()
def encode_stream(
    lm: VideoLM,
    stream: FrameStream,
    clock: Clock,
    selector: VisionProjector | None = None,
    progress: bool | None = None,
) -> EncodedVideo:
    """Encode a video while it is being decoded; frames are freed as soon as the tower has processed them.

    Args:
        lm: the VideoLLM.
        stream: the video's frames.
        clock: adds the seconds spent waiting for frames to `decode`, and those of the tower to `encode`.
        selector: see `encode`.
        progress: whether to show a progress bar if the video takes long; None: on a terminal, elsewhere log a line
            every half minute.
    """
    prompter = lm.prompter
    bar = tqdm(
        total=stream.num_frames,
        unit="frame",
        desc="reading the video",
        delay=SHOWN_AFTER,
        disable=None if progress is None else not progress,
    )
    pace = Pace(stream.num_frames) if progress is None and bar.disable else None
    clock.start("decode")
    with bar, closing(stream.steps(lm.units_per_step * lm.family.frames_per_unit)) as steps:
        first = next(steps)
        shape = torch.empty(stream.num_frames, *first.shape[1:], dtype=torch.uint8, device="meta")  # takes no memory
        clip = replace(prompter.clip(shape, stream.seconds), about=stream.about)

        def vision_chunks() -> Iterator[tuple[Tensor, tuple[int, int, int]]]:
            frames: Tensor | None = first
            done = 0
            while frames is not None:
                clock.start("encode")
                yield from lm.vision_chunks(prompter.clip(frames))
                bar.update(len(frames))
                done += len(frames)
                if pace is not None and pace.due():
                    log.info("reading the video: %s", pace.line(done, "frames"))
                clock.start("decode")
                frames = next(steps, None)

        encoded = _project_all(lm, prompter.prefix_ids, clip, vision_chunks(), selector)
    clock.stop()
    return encoded


def _project_all(
    lm: VideoLM,
    prefix_ids: Tensor,
    clip: VideoClip,
    vision_chunks: Iterable[tuple[Tensor, tuple[int, int, int]]],
    selector: VisionProjector | None,
) -> EncodedVideo:
    """Project a clip's tower outputs into one tensor of visual tokens, without a second copy."""
    features, selector_features, done = torch.empty(0), torch.empty(0), 0
    for vision, grid in vision_chunks:
        tokens = lm.project(vision, grid)
        if done == 0:
            features = tokens.new_empty(clip.num_units * (len(tokens) // grid[0]), tokens.shape[1])
        stop = done + len(tokens)
        features[done:stop] = tokens
        if selector is not None:
            projected = selector(vision, grid)
            if done == 0:
                selector_features = projected.new_empty(len(features), projected.shape[1])
            selector_features[done:stop] = projected
        done = stop
    return EncodedVideo(
        prefix_ids,
        features,
        clip.grid,
        clip.seconds_per_unit,
        clip.delimiters,
        selector_features if selector else None,
        seconds=clip.seconds,
        about=clip.about,
        tower_input=clip.tower_input,
    )
