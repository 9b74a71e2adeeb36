"""Average the weights of a checkpoint and of one that was trained from it.

python checkpoints/demo/average.py outputs/two_looks_whole outputs/two_looks_selected 0.75 outputs/two_looks

What was trained last is read better, what was trained before is not forgotten (Wortsman et al. 2022, "Robust
fine-tuning of zero-shot models").
"""

import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"


def average(before: Path, after: Path, share: float, output: Path) -> None:
    """Write a checkpoint whose weights are `share` of those in `after`, and the rest of those in `before`."""
    output.mkdir(parents=True, exist_ok=True)
    for file in before.glob("*.json"):
        shutil.copy(file, output)
    first, last = load_file(before / WEIGHTS), load_file(after / WEIGHTS)
    mixed = {name: (1 - share) * weight + share * last[name] for name, weight in first.items()}
    save_file(mixed, output / WEIGHTS, metadata={"format": "pt"})


if __name__ == "__main__":
    average(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
