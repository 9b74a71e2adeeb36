"""Write frames to an H.264 mp4."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

OPTIONS: dict[str, object] = {
    "crf": "18",
    "preset": "veryfast",
    "x264-params": "cpu-independent=1",
}  # makes the same file on every machine


def write_video(path: str | Path, chunks: Iterable[np.ndarray], fps: int | Fraction) -> None:
    """Write frames one chunk at a time; chunks are uint8 [t, h, w, 3] with even h and w."""
    import av  # imported here because only writing needs an encoder

    with av.open(str(path), "w") as container:
        stream = None
        for chunk in chunks:
            for frame in chunk:
                if stream is None:
                    stream = container.add_stream("libx264", rate=fps)
                    stream.height, stream.width = frame.shape[:2]
                    stream.pix_fmt, stream.options = "yuv420p", OPTIONS
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        if stream is not None:
            container.mux(stream.encode())
