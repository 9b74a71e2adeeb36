"""Write every kind of file that a run leaves behind, small, so that later versions can be held to reading them.

python tests/earlier/write.py tests/earlier/0.1        from the root, with the version that the folder is named after
"""

import json
import os
import shutil
import sys
from pathlib import Path

import torch

import cli
from datamodules.needles import write_needle_videos
from flexselect import FlexSelect
from flexselect.storage.feature_cache import FeatureCache

MODEL = "checkpoints/demo/video_llm"
QUESTION = "What colour is the circle?"
TIME = 1_700_000_000  # of the clip's last change, which a feature cache looks at
PLACE = Path("/videos/clip.mp4")  # where that cache believes it to be
SIZES = '{"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16}'


def run(*words: str) -> None:
    """One verb, which must succeed."""
    status = cli.main([*words, "--trainer.enable_progress_bar", "false"])
    assert status == 0, words


def fit(folder: Path) -> list[str]:
    """A small training on the stored scores, but for its length and its folder."""
    words = ["fit", "--config", "configs/demo/train_selector.yaml", "--data.val_annotations", "null"]
    words += ["--data.annotations", str(folder / "annotations.jsonl"), "--data.num_workers", "0"]
    words += ["--data.teacher_scores", str(folder / "scores"), "--data.batch_size", "2"]
    return [*words, "--model.start", "null", "--model.sizes", SIZES, "--trainer.logger", "false"]


def main(folder: Path) -> None:
    """Write all."""
    shutil.rmtree(folder, ignore_errors=True)
    write_needle_videos(folder, videos=1, patches=4, needles=3, questions=4, seed=1)
    clip = (folder / "needles_000.mp4").rename(folder / "clip.mp4")
    rows = folder / "annotations.jsonl"
    rows.write_text(rows.read_text().replace("needles_000.mp4", "clip.mp4"))
    os.utime(clip, (TIME, TIME))
    fs = FlexSelect.from_pretrained(MODEL, selector="self", dtype="float32", device="cpu", budget=12)
    torch.set_num_threads(1)
    session = fs.open(str(clip), keep="scores_kv")
    session.save(folder / "session.safetensors")
    answer = session.ask(QUESTION)
    expected = {"question": QUESTION, "answer": answer.text, "kept": answer.selection.kept.tolist()}
    (folder / "expected.json").write_text(json.dumps(expected))
    Path.resolve = lambda self, strict=False: PLACE  # type: ignore[method-assign]
    FeatureCache(folder / "cache", 1, {"model": "demo"}).put(clip, session.encoded)
    table = ["--data.annotations", str(rows), "--data.num_workers", "0"]
    run("validate", "--config", "configs/demo/self.yaml", *table, "--output_dir", str(folder / "validate"))
    teach = ["--config", "configs/demo/teacher_scores.yaml", *table, "--data.val_annotations", "null"]
    run("predict", *teach, "--output_dir", str(folder / "scores"))
    run(*fit(folder), "--trainer.max_steps", "1", "--output_dir", str(folder / "fit"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
