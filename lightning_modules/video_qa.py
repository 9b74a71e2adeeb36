"""Answer questions about videos: predict writes answers, validate also counts the right ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import torch
from lightning import LightningModule
from torchmetrics import MeanMetric

from flexselect.attention.probe import resolve_reduction
from flexselect.contracts import QuestionItem, QuestionSource
from flexselect.engine.answer_engines import find_answer_engine
from flexselect.evaluation.grounding import ground, part_read
from flexselect.evaluation.questions import VideoQuestion, with_option
from flexselect.evaluation.results import NOTHING_EXPECTED
from flexselect.families.base import VideoFamily
from flexselect.loading.fingerprint import package_versions, weights_hash
from flexselect.options import AskingOptions, Options, check_names, option_names, options_that_change_answers
from flexselect.pipeline import FlexSelect, VideoSession
from flexselect.scoring.factory import check_options, check_selector, is_trained
from flexselect.storage.feature_cache import FeatureCache
from flexselect.structures.answer import Answer
from flexselect.structures.frames import ReadOptions
from flexselect.validation import raise_if_lost
from lightning_modules.metrics.grounding import GroundingMetrics


class VideoQA(LightningModule):
    """Module that answers one question per step with the large VideoLLM and selected tokens.

    The model is loaded when a run begins, so a mistyped option costs no loading time. It is not a submodule: a model
    that is spread over GPUs must not be moved, and frozen weights do not belong in a checkpoint.

    Args:
        family: the family of the model.
        options: see `flexselect.options.AskingOptions`.
    """

    def __init__(self, family: VideoFamily, **options: Any) -> None:
        super().__init__()
        check_names(AskingOptions, options, "VideoQA", set_by=("device", "scoring_only"))
        self.options = AskingOptions(device=None, scoring_only=False, **options)
        self.save_hyperparameters(asdict(self.options))
        needs = {"verify": self.options.verify, "absent_below": self.options.absent_below is not None}
        check_options(family, self.options, next((name for name, is_set in needs.items() if is_set), None))
        check_selector(family, self.options.selector)
        find_answer_engine(self.options, family)
        self.family = family
        self.accuracy = MeanMetric().set_dtype(torch.float64)
        self.grounding = GroundingMetrics()
        self.answered: dict[tuple[str, str, str], dict[str, Any]] = {}  # predictions of an earlier run, by question
        self.flexselect: FlexSelect | None = None
        self.session: VideoSession | None = None  # session of the last question's video
        self.answer: Answer | None = None  # answer to the last question; None if it failed or was skipped
        self._opened: tuple[str, ReadOptions] | None = None  # video and part of `session`, or of `_video_error`
        self._video_error: str | None = None
        self._video_warnings: Sequence[str] = ()
        self._video_hash: str | None = None
        self._ahead: dict[tuple[str, str, str], Answer] = {}  # answers to later questions about the same video
        self._one_by_one: tuple[str, ReadOptions] | None = None  # a video whose questions cannot be asked together
        self._cache: FeatureCache | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides an answer: runs with equal settings give answers that belong together."""
        settings, options = options_that_change_answers(self.options), self.options
        if options.selector == "self" and options.reference_layer is None:
            settings["reference_layer"] = self.family.default_reference_layer
        if options.selector is not None and options.budget is None:
            settings["budget"] = self.family.default_budget
        if options.selector == "self":
            settings["reduction"] = resolve_reduction(options.reduction or "max")
        settings["positions"] = options.positions or self.family.default_positions
        return {"family": self.family.settings, **settings}

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Provenance of results besides the settings: packages, weights, positions. Weights are hashed once."""
        selector = self.options.selector
        return {
            "packages": package_versions(self.options.engine),
            "weights": weights_hash(self.family.path),
            "selector_weights": weights_hash(selector) if is_trained(selector) else None,
            "rope": self.family.model_config.get_text_config().to_dict().get("rope_parameters"),
            "seed": int(os.environ.get("PL_GLOBAL_SEED", 0)),
        }

    @property
    def data(self) -> QuestionSource:
        """The data module."""
        return self.trainer.datamodule

    def setup(self, stage: str) -> None:
        """Tell the data module which videos it need not decode: those in the feature cache; all, for two looks."""
        if self.options.cost is not None:
            self.data.stream_only()
        if self.options.feature_cache is not None:
            made_with = {name: self.fingerprint[name] for name in ("packages", "weights", "selector_weights")}
            made_with |= {name: vars(self.options)[name] for name in ("dtype", "quantization", "attn_implementation")}
            made_with |= {"family": self.family.identity}
            self._cache = FeatureCache(self.options.feature_cache, self.options.feature_cache_gb, made_with)
            self.data.use_cache(self._cache)

    def configure_model(self) -> None:
        """Load the weights onto this process's device, once."""
        if self.flexselect is None:
            options = {name: vars(self.options)[name] for name in option_names(Options)}
            self.family.prompter()  # refuse a missing or wrong tokenizer before the weights are loaded
            device = self.trainer.strategy.root_device  # self.device is still the CPU here
            self.flexselect = FlexSelect.from_pretrained(self.family, **{**options, "device": str(device)})

    def predict_step(self, item: QuestionItem) -> dict[str, Any]:
        """Answer one question; bad videos and questions are recorded, not raised.

        Returns:
            The prediction: one row of predictions.jsonl.
        """
        self.answer = None
        if item.question.key in self.answered:
            return self.answered[item.question.key]
        if item.opens:
            self._open(item)
        question, error = item.question, item.question.error or self._video_error
        if error is None:
            try:
                self.answer = self._ask(question)
            # for example an empty question, NaN scores, no memory, a full disk
            except (ValueError, RuntimeError, OSError) as problem:
                raise_if_lost(problem)
                error = describe(problem)
        answer, opened = self.answer, self._opened == question.part
        shown = answer.to_dict() if answer else {}
        return {
            "id": question.id,
            "video": question.video,
            "question": question.question,
            "answer": shown.get("answer"),
            "num_visual_tokens": shown.get("num_visual_tokens", 0),
            "num_kept_tokens": shown.get("num_kept_tokens", 0),
            "timings": shown.get("timings", {}),
            "cost": shown.get("cost"),
            "error": error,
            "warnings": self._warnings(question) if opened else [],
            "moments": shown.get("moments", []),
            "likelihood": shown.get("likelihood"),
            "presence": shown.get("presence"),
            **({"verification": shown["verification"]} if shown.get("verification") else {}),
            "sampling": self.session.sampling if self.session and opened else None,
            "prompt_hash": question.prompt_hash,
            "video_hash": self._video_hash if opened else None,
        }

    def _ask(self, question: VideoQuestion) -> Answer:
        """Answer a question; with an answer engine, all others about its video together with it."""
        assert self.session is not None and self.flexselect is not None
        longest = question.max_new_tokens or self.options.max_new_tokens
        if self.flexselect.answer_engine is None:
            return self.session.ask(question.text, longest, verify=self.options.verify)
        if question.part == self._one_by_one:
            return self.session.ask(question.text, longest)
        if question.key not in self._ahead:
            same = (question.part, question.max_new_tokens)
            together = [
                other
                for other in self.data.questions
                if (other.part, other.max_new_tokens) == same and other.error is None and other.key not in self.answered
            ]
            try:
                answers = self.session.ask_all([other.text for other in together], longest)
            except ValueError:  # of any of them: each row must get its own
                self._one_by_one = question.part
                return self.session.ask(question.text, longest)
            self._ahead = {other.key: answer for other, answer in zip(together, answers)}
        return self._ahead.pop(question.key)

    @property
    def _ranks_content(self) -> bool:
        return self.flexselect is not None and self.flexselect.ranks_content

    def _grounding(self, question: VideoQuestion, row: dict[str, Any]) -> dict[str, Any] | None:
        """Compare the row's moments with those of the annotations; None if either can have none."""
        if not question.moments or not self._ranks_content:
            return None
        result = ground(row.get("moments") or [], question.moments, part_read(row["sampling"] or {}))
        return {**result, "annotated": [list(moment) for moment in question.moments]}

    def _warnings(self, question: VideoQuestion) -> list[str]:
        """List what is doubtful in the video's file, and in the answer."""
        answer = None if self.answer is None else with_option(self.answer, question.options)
        warnings = list(self._video_warnings if answer is None else answer.warnings)
        part = part_read(self.session.sampling or {}) if self.session else None
        if part is not None and any(start >= part[1] or end <= part[0] for start, end in question.moments):
            warnings.append("an annotated moment lies outside of what was read of the video")
        least = self.options.absent_below
        if least is not None and answer is not None and answer.presence is not None and answer.presence < least:
            warnings.append(f"probably not in this video: presence {answer.presence:.2f} is below {least}")
        return warnings

    def validation_step(self, item: QuestionItem) -> dict[str, Any]:
        """Answer one question and compare it with the expected answer."""
        question, row = item.question, self.predict_step(item)
        right, grounding = question.is_right(row["answer"]), self._grounding(question, row)
        if grounding is not None:
            self.grounding.update(grounding["iou"], grounding["pointing"])
        if question.counts:
            self.accuracy.update(float(right))  # a failed video counts as wrong
        measured = question.absent or question.moments  # something other than its answer is
        unexpected = row["error"] is None and question.answer is None and not measured
        return {
            **row,
            "error": NOTHING_EXPECTED if unexpected else row["error"],
            "expected": list(question.answer) if isinstance(question.answer, tuple) else question.answer,
            "parsed": question.chosen(row["answer"]) if question.options and row["answer"] is not None else None,
            "correct": right if question.counts else None,
            **({"drawn": question.drawn(row["answer"] or "")} if question.guess and row["error"] is None else {}),
            "multiple_choice": bool(question.options),
            **({} if question.absent is None else {"absent": question.absent}),
            **({} if grounding is None else {"grounding": grounding}),
            "groups": dict(question.groups),
        }

    def on_validation_epoch_start(self) -> None:
        """Add values of weight 0, so that a process without counted rows has the metrics too."""
        self.accuracy.update(0.0, weight=0.0)
        self.grounding.reset()
        self.grounding.update(0.0, 0.0, weight=0.0)

    def on_validation_epoch_end(self) -> None:
        """Log the accuracy over all processes, if any question counts, and how right the moments are."""
        if any(question.counts for question in self.data.questions):
            self.log("accuracy", self.accuracy, prog_bar=True)
        if self._ranks_content and any(question.moments for question in self.data.questions):
            self.log_dict(self.grounding.compute())

    def _open(self, item: QuestionItem) -> None:
        self.session, self._video_error, self._video_hash = None, item.error, item.video_hash
        self._opened = item.question.part
        assert self.flexselect is not None
        timings, source = {"decode": item.decode_seconds}, item.clip or item.stream
        self._video_warnings = item.warnings if source is None else source.about.warnings
        try:
            if item.encoded is not None:
                session = self.flexselect.open_encoded(item.encoded, {**timings, "encode": 0.0})
                self._video_warnings = session.warnings
            elif source is not None:
                shown = None if self.trainer.progress_bar_callback is not None else False
                session = self.flexselect.open_source(source, timings, shown)
            else:
                return
            session.video, session.options = item.path, item.question.reading
            session.keeping(self.options.keep, self.options.keep_on)
            if self._cache is not None and source is not None and item.path is not None:
                self._cache.put(item.path, session.encode(), item.question.reading)
            elif self.options.keep != "nothing":
                session.encode()  # now, so that errors are recorded for the video, not for a question
            self.session = session
        except (ValueError, RuntimeError, OSError) as problem:
            raise_if_lost(problem)
            reason = describe(problem)
            named = item.path is not None and reason.startswith(item.path)
            self._video_error = reason if named else f"{item.question.video}: {reason}"


def describe(problem: Exception) -> str:
    """Describe an error in a sentence; for lack of GPU memory, with advice."""
    if isinstance(problem, torch.OutOfMemoryError):
        advice = "lower family.max_frames or model.units_per_set, or spread the model with --model.device_map auto"
        return f"out of GPU memory: {advice}"
    return str(problem) or type(problem).__name__
