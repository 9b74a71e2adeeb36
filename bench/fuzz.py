"""Damaged files of every kind that is read: each must give a result, or an error that names the file.

python -m bench.fuzz                 5,000 files, a quarter of an hour on two cores
python -m bench.fuzz --count 200 --kinds video csv --seed 7

A file is damaged by flipped, lost, doubled and inserted bytes, or by odd texts in the right places. What is neither a
result nor such an error (a traceback of another kind, a process that dies, more than a minute) is printed with the
seed that makes it again, and its file is kept under outputs/fuzz.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

KEPT = Path("outputs/fuzz")
TIME = 60  # seconds that a file may take
BATCH = 50  # files that a process reads before the next one begins: one that dies takes no others along
ODD = ["\u2028", "\x00", "\ud83d", '"', "'", "[", "{", "\\", ",", ";", "\n", "\r", "\t", "é", "紫", "null", "NaN", "-1"]
ODD += ["1e999", "[]", "{}", '""', "true", "<|im_end|>", "a" * 5000, "\ufeff", "|", ":", "- ", "#", "%s", "${x}"]

Reader = Callable[[Path], Any]


@dataclass(frozen=True)
class Kind:
    """A kind of file."""

    make: Callable[[Path], list[Path]]  # whole ones in a folder
    read: Reader  # reads one as a user's command would
    text: bool = False  # whether odd texts are put into it


# -- damage


def damaged(data: bytes, rng: np.random.Generator, text: bool) -> bytes:
    """A file with one to four faults; of JSON, every second time one of its values is another."""
    if text and rng.random() < 0.5:
        with suppress(ValueError):
            lines = data.decode().split("\n") if data.count(b"\n{") else [data.decode()]
            place = int(rng.integers(len(lines)))
            changed = json.dumps(_changed(json.loads(lines[place]), rng))
            return "\n".join([*lines[:place], changed, *lines[place + 1 :]]).encode()
    for _ in range(int(rng.integers(1, 5))):
        at, length = int(rng.integers(0, max(1, len(data)))), int(rng.integers(1, 1 + max(1, len(data) // 8)))
        fault = rng.choice(["flip", "cut", "lose", "double", "zero", "noise", *(["odd"] * 6 if text else [])])
        part = data[at : at + length]
        if fault == "cut":
            data = data[:at]
        elif fault == "odd":
            odd = ODD[int(rng.integers(len(ODD)))].encode("utf-8", "surrogatepass")
            data = data[:at] + odd + data[at + int(rng.integers(0, 4)) :]
        else:
            new = {
                "flip": bytes([part[0] ^ 1 << int(rng.integers(8))]) + part[1:] if part else b"",
                "lose": b"",
                "double": part + part,
                "zero": bytes(len(part)),
                "noise": rng.bytes(len(part)),
            }[str(fault)]
            data = data[:at] + new + data[at + length :]
    return data


def _changed(value: Any, rng: np.random.Generator) -> Any:
    """A value with one of its parts replaced, lost or doubled."""
    if isinstance(value, dict | list) and value and rng.random() < 0.9:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = keys[int(rng.integers(len(keys)))]
        if rng.random() < 0.15:
            value.pop(key)
        else:
            value[key] = _changed(value[key], rng)
        return value
    odd = [None, True, -1, 1e308, 10**30, "", "x", [], {}, [None], {"a": {}}, [[1, "b"]], *ODD, float("nan"), value]
    return odd[int(rng.integers(len(odd)))]


# -- what is damaged


def videos(folder: Path) -> list[Path]:
    """Short ones in every container that is common."""
    import av

    made = []
    for name, codec, form in (
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mkv", "libx264", "yuv420p"),
        ("a.ts", "libx264", "yuv420p"),
        ("a.webm", "libvpx", "yuv420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.mov", "libx265", "yuv420p"),
        ("a.gif", "gif", "rgb8"),
        ("b.mp4", "mpeg4", "yuv420p"),
    ):
        made.append(folder / name)
        with av.open(str(made[-1]), "w") as container:
            stream = container.add_stream(codec, rate=10, options={"x265-params": "log-level=none", "g": "8"})
            stream.height, stream.width, stream.pix_fmt = 48, 64, form
            for i in range(24):
                picture = np.random.default_rng(i).integers(0, 255, (12, 16, 3), np.uint8).repeat(4, 0).repeat(4, 1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=form)))
            container.mux(stream.encode())
    return [*made, webp(folder)]


def webp(folder: Path) -> Path:
    """An animated WebP."""
    from PIL import Image

    first, *others = [Image.fromarray(np.full((48, 64, 3), value, np.uint8)) for value in (0, 100, 200)]
    first.save(folder / "a.webp", save_all=True, append_images=others, duration=100)
    return folder / "a.webp"


def read_video_file(path: Path) -> None:
    """Sampled thinly, decoded to its end."""
    from datamodules.video import open_video
    from flexselect.families.inputs import even_frames

    open_video(path, lambda n, fps: even_frames(n, fps, 2.0, 16), lambda frames: frames[:, ::2, ::2]).all_frames()


ROWS = [
    {"id": f"{i}", "video": "a.mp4", "question": "What colour, and why?", "options": ["red", "blue"], "answer": "A"}
    for i in range(4)
]


def tables(kind: str) -> Callable[[Path], list[Path]]:
    """The same rows as JSON, JSONL, CSV or Parquet."""

    def make(folder: Path) -> list[Path]:
        path = folder / f"rows.{kind}"
        if kind == "json":
            path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
        elif kind == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
        elif kind == "csv":
            lines = [f'{row["id"]},{row["video"]},"{row["question"]}",red|blue,A' for row in ROWS]
            path.write_text("\n".join(["id,video,question,options,answer", *lines]), encoding="utf-8")
        else:
            import pyarrow
            from pyarrow.parquet import write_table

            write_table(pyarrow.Table.from_pylist(ROWS), path)
        return [path]

    return make


def read_table(path: Path) -> None:
    """For predict, and for fit."""
    from datamodules.rows.questions import read_annotations

    for question in read_annotations(str(path)):
        assert question.error or question.text is not None
        question.text.encode()  # a tokenizer takes it


def conversations(folder: Path) -> list[Path]:
    """A training set."""
    turns = [{"from": "human", "value": "<image>\nWhy?"}, {"from": "gpt", "value": "So."}]
    (folder / "train.json").write_text(json.dumps([{"video": "a.mp4", "conversations": turns}] * 3, indent=1))
    parts = "datasets:\n- {json_path: train.json, sampling_strategy: 'first:50%'}\n- {json_path: train.json}\n"
    (folder / "train.yaml").write_text(parts)
    return [folder / "train.json", folder / "train.yaml"]


def read_training_set(path: Path) -> None:
    """As fit does."""
    from datamodules.annotations import read_records

    if path.suffix == ".yaml":
        shutil.copy(SHARED / "training" / "train.json", path.parent / "train.json")
    read_records(str(path))


SHARED = Path(tempfile.gettempdir()) / "flexselect-fuzz-shared"


@cache
def model() -> Any:
    """The demo's, training-free."""
    from flexselect import FlexSelect

    path = str(Path("checkpoints/demo/video_llm").absolute())
    return FlexSelect.from_pretrained(path, selector="self", dtype="float32", device="cpu", budget=9)


def sessions(folder: Path) -> list[Path]:
    """A saved one, with keys and values."""
    import torch

    frames = torch.randint(0, 255, (6, 84, 84, 3), dtype=torch.uint8)
    model().open(frames, [float(i) for i in range(6)], keep="scores_kv").save(folder / "a.session")
    return [folder / "a.session"]


def read_session(path: Path) -> None:
    """Taken up, and asked."""
    model().load_session(path).ask("Which?", max_new_tokens=1)


def checkpoints(folder: Path) -> list[Path]:
    """A selector's files."""
    for file in Path("checkpoints/demo/selector").iterdir():
        shutil.copy(file, folder / file.name)
    return [folder / "model.safetensors", folder / "config.json"]


def read_checkpoint(path: Path) -> None:
    """A selector of which one file is damaged."""
    from flexselect import LiteSelector

    other = {"model.safetensors": "config.json", "config.json": "model.safetensors"}[path.name]
    shutil.copy(Path("checkpoints/demo/selector") / other, path.parent / other)
    LiteSelector.from_pretrained(str(path.parent), dtype="float32")


def families(folder: Path) -> list[Path]:
    """A VideoLLM's files that are text."""
    names = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json")
    for name in names:
        if (Path("checkpoints/demo/video_llm") / name).exists():
            shutil.copy(Path("checkpoints/demo/video_llm") / name, folder / name)
    return sorted(folder.iterdir())


def read_family(path: Path) -> None:
    """What is read of a checkpoint before its weights."""
    from flexselect.families import family_of

    for file in Path("checkpoints/demo/video_llm").iterdir():
        if file.name != path.name:
            (path.parent / file.name).unlink(missing_ok=True)
            (path.parent / file.name).symlink_to(file.absolute())
    family_of(str(path.parent)).prompter().query_ids("Which?")


def stores(folder: Path) -> list[Path]:
    """Teacher scores."""
    import torch

    from flexselect.storage.score_store import ScoreStore

    store = ScoreStore.create(folder, {"family": "x", "layer": 2})
    writer = store.writer(0)
    for i in range(4):
        writer.add(f"clip-{i}", torch.rand(30) + 0.1)
    writer.fail("clip-4", "is broken")
    return [folder / name for name in ("settings.json", "index-0.jsonl", "scores-0.f16")]


def read_store(path: Path) -> None:
    """Every clip of a store of which one file is damaged."""
    from flexselect.storage.score_store import ScoreStore

    stores_beside(path)
    store = ScoreStore(path.parent)
    store.match({"family": "x", "layer": 2})
    for key in store.scored:
        assert len(store.read(key)) >= 0


def stores_beside(path: Path) -> None:
    """The other files of a store, whole."""
    for file in (SHARED / "store").iterdir():
        if file.name != path.name:
            shutil.copy(file, path.parent / file.name)


def runs(folder: Path) -> list[Path]:
    """What `validate` writes."""
    rows = [
        {"id": str(i), "video": "a.mp4", "question": "Q?", "answer": "A", "error": None, "correct": i % 2 == 0}
        | {"parsed": "A", "multiple_choice": True, "groups": {}, "num_kept_tokens": 3, "num_visual_tokens": 9}
        for i in range(4)
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = {"accuracy": 0.5, "interval": None, "errors": 0, "unparsed": 0, "settings": {"a": 1}, "fingerprint": {}}
    (folder / "results.json").write_text(json.dumps(results, indent=1))
    (folder / "settings.json").write_text(json.dumps({"a": 1, "b": {"c": 2}}, indent=1))
    return [folder / name for name in ("predictions.jsonl", "results.json", "settings.json")]


def read_run(path: Path) -> None:
    """Gone on with, and compared with a whole one."""
    from flexselect.evaluation.comparison import compare
    from flexselect.evaluation.results import merge_predictions, read_predictions
    from flexselect.storage.run_settings import check_settings

    for file in (SHARED / "run").iterdir():
        if file.name != path.name:
            shutil.copy(file, path.parent / file.name)
    check_settings(path.parent / "settings.json", {"a": 1, "b": {"c": 2}}, "answers of a run")
    compare(str(path.parent), str(SHARED / "run"))
    before = read_predictions(path.parent)
    merge_predictions(path.parent, before)
    assert read_predictions(path.parent) == before, "nothing lost"


def configs(folder: Path) -> list[Path]:
    """Of the command line, and an experiment."""
    text = Path("configs/demo/self.yaml").read_text().replace("checkpoints/", f"{Path.cwd()}/checkpoints/")
    (folder / "self.yaml").write_text(text)
    (folder / "plan.yaml").write_text(f"configs: [{folder}/self.yaml]\nruns:\n  one: {{model.budget: 3}}\n  two:\n")
    return [folder / "self.yaml", folder / "plan.yaml"]


def read_config(path: Path) -> None:
    """Up to where annotations are looked for, which are not there."""
    import cli

    verb = "experiment" if path.name == "plan.yaml" else "predict"
    words = [verb, "--config", str(path), "--data.annotations", "nowhere.jsonl", "--output_dir", str(path.parent / "o")]
    try:
        status = cli.main(words)
    except SystemExit as stop:  # the parser's own
        status = stop.code
    assert status in (1, 2), f"status {status}"
    raise NamedError(str(path))


class NamedError(ValueError):
    """An error that was told on the terminal."""


KINDS = {
    "video": Kind(videos, read_video_file),
    "json": Kind(tables("json"), read_table, True),
    "jsonl": Kind(tables("jsonl"), read_table, True),
    "csv": Kind(tables("csv"), read_table, True),
    "parquet": Kind(tables("parquet"), read_table),
    "training": Kind(conversations, read_training_set, True),
    "session": Kind(sessions, read_session),
    "selector": Kind(checkpoints, read_checkpoint, True),
    "family": Kind(families, read_family, True),
    "store": Kind(stores, read_store, True),
    "run": Kind(runs, read_run, True),
    "config": Kind(configs, read_config, True),
}
SLOW = ("config", "session", "selector", "family")  # a tenth of the files


# -- one file after another


def outcome(kind: str, seed: int, folder: Path) -> str:
    """What became of a damaged file: "result", "named error", or what is wrong."""
    rng = np.random.default_rng([seed, *kind.encode()])
    originals = [SHARED / kind / name for name in json.loads((SHARED / f"{kind}.json").read_text())]
    original = originals[int(rng.integers(len(originals)))]
    path = folder / original.name
    path.write_bytes(damaged(original.read_bytes(), rng, KINDS[kind].text))
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(TIME)
    try:
        KINDS[kind].read(path)
        return "result"
    except TimeoutError:
        return f"more than {TIME} s"
    except (ValueError, OSError) as error:
        where = (str(path), str(path.parent), path.name)
        named = any(name in str(error) for name in where)
        return "named error" if named else f"unnamed: {type(error).__name__}: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}\n{''.join(traceback.format_tb(error.__traceback__)[-3:])}"
    finally:
        signal.alarm(0)


def _too_long(*_: Any) -> None:
    raise TimeoutError


def prepare(kinds: list[str]) -> None:
    """Whole files of every kind, once."""
    shutil.rmtree(SHARED, ignore_errors=True)
    for kind in kinds:
        (SHARED / kind).mkdir(parents=True)
        (SHARED / f"{kind}.json").write_text(json.dumps([file.name for file in KINDS[kind].make(SHARED / kind)]))


def run_some(jobs: list[tuple[str, int]], pipe: Any, quiet: bool = True) -> None:
    """In a process of its own: say what is begun, and what became of it."""
    if quiet:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
    for kind, seed in jobs:
        pipe.send((kind, seed, None))
        with tempfile.TemporaryDirectory() as folder:
            result = outcome(kind, seed, Path(folder))
            if result not in ("result", "named error"):
                keep = KEPT / f"{kind}-{seed}"
                keep.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(folder, keep, dirs_exist_ok=True, symlinks=True)
        pipe.send((kind, seed, result))


def fuzz(jobs: list[tuple[str, int]], processes: int = 2) -> dict[tuple[str, int], str]:
    """What became of each file."""
    context = multiprocessing.get_context("spawn")
    result: dict[tuple[str, int], str] = {}
    batches = [jobs[i : i + BATCH] for i in range(0, len(jobs), BATCH)]
    running: list[tuple[Any, Any, list]] = []
    while batches or running:
        while batches and len(running) < processes:
            actual, expected = context.Pipe()
            batch = batches.pop(0)
            process = context.Process(target=run_some, args=(batch, expected))
            process.start()
            expected.close()
            running.append((process, actual, batch))
        for entry in list(running):
            process, pipe, batch = entry
            try:
                while pipe.poll(0.05):
                    kind, seed, output = pipe.recv()
                    result[kind, seed] = "began" if output is None else output
            except EOFError:
                process.join()
                running.remove(entry)
                dead = [job for job in batch if result.get(job) == "began"]
                result |= dict.fromkeys(dead, f"the process died with {process.exitcode}")
                left = [job for job in batch if job not in result]
                if left:
                    batches.append(left)
    return result


def main() -> None:
    """Damage files, count what becomes of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    prepare(arguments.kinds)
    quick = [kind for kind in arguments.kinds if kind not in SLOW] or arguments.kinds
    slow = [kind for kind in arguments.kinds if kind in SLOW and kind not in quick]
    kinds = [
        slow[i // 10 % len(slow)] if slow and i % 10 == 0 else quick[i % len(quick)] for i in range(arguments.count)
    ]
    result = fuzz([(kind, arguments.seed + i) for i, kind in enumerate(kinds)], arguments.processes)
    fine = ("result", "named error")
    table = Counter((kind, output if output in fine else "wrong") for (kind, _), output in result.items())
    sys.stdout.write(f"{'kind':10}{'files':>8}{'results':>9}{'named errors':>14}{'wrong':>7}\n")
    for kind in arguments.kinds:
        counts = [table[kind, output] for output in ("result", "named error", "wrong")]
        sys.stdout.write(f"{kind:10}{sum(counts):8}{counts[0]:9}{counts[1]:14}{counts[2]:7}\n")
    wrong = {job: output for job, output in result.items() if output not in ("result", "named error")}
    for (kind, seed), output in sorted(wrong.items()):
        sys.stdout.write(f"\n{kind} {seed} ({KEPT}/{kind}-{seed}): {output}\n")
    sys.stdout.write(f"{len(result)} files, {len(wrong)} wrong\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
