"""Makes the small set of the released code's numbers, which lies here, of the large one: `python shrink.py LARGE`.

Left out: pixels that the frames give again (their hash is kept), embeddings, the logits of later steps, the gradients
of a training step. All cases stay.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
INPUTS = ("frames_u8", "input_ids", "video_grid_thw")
LEFT_OUT = ("logits_steps_", "llm_position_ids", "set0_position_ids", "set1_position_ids", "set2_position_ids")


def small(tensors: dict) -> dict:
    """Of a case, what is compared; the first step of what continues aligned."""
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(LEFT_OUT)}
    if "aligned_logits_steps_kept" in kept:
        kept["aligned_logits_steps_kept"] = kept["aligned_logits_steps_kept"][:1].clone()
    return kept


def digest(tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def main(large: Path) -> None:
    for family in ("qwen2_5_vl", "llava", "internvl2_5"):
        folder = HERE / family
        shutil.rmtree(folder, ignore_errors=True)
        for part in ("model", "selector"):
            shutil.copytree(large / family / part, folder / part, copy_function=shutil.copyfile)
        for file in sorted((large / family).glob("case_*.json")):
            shutil.copyfile(file, folder / file.name)
        for file in sorted((large / family).glob("case_*.safetensors")):
            save_file(small(load_file(file)), folder / file.name)
        inputs = load_file(large / family / "inputs.safetensors")
        save_file({name: inputs[name] for name in INPUTS if name in inputs}, folder / "inputs.safetensors")
        if "pixels_u8" in inputs:
            (folder / "pixels.json").write_text(json.dumps({"pixels_u8": digest(inputs["pixels_u8"])}))
    shutil.rmtree(HERE / "losses", ignore_errors=True)
    (HERE / "losses").mkdir()
    for file in sorted((large / "losses").glob("case_*")):
        if "train_step" not in file.name:
            shutil.copyfile(file, HERE / "losses" / file.name)
    for path in HERE.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
