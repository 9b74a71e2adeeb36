"""Pictures decoded by decord 0.6, whose known faults are avoided, or are errors that name them.

- It counts the frames of a file by itself. If it counts others than the index, or at other times, the file is refused.
- It takes a key frame's number in decoding order for its number when shown, so it returns wrong frames after seeking
  in open GOPs (HEVC's default). It also does in files whose times do not begin at 0 (fragmented MP4). Such files are
  read in order from their start: right, but slower.
- It repeats frames that it cannot decode, in silence. Here that is an error.
- It knows no AV1, and cannot choose a track.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from datamodules.readers.stored_video import find_track, in_words, position, refused, to_shown, turned
from datamodules.video import open_video
from datamodules.video_files.decoding import DecodingError
from datamodules.video_files.frame_index import FrameIndex
from flexselect.structures.frames import WHOLE_VIDEO, FrameStream, ReadOptions, Sample

try:
    import decord
except (ImportError, OSError) as error:
    raise ImportError(
        "decord is not installed, or not made for this machine (it has wheels for Linux and Windows on x86-64): "
        "--data.reader pyav reads the same frames"
    ) from error

NO_REPEATED_FRAME = 1e-9  # decord's `fault_tol`: the share of frames that it may repeat; 0 would mean any
MAX_SHIFT = 0.25  # of a frame's length, between decord's times and those of the index
ERRORS = (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, IndexError)


def open_with_decord(
    path: str, sample: Sample, resize: Callable[[Tensor], Tensor], options: ReadOptions = WHOLE_VIDEO
) -> FrameStream:
    """Open a video that decord decodes; the same frames are chosen as by `open_video`, which see."""
    return open_video(path, sample, resize, replace(options, reader="decord"), DecordFrames, max_threads=1)


class DecordFrames:
    """Reader of a file, forwards only (a `FrameSource`).

    Args:
        index: frame index of the file.
        wanted: unused; decord cannot be told which frames to leave out.
        square_pixels: whether to stretch pixels that are not square, as players do.

    Raises:
        ReaderError: if decord cannot read the file, or would read other frames.
    """

    def __init__(self, index: FrameIndex, wanted: frozenset[int], square_pixels: bool = True) -> None:
        self._index, self._square_pixels = index, square_pixels
        track = find_track(index, "decord")
        if "av1" in index.codec:  # also FFmpeg's libdav1d
            raise refused("decord", "it does not know AV1")
        if index.moving_tracks > 1:
            raise refused("decord", "it cannot choose a track")
        if index.matrix is not None and "mp4" not in track.container:
            raise refused("decord", "it does not tell how the picture is turned")
        threads = 1 if get_worker_info() else 0  # 0: as many as there are cores
        try:
            self._reader = decord.VideoReader(index.path, num_threads=threads, fault_tol=NO_REPEATED_FRAME)
        except ERRORS as error:
            raise refused("decord", f"it says {in_words(error)}") from error
        self._check_frames()
        self._next = 0  # number of the frame that decord decodes next
        keys = [position(index, time) for time in index.key_times]
        self._seeks = index.seekable and index.times[0] == 0 and list(self._reader.get_key_indices()) == keys

    def _check_frames(self) -> None:
        """Refuse a file of which decord counts other frames."""
        count, index = len(self._reader), self._index
        if count != len(index.times):
            raise refused("decord", f"it counts {count} frames where the file shows {len(index.times)}")
        if not index.has_timestamps:
            return
        times = self._reader.get_frame_timestamp(range(count))[:, 0].astype(float)
        shift = np.abs(times - times[0] - np.asarray(index.seconds) + index.seconds[0])
        frame = int(shift.argmax())
        if not shift[frame] <= max(MAX_SHIFT / index.true_rate, np.spacing(np.float32(times[-1]))):
            text = f"it shows frame {frame} at {times[frame]:.3g} seconds instead of {index.seconds[frame]:.3g}"
            raise refused("decord", text)

    def frame(self, time: int) -> Tensor:
        """Return the frame at a timestamp, uint8 [h, w, 3]; timestamps only increase.

        Raises:
            DecodingError: if decord cannot decode it.
        """
        number = position(self._index, time)
        try:
            if self._seeks:
                picture = self._reader[number]
            else:
                while self._next < number:
                    self._reader.next()
                    self._next += 1
                picture = self._reader.next()
        except (*ERRORS, StopIteration) as error:
            raise DecodingError(f"decord: {in_words(error)}; --data.reader pyav may read more") from error
        self._next = number + 1
        pixels = torch.from_numpy(picture.asnumpy())
        return to_shown(pixels, self._index, self._square_pixels, turned(self._index.matrix))

    def close(self) -> None:
        """Close the file."""
        del self._reader
