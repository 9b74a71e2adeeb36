"""The four benchmarks as tasks of lmms-eval: prompts, lengths, rules and metrics of the released evaluation.

The definitions are in `datamodules.benchmarks`; the YAML files in this folder name these functions.
"""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from datamodules.benchmarks.format import BenchmarkFormat
from datamodules.benchmarks.longvideobench import LongVideoBenchFormat
from datamodules.benchmarks.lvbench import LVBenchFormat
from datamodules.benchmarks.mlvu import MLVUFormat
from datamodules.benchmarks.videomme import VideoMMEFormat
from flexselect.evaluation.statistics import accuracy

FOLDERS: dict[type[BenchmarkFormat], str] = {
    VideoMMEFormat: "videomme",
    MLVUFormat: "mlvu",
    LVBenchFormat: "lvbench",
    LongVideoBenchFormat: "datasets/longvideobench",
}
Doc = dict[str, Any]
Options = dict[str, Any] | None  # lmms_eval_specific_kwargs of the YAML file


@cache
def _format(kind: type[BenchmarkFormat], llava_video: bool = False, with_subtitles: bool = False) -> BenchmarkFormat:
    """Make a benchmark format whose videos are in lmms-eval's folder."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    more: dict[str, Any] = {"with_subtitles": True} if with_subtitles else {}
    return kind(home / FOLDERS[kind], "paper", llava_video, **more)


def _functions(kind: type[BenchmarkFormat]) -> tuple[Callable, Callable, Callable]:
    """Make the functions for text, video and result of a document that a task names."""

    def text(doc: Doc, options: Options = None) -> str:
        chosen = {name: bool((options or {}).get(name)) for name in ("llava_video", "with_subtitles")}
        return _format(kind, **chosen).to_question(doc).text

    def video(doc: Doc) -> list[str]:
        benchmark = _format(kind)
        return [str(benchmark.root / benchmark.to_question(doc).video)]

    def result(doc: Doc, results: list[str]) -> dict[str, Any]:
        question, answer = _format(kind).to_question(doc), results[0]
        group = dict(question.groups).get(kind.macro or "", "")
        right = {"right": question.is_right(answer), "group": group}
        return {"accuracy": right, "unparsed": float(question.chosen(answer) is None)}

    return text, video, result


videomme_text, videomme_video, videomme_result = _functions(VideoMMEFormat)
mlvu_text, mlvu_video, mlvu_result = _functions(MLVUFormat)
lvbench_text, lvbench_video, lvbench_result = _functions(LVBenchFormat)
longvideobench_text, longvideobench_video, longvideobench_result = _functions(LongVideoBenchFormat)


def mean_of_groups(results: list[Doc]) -> float:
    """Return the accuracy from 0 to 1; with groups (MLVU's types) the mean over the groups."""
    groups: dict[str, list[bool]] = {}
    for result in results:
        groups.setdefault(result["group"], []).append(result["right"])
    return accuracy(groups, macro=True)
