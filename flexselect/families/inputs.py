"""Helper functions of the families: check numbers, sample and resize frames, lay out tokens."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as vision
from transformers.models.qwen2_vl.video_processing_qwen2_vl import smart_resize

from flexselect.structures.layout import Layout

MAX_ASPECT_RATIO = 200  # of transformers' resize rule
CONTENT = "content"  # stands for a question where a chat template is asked


def at_least(name: str, least: float, value: Any, default: Any) -> Any:
    """Return a number, or `default` if the number is None.

    Raises:
        ValueError: naming the number, if it is below `least`.
    """
    value = default if value is None else value
    if not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if not value >= least:
        raise ValueError(f"{name} must be at least {least:g}, got {value}")
    return value


def even_frames(num_frames: int, file_fps: float, fps: float, max_frames: int) -> list[int]:
    """Choose about `fps` frames per second, an even number from 4 to `max_frames`, spread over the whole clip.

    All frames of a clip that is shorter are taken (the released code fails on it).
    """
    wanted = num_frames / file_fps * fps if math.isfinite(fps) else math.inf
    count = round(min(max(wanted, 4), max_frames // 2 * 2) / 2) * 2
    return torch.linspace(0, num_frames - 1, min(count, num_frames)).round().long().tolist()


def pad_to_even(frames: Tensor) -> Tensor:
    """Repeat the last frame if the number of frames is odd."""
    return torch.cat([frames, frames[-1:]]) if len(frames) % 2 else frames


def resize_to_area(frames: Tensor, factor: int, min_pixels: int, max_pixels: int) -> Tensor:
    """Resize uint8 frames [T, h, w, 3]: sides multiples of `factor`, area within bounds; bicubic, antialiased."""
    height, width = frames.shape[1:3]
    if max(height, width) >= MAX_ASPECT_RATIO * min(height, width):
        raise ValueError(
            f"frames of {width} x {height} pixels are too narrow: "
            f"the long side must be less than {MAX_ASPECT_RATIO} times the short side"
        )
    return resize_to(frames, *smart_resize(height, width, factor, min_pixels, max_pixels))


def resize_to(frames: Tensor, height: int, width: int) -> Tensor:
    """Resize uint8 frames [T, h, w, 3] to a size; bicubic, antialiased. Frames of this size stay as they are."""
    if frames.shape[1:3] == (height, width):
        return frames
    channels_first = frames.permute(0, 3, 1, 2)
    resized = vision.resize(channels_first, [height, width], vision.InterpolationMode.BICUBIC, antialias=True)
    return resized.permute(0, 2, 3, 1)


def resize_to_square(frames: Tensor, side: int) -> Tensor:
    """Resize uint8 frames [T, h, w, 3] to [T, side, side, 3] without keeping the aspect ratio; PIL's bicubic filter."""
    if frames.shape[1:3] == (side, side):
        return frames
    resized = [Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC) for frame in frames.cpu().numpy()]
    return torch.from_numpy(np.stack([np.asarray(frame) for frame in resized]))


def rendered_turn(tokenizer: Any, content: str | list[dict[str, str]], thinking: bool) -> str:
    """Let a chat template write a user's turn and the beginning of the model's; its switch says whether it thinks."""
    turns = [{"role": "user", "content": content}]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=thinking)


def prompt_of_template(tokenizer: Any, path: str, video: str) -> tuple[str, str]:
    """Take a prompt from a checkpoint's chat template, with thinking switched off.

    Args:
        tokenizer: the checkpoint's.
        path: the checkpoint, for errors.
        video: the text that the template writes for a video.

    Returns:
        The text before the video, and that after it, with "{question}".

    Raises:
        ValueError: if the checkpoint has no chat template for videos.
    """
    content = [{"type": "video"}, {"type": "text", "text": CONTENT}]
    text = rendered_turn(tokenizer, content, thinking=False) if tokenizer.chat_template else ""
    before, place, after = text.partition(video)
    if not place or after.count(CONTENT) != 1:
        raise ValueError(f"{path}: its chat template, from which the prompt is taken, is missing or has no videos")
    return before, after.replace(CONTENT, "{question}")


def plain_positions(layout: Layout) -> Tensor:
    """Return the positions 0, 1, 2, ...: int64 [1, N]."""
    return torch.arange(len(layout.ids))[None]


def with_newlines(frames: Tensor, newline: Tensor) -> Tensor:
    """Append a newline [D] to each row of square frames of tokens: [t, r * r, D] to [t * r * (r + 1), D]."""
    rows = math.isqrt(frames.shape[1])
    newlines = newline.to(frames).expand(len(frames), rows, 1, -1)
    return torch.cat([frames.unflatten(1, (rows, rows)), newlines], dim=2).flatten(0, 2)


def between_delimiters(frames: Tensor, delimiters: Tensor) -> Tensor:
    """Put each frame of tokens between the two `delimiters` [2, D]: [t, n, D] to [t * (n + 2), D]."""
    first, last = delimiters.to(frames)[:, None, None].expand(-1, len(frames), 1, -1)
    return torch.cat([first, frames, last], dim=1).flatten(0, 1)
