"""Render the training and validation videos of the demo's selector.

python checkpoints/demo/render.py outputs/demo_selector
"""

import sys
from pathlib import Path

from datamodules.needles import write_needle_videos

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    write_needle_videos(folder / "train", videos=300, patches=64, needles=4, questions=8, seed=11)
    write_needle_videos(folder / "val", videos=12, patches=64, needles=4, questions=4, seed=12)
