"""The four benchmarks as lmms-eval asks of a task: the released evaluation's prompts, lengths, rules and metrics.

All is said once, in `datamodules.benchmarks`; the YAMLs beside name these functions.
"""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from datamodules.benchmarks.base import Benchmark
from datamodules.benchmarks.longvideobench import LongVideoBench
from datamodules.benchmarks.lvbench import LVBench
from datamodules.benchmarks.mlvu import MLVU
from datamodules.benchmarks.videomme import VideoMME
from flexselect.evaluation.statistics import accuracy

FOLDERS = {VideoMME: "videomme", MLVU: "mlvu", LVBench: "lvbench", LongVideoBench: "datasets/longvideobench"}
Doc = dict[str, Any]
Options = dict[str, Any] | None  # lmms_eval_specific_kwargs of the YAML


@cache
def _benchmark(kind: type[Benchmark], llava_video: bool = False, with_subtitles: bool = False) -> Benchmark:
    """Videos lie where lmms-eval puts them."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    benchmark = kind.reader(str(home / FOLDERS[kind]), "paper", llava_video)
    if with_subtitles:
        benchmark.with_subtitles = True
    return benchmark


def _functions(kind: type[Benchmark]) -> tuple[Callable, Callable, Callable]:
    """Text, video and result of a document, as a task names them."""

    def text(doc: Doc, options: Options = None) -> str:
        chosen = {name: bool((options or {}).get(name)) for name in ("llava_video", "with_subtitles")}
        return _benchmark(kind, **chosen).put(doc).text

    def video(doc: Doc) -> list[str]:
        benchmark = _benchmark(kind)
        return [str(benchmark.root / benchmark.put(doc).video)]

    def result(doc: Doc, results: list[str]) -> dict[str, Any]:
        question, answer = _benchmark(kind).put(doc), results[0]
        group = dict(question.groups).get(kind.macro or "", "")
        right = {"right": question.is_right(answer), "group": group}
        return {"accuracy": right, "unparsed": float(question.chosen(answer) is None)}

    return text, video, result


videomme_text, videomme_video, videomme_result = _functions(VideoMME)
mlvu_text, mlvu_video, mlvu_result = _functions(MLVU)
lvbench_text, lvbench_video, lvbench_result = _functions(LVBench)
longvideobench_text, longvideobench_video, longvideobench_result = _functions(LongVideoBench)


def mean_of_groups(results: list[Doc]) -> float:
    """Accuracy from 0 to 1; with groups (MLVU's types) the mean of theirs."""
    groups: dict[str, list[bool]] = {}
    for result in results:
        groups.setdefault(result["group"], []).append(result["right"])
    return accuracy(groups, macro=True)
