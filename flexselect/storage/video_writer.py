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


def write_video(
    path: str | Path, chunks: Iterable[np.ndarray], fps: int | Fraction, key_distance: int | None = None
) -> None:
    """Write frames one chunk at a time.

    Args:
        path: the file.
        chunks: uint8 [t, h, w, 3] with even h and w.
        fps: frames per second.
        key_distance: frames from one key frame to the next; None: the encoder decides.
    """
    import av  # imported here because only writing needs an encoder

    options = dict(OPTIONS)
    if key_distance is not None:
        keys = f"keyint={key_distance}:min-keyint={key_distance}:scenecut=0"
        options["x264-params"] = f"{OPTIONS['x264-params']}:{keys}"
    with av.open(str(path), "w") as container:
        stream = None
        for chunk in chunks:
            for frame in chunk:
                if stream is None:
                    stream = container.add_stream("libx264", rate=fps)
                    stream.height, stream.width = frame.shape[:2]
                    stream.pix_fmt, stream.options = "yuv420p", options
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        if stream is not None:
            container.mux(stream.encode())
