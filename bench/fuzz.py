"""Read damaged files of every kind: each must give a result, or an error that names the file.

python -m bench.fuzz                 5,000 files, a quarter of an hour on two cores
python -m bench.fuzz --count 200 --kinds video csv --seed 7

A file is damaged by flipped, lost, doubled and inserted bytes, or by odd texts in the right places. Everything else is
wrong: another exception, a process that dies, more than a minute. Wrong cases are printed with the seed that reproduces
them, and their files are kept under outputs/fuzz.
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
TIME = 60  # most seconds per file
BATCH = 50  # files per process; a process that dies affects only the file it reads
FINE = ("result", "named error")  # outcomes that are right
ODD = ["\u2028", "\x00", "\ud83d", '"', "'", "[", "{", "\\", ",", ";", "\n", "\r", "\t", "é", "紫", "null", "NaN", "-1"]
ODD += ["1e999", "[]", "{}", '""', "true", "<|im_end|>", "a" * 5000, "\ufeff", "|", ":", "- ", "#", "%s", "${x}"]

Reader = Callable[[Path], Any]


@dataclass(frozen=True)
class Kind:
    """A kind of file: how to make and how to read it."""

    make: Callable[[Path], list[Path]]  # writes undamaged files into a folder and returns them
    read: Reader  # reads a file as a user's command does
    text: bool = False  # whether odd texts are inserted


# -- damage


def damage(data: bytes, rng: np.random.Generator, text: bool) -> bytes:
    """Add one to four faults to the bytes of a file.

    Args:
        data: content of the file.
        rng: chooses the faults.
        text: whether the file is text. Then odd texts are inserted too, and every second JSON file gets one changed
            value instead of faults.
    """
    if text and rng.random() < 0.5:
        with suppress(ValueError):
            lines = data.decode().split("\n") if data.count(b"\n{") else [data.decode()]
            place = int(rng.integers(len(lines)))
            changed = json.dumps(_change(json.loads(lines[place]), rng))
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


def _change(value: Any, rng: np.random.Generator) -> Any:
    """Replace or remove one part of a JSON value."""
    if isinstance(value, dict | list) and value and rng.random() < 0.9:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = keys[int(rng.integers(len(keys)))]
        if rng.random() < 0.15:
            value.pop(key)
        else:
            value[key] = _change(value[key], rng)
        return value
    odd = [None, True, -1, 1e308, 10**30, "", "x", [], {}, [None], {"a": {}}, [[1, "b"]], *ODD, float("nan"), value]
    return odd[int(rng.integers(len(odd)))]


# -- kinds of files: how to make and how to read them


def videos(folder: Path) -> list[Path]:
    """Write short videos in every common container."""
    import av

    paths = []
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
        paths.append(folder / name)
        with av.open(str(paths[-1]), "w") as container:
            stream = container.add_stream(codec, rate=10, options={"x265-params": "log-level=none", "g": "8"})
            stream.height, stream.width, stream.pix_fmt = 48, 64, form
            for i in range(24):
                picture = np.random.default_rng(i).integers(0, 255, (12, 16, 3), np.uint8).repeat(4, 0).repeat(4, 1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=form)))
            container.mux(stream.encode())
    return [*paths, webp(folder)]


def webp(folder: Path) -> Path:
    """Write an animated WebP."""
    from PIL import Image

    first, *others = [Image.fromarray(np.full((48, 64, 3), value, np.uint8)) for value in (0, 100, 200)]
    first.save(folder / "a.webp", save_all=True, append_images=others, duration=100)
    return folder / "a.webp"


def read_video_file(path: Path) -> None:
    """Decode at most 16 frames, spread over the whole video."""
    from datamodules.video import open_video
    from flexselect.families.inputs import even_frames

    open_video(path, lambda n, fps: even_frames(n, fps, 2.0, 16), lambda frames: frames[:, ::2, ::2]).all_frames()


ROWS = [
    {"id": f"{i}", "video": "a.mp4", "question": "What colour, and why?", "options": ["red", "blue"], "answer": "A"}
    for i in range(4)
]


def tables(kind: str) -> Callable[[Path], list[Path]]:
    """Return a function that writes the rows as JSON, JSONL, CSV or Parquet."""

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
    """Read a table of questions."""
    from datamodules.rows.questions import read_annotations

    for question in read_annotations(str(path)):
        assert question.error or question.text is not None
        question.text.encode()  # must be valid Unicode, because a tokenizer reads it


def conversations(folder: Path) -> list[Path]:
    """Write a training set of conversations and a YAML that mixes it."""
    turns = [{"from": "human", "value": "<image>\nWhy?"}, {"from": "gpt", "value": "So."}]
    (folder / "train.json").write_text(json.dumps([{"video": "a.mp4", "conversations": turns}] * 3, indent=1))
    parts = "datasets:\n- {json_path: train.json, sampling_strategy: 'first:50%'}\n- {json_path: train.json}\n"
    (folder / "train.yaml").write_text(parts)
    return [folder / "train.json", folder / "train.yaml"]


def read_training_set(path: Path) -> None:
    """Read a training set as `fit` does."""
    from datamodules.annotations import read_records

    if path.suffix == ".yaml":
        shutil.copy(SHARED / "training" / "train.json", path.parent / "train.json")
    read_records(str(path))


SHARED = Path(tempfile.gettempdir()) / "flexselect-fuzz-shared"


@cache
def model() -> Any:
    """Load the demo's model, training-free."""
    from flexselect import FlexSelect

    path = str(Path("checkpoints/demo/video_llm").absolute())
    return FlexSelect.from_pretrained(path, selector="self", dtype="float32", device="cpu", budget=9)


def sessions(folder: Path) -> list[Path]:
    """Save a session with keys and values."""
    import torch

    frames = torch.randint(0, 255, (6, 84, 84, 3), dtype=torch.uint8)
    model().open(frames, [float(i) for i in range(6)], keep="scores_kv").save(folder / "a.session")
    return [folder / "a.session"]


def read_session(path: Path) -> None:
    """Load a session and ask a question."""
    model().load_session(path).ask("Which?", max_new_tokens=1)


def checkpoints(folder: Path) -> list[Path]:
    """Copy a selector's files."""
    for file in Path("checkpoints/demo/selector").iterdir():
        shutil.copy(file, folder / file.name)
    return [folder / "model.safetensors", folder / "config.json"]


def read_checkpoint(path: Path) -> None:
    """Load a selector with one damaged file."""
    from flexselect import LiteSelector

    whole = {"model.safetensors": "config.json", "config.json": "model.safetensors"}[path.name]
    shutil.copy(Path("checkpoints/demo/selector") / whole, path.parent / whole)
    LiteSelector.from_pretrained(str(path.parent), dtype="float32")


def families(folder: Path) -> list[Path]:
    """Copy the text files of a VideoLLM's checkpoint."""
    names = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json")
    for name in names:
        if (Path("checkpoints/demo/video_llm") / name).exists():
            shutil.copy(Path("checkpoints/demo/video_llm") / name, folder / name)
    return sorted(folder.iterdir())


def read_family(path: Path) -> None:
    """Read the parts of a checkpoint that are read before its weights."""
    from flexselect.families import family_of

    for file in Path("checkpoints/demo/video_llm").iterdir():
        if file.name != path.name:
            (path.parent / file.name).unlink(missing_ok=True)
            (path.parent / file.name).symlink_to(file.absolute())
    family_of(str(path.parent)).prompter().query_ids("Which?")


def stores(folder: Path) -> list[Path]:
    """Write a store of teacher scores."""
    import torch

    from flexselect.storage.score_store import ScoreStore

    store = ScoreStore.create(folder, {"family": "x", "layer": 2})
    writer = store.writer(0)
    for i in range(4):
        writer.add(f"clip-{i}", torch.rand(30) + 0.1)
    writer.fail("clip-4", "is broken")
    return [folder / name for name in ("settings.json", "index-0.jsonl", "scores-0.f16")]


def read_store(path: Path) -> None:
    """Read every clip of a store with one damaged file."""
    from flexselect.storage.score_store import ScoreStore

    copy_whole_store(path)
    store = ScoreStore(path.parent)
    store.match({"family": "x", "layer": 2})
    for key in store.scored:
        assert len(store.read(key)) >= 0


def copy_whole_store(path: Path) -> None:
    """Copy the other, undamaged files of a store next to the damaged one."""
    for file in (SHARED / "store").iterdir():
        if file.name != path.name:
            shutil.copy(file, path.parent / file.name)


def runs(folder: Path) -> list[Path]:
    """Write the files that `validate` writes."""
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
    """Resume a run with one damaged file, and compare it with an undamaged run."""
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
    """Write a config of the command line and an experiment."""
    text = Path("configs/demo/self.yaml").read_text().replace("checkpoints/", f"{Path.cwd()}/checkpoints/")
    (folder / "self.yaml").write_text(text)
    (folder / "plan.yaml").write_text(f"configs: [{folder}/self.yaml]\nruns:\n  one: {{model.budget: 3}}\n  two:\n")
    return [folder / "self.yaml", folder / "plan.yaml"]


def read_config(path: Path) -> None:
    """Run a command with a config; at the latest it fails because the annotations do not exist."""
    import cli

    verb = "experiment" if path.name == "plan.yaml" else "predict"
    words = [verb, "--config", str(path), "--data.annotations", "nowhere.jsonl", "--output_dir", str(path.parent / "o")]
    try:
        status = cli.main(words)
    except SystemExit as stop:  # from the parser
        status = stop.code
    assert status in (1, 2), f"status {status}"
    raise NamedError(str(path))


class NamedError(ValueError):
    """An error that a command printed."""


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
SLOW = ("config", "session", "selector", "family")  # together a tenth of the files


# -- one file after another


def outcome(kind: str, seed: int, folder: Path) -> str:
    """Damage a file and read it.

    Args:
        kind: a key of `KINDS`.
        seed: chooses the file and the damage.
        folder: empty folder for the damaged file.

    Returns:
        "result", "named error", or a description of what is wrong.
    """
    rng = np.random.default_rng([seed, *kind.encode()])
    originals = [SHARED / kind / name for name in json.loads((SHARED / f"{kind}.json").read_text())]
    original = originals[int(rng.integers(len(originals)))]
    path = folder / original.name
    path.write_bytes(damage(original.read_bytes(), rng, KINDS[kind].text))
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(TIME)
    try:
        KINDS[kind].read(path)
        return "result"
    except TimeoutError:
        return f"more than {TIME} s"
    except (ValueError, OSError) as error:
        named = any(name in str(error) for name in (str(path), str(path.parent), path.name))
        return "named error" if named else f"unnamed: {type(error).__name__}: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}\n{''.join(traceback.format_tb(error.__traceback__)[-3:])}"
    finally:
        signal.alarm(0)


def _too_long(*_: Any) -> None:
    raise TimeoutError


def prepare(kinds: list[str]) -> None:
    """Write the undamaged files of some kinds into `SHARED`."""
    shutil.rmtree(SHARED, ignore_errors=True)
    for kind in kinds:
        (SHARED / kind).mkdir(parents=True)
        (SHARED / f"{kind}.json").write_text(json.dumps([file.name for file in KINDS[kind].make(SHARED / kind)]))


def run_some(jobs: list[tuple[str, int]], pipe: Any, quiet: bool = True) -> None:
    """Read some damaged files in a child process.

    Args:
        jobs: kind and seed of each file.
        pipe: receives kind, seed and None before a file is read, then kind, seed and outcome.
        quiet: discard everything that the process prints.
    """
    if quiet:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
    for kind, seed in jobs:
        pipe.send((kind, seed, None))
        with tempfile.TemporaryDirectory() as folder:
            result = outcome(kind, seed, Path(folder))
            if result not in FINE:
                keep = KEPT / f"{kind}-{seed}"
                keep.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(folder, keep, dirs_exist_ok=True, symlinks=True)
        pipe.send((kind, seed, result))


def fuzz(jobs: list[tuple[str, int]], processes: int = 2) -> dict[tuple[str, int], str]:
    """Read damaged files in several processes.

    Args:
        jobs: kind and seed of each file.
        processes: number of processes.

    Returns:
        The outcome of each job, as from `outcome`.
    """
    context = multiprocessing.get_context("spawn")
    outcomes: dict[tuple[str, int], str] = {}
    batches = [jobs[i : i + BATCH] for i in range(0, len(jobs), BATCH)]
    running: list[tuple[Any, Any, list]] = []
    while batches or running:
        while batches and len(running) < processes:
            receiver, sender = context.Pipe()
            batch = batches.pop(0)
            process = context.Process(target=run_some, args=(batch, sender))
            process.start()
            sender.close()
            running.append((process, receiver, batch))
        for entry in list(running):
            process, pipe, batch = entry
            try:
                while pipe.poll(0.05):
                    kind, seed, result = pipe.recv()
                    outcomes[kind, seed] = "began" if result is None else result
            except EOFError:
                process.join()
                running.remove(entry)
                dead = [job for job in batch if outcomes.get(job) == "began"]
                outcomes |= dict.fromkeys(dead, f"the process died with {process.exitcode}")
                left = [job for job in batch if job not in outcomes]
                if left:
                    batches.append(left)
    return outcomes


def main() -> None:
    """Damage and read files; print how many of each kind gave which outcome."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    prepare(options.kinds)
    quick = [kind for kind in options.kinds if kind not in SLOW] or options.kinds
    slow = [kind for kind in options.kinds if kind in SLOW and kind not in quick]
    kinds = [slow[i // 10 % len(slow)] if slow and i % 10 == 0 else quick[i % len(quick)] for i in range(options.count)]
    outcomes = fuzz([(kind, options.seed + i) for i, kind in enumerate(kinds)], options.processes)
    table = Counter((kind, result if result in FINE else "wrong") for (kind, _), result in outcomes.items())
    sys.stdout.write(f"{'kind':10}{'files':>8}{'results':>9}{'named errors':>14}{'wrong':>7}\n")
    for kind in options.kinds:
        counts = [table[kind, result] for result in (*FINE, "wrong")]
        sys.stdout.write(f"{kind:10}{sum(counts):8}{counts[0]:9}{counts[1]:14}{counts[2]:7}\n")
    wrong = {job: result for job, result in outcomes.items() if result not in FINE}
    for (kind, seed), result in sorted(wrong.items()):
        sys.stdout.write(f"\n{kind} {seed} ({KEPT}/{kind}-{seed}): {result}\n")
    sys.stdout.write(f"{len(outcomes)} files, {len(wrong)} wrong\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
