"""Pictures decoded by torchcodec: on a GPU by its video hardware (NVDEC), else on the CPU.

On a GPU frames stay there, and are resized there. Data loader workers have no GPU: their frames are decoded on the CPU.
Not run on a GPU yet.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from datamodules.readers.stored_video import find_track, in_words, position, refused, to_shown
from datamodules.video import open_video
from datamodules.video_files.decoding import DecodingError
from datamodules.video_files.frame_index import FrameIndex
from flexselect.structures.frames import WHOLE_VIDEO, FrameStream, ReadOptions, Sample

try:
    from torchcodec import Frame, ffmpeg_major_version
    from torchcodec.decoders import VideoDecoder

    if ffmpeg_major_version is None:  # importing it works, since it decodes pictures without FFmpeg
        raise ImportError("no FFmpeg")
except (ImportError, OSError, RuntimeError) as error:
    raise ImportError(
        "torchcodec is not installed, or finds no FFmpeg: run `pip install torchcodec`, and install FFmpeg's shared "
        "libraries (`apt install ffmpeg` or `conda install ffmpeg`); --data.reader pyav needs neither"
    ) from error

MAX_SHIFT = 0.25  # of a frame's length, between torchcodec's time of a frame and that of the index
ERRORS = (RuntimeError, ValueError, IndexError)


def open_with_torchcodec(
    path: str, sample: Sample, resize: Callable[[Tensor], Tensor], options: ReadOptions = WHOLE_VIDEO
) -> FrameStream:
    """Open a video that torchcodec decodes; the same frames are chosen as by `open_video`, which see."""
    device = decoding_device()
    make_source = partial(TorchcodecFrames, device=device)
    threads = 8 if device == "cpu" else 1  # a GPU's video hardware is fed by one thread
    stream = open_video(path, sample, resize, replace(options, reader="torchcodec"), make_source, threads)
    if device != "cpu":
        stream.about.facts["decoded_on"] = device
    return stream


def decoding_device() -> str:
    """Return the GPU of this process, or "cpu" if there is none or this is a data loader's worker."""
    if get_worker_info() is not None or not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{torch.cuda.current_device()}"


class TorchcodecFrames:
    """One thread's reader of a file, forwards only (a `FrameSource`).

    torchcodec takes the times of frames and key frames from the index, so that it need not read the whole file first.

    Args:
        index: frame index of the file.
        wanted: unused; torchcodec cannot be told which frames to leave out.
        square_pixels: whether to stretch pixels that are not square, as players do.
        device: where frames are decoded and stay.

    Raises:
        ReaderError: if torchcodec cannot read the file.
    """

    def __init__(
        self, index: FrameIndex, wanted: frozenset[int], square_pixels: bool = True, device: str = "cpu"
    ) -> None:
        self._index, self._square_pixels = index, square_pixels
        track = find_track(index, "torchcodec")
        if not index.has_timestamps and track.reorders:
            raise refused("torchcodec", "frames without timestamps are not in the order that they are shown in")
        known = _mapping(index) if index.has_timestamps else None
        try:
            self._decoder = VideoDecoder(
                index.path,
                stream_index=track.number,
                dimension_order="NHWC",
                num_ffmpeg_threads=1,  # one decoder per thread costs less than threads inside a decoder
                device=device,
                custom_frame_mappings=known,
            )
        except ERRORS as error:
            raise refused("torchcodec", f"it says {in_words(error)}") from error
        if known is None and len(self._decoder) != len(index.times):
            reason = f"it counts {len(self._decoder)} frames where the file shows {len(index.times)}"
            raise refused("torchcodec", reason)
        self._turns = round(-(self._decoder.metadata.rotation or 0) / 90) % 4

    def frame(self, time: int) -> Tensor:
        """Return the frame at a timestamp, uint8 [h, w, 3] on the device; timestamps only increase.

        Raises:
            DecodingError: if torchcodec cannot decode it, or returns a frame of another time.
        """
        index, number = self._index, position(self._index, time)
        try:
            picture = self._decoder.get_frame_at(number)
            if self._shift(picture, number) > 0:
                picture = self._approach(number)
        except ERRORS as error:
            raise DecodingError(f"torchcodec: {in_words(error)}; --data.reader pyav may read more") from error
        if self._shift(picture, number):
            reason = f"it returns the frame at {picture.pts_seconds - index.starts_at:.3f} seconds"
            raise refused("torchcodec", f"{reason} instead of {index.seconds[number]:.3f}")
        return to_shown(picture.data, index, self._square_pixels, self._turns)

    def _shift(self, picture: Frame, number: int) -> float:
        """Return by how many seconds a picture comes after the frame with a number; 0 if it is that frame."""
        shift = picture.pts_seconds - self._index.seconds[number] - self._index.starts_at
        return shift if abs(shift) > MAX_SHIFT / self._index.true_rate else 0.0

    def _approach(self, number: int) -> Frame:
        """Return a frame that seeking goes past, since a file is sought by decoding times, which are earlier.

        It is reached one frame after another from an earlier key frame, which needs no seeking.
        """
        keys = [position(self._index, key) for key in self._index.key_times]
        for key in reversed(keys[: bisect_right(keys, number)]):
            picture = self._decoder.get_frame_at(key)
            if not self._shift(picture, key):
                break
        for following in range(key + 1, number + 1):
            picture = self._decoder.get_frame_at(following)
        return picture

    def close(self) -> None:
        """Close the file."""
        del self._decoder


def _mapping(index: FrameIndex) -> str:
    """Return the index as torchcodec takes it: all frames with their lengths, in ticks, and which are key frames."""
    keys, following = {*index.key_times}, [*index.times[1:], index.times[-1] + 1]
    frames = [
        {"pts": time, "duration": end - time, "key_frame": int(time in keys)}
        for time, end in zip(index.times, following)
    ]
    return json.dumps({"frames": frames})
