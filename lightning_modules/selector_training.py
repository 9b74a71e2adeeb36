"""Train a selector to rank visual tokens as the VideoLLM's reference layer does (FlexSelect-Lite, section 3.3)."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Callback, LightningModule
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torchmetrics import SumMetric

from flexselect.attention.kernels import attention_kernels
from flexselect.contracts import TrainingClip, TrainingSource
from flexselect.families.base import VideoFamily, VideoLM
from flexselect.options import ScoringOptions, option_names
from flexselect.scoring.lite import LiteScorer
from flexselect.storage.run_settings import UsageError, describe_differences, write_atomically
from flexselect.structures.prompt import EncodedVideo, VideoPrompt
from flexselect.training.adapters import add_lora
from flexselect.training.adapters import freeze as freeze_parts
from flexselect.training.initialization import TEACHER, load_initial_weights, new_selector
from flexselect.training.losses import LOSSES
from flexselect.training.teacher import Teacher
from lightning_modules.metrics.ranking import RankingMetrics, format_recall, metric_name
from lightning_modules.schedule import total_steps, warmup_cosine
from lightning_modules.selector_checkpoints import check_save_every, selector_checkpoints
from lightning_modules.teacher_scoring import check_store

log = logging.getLogger(__name__)
BEST_BY = metric_name("selector", "recall", 0.05)
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
NOTABLE_RECALL = 0.3  # recall above chance; selectors with random weights reach 0.2
NOT_COMPARED = ("gradient_checkpointing", "save_every")  # settings that may change when a training is resumed


class SelectorTraining(LightningModule):
    """Module that trains a selector: the tower runs once per clip, the frozen teacher scores, the selector learns.

    The teacher is not a submodule: its frozen weights are not written to checkpoints, moved or wrapped. If the data
    module has stored scores, the teacher's decoder is not loaded.

    Args:
        family: the family of the teacher.
        selector: folder or hub id of a selector to continue training; None: a new selector.
        start: initial weights of a new selector: "teacher" for the VideoLLM's first layers, or folder or hub id of a
            small model, see `flexselect.training.initialization`; None: random weights.
        sizes: sizes of a new selector's language model that differ from `start`, for example `hidden_size`.
        loss: "silog", "listwise", or the released "spearman", "l1" and "l2"; see `flexselect.training.losses`.
        lr: AdamW's learning rate after warm-up.
        warmup: warm-up steps as a share of all steps.
        weight_decay: AdamW's weight decay.
        freeze: parts of the selector that are not trained, for example "projector" or "decoder.embed_tokens".
        lora: arguments of `peft.LoraConfig`: train adapters instead of the language model; export merges them.
        gradient_checkpointing: use less memory, but a third more time.
        save_every: steps between checkpoints to resume from.
        options: options of the teacher, see `flexselect.options.ScoringOptions`. The selector is trained with the same
            reduction; its weights are float32, and the trainer sets the precision of its operations.
    """

    def __init__(
        self,
        family: VideoFamily,
        selector: str | None = None,
        start: str | None = None,
        sizes: dict[str, Any] | None = None,
        loss: Literal["silog", "listwise", "spearman", "l1", "l2"] = "silog",
        lr: float = 1e-5,
        warmup: float = 0.03,
        weight_decay: float = 0.0,
        freeze: list[str] | None = None,
        lora: dict[str, Any] | None = None,
        gradient_checkpointing: bool = False,
        save_every: int = 500,
        **options: Any,
    ) -> None:
        super().__init__()
        check_save_every(save_every)
        self.save_hyperparameters(ignore="family")
        self.family = family
        self.teacher = Teacher(family, **options)
        self.selector = new_selector(family, selector, start, sizes, self.teacher.reduction)
        if lora is not None:
            add_lora(self.selector, lora)
        if gradient_checkpointing:
            self.selector.gradient_checkpointing_enable()
        freeze_parts(self.selector, freeze or [])
        self._student: LiteScorer | None = None
        self._restored = False  # whether weights were restored from a checkpoint
        self.metrics = RankingMetrics()
        self.clips_left_out = SumMetric()

    # -- begin

    def setup(self, stage: str) -> None:
        """Check the precision and the strategy.

        Raises:
            UsageError: for weights in half precision, or a strategy that rounds more than the weights.
        """
        if str(self.trainer.precision) not in PRECISIONS:
            reason = "updates of small steps are lost in half-precision weights"
            raise UsageError(f"trainer.precision is {self.trainer.precision}: {reason}; use {' or '.join(PRECISIONS)}")

        strategy = self.trainer.strategy
        mixed = strategy.mixed_precision_config if isinstance(strategy, FSDPStrategy) else None
        if mixed is not None and mixed.buffer_dtype not in (None, torch.float32):
            reason = f"FSDP rounds the frequencies of the positions to {mixed.buffer_dtype}, which trains another model"
            raise UsageError(f"trainer.strategy: {reason}; use ddp, a selector needs no FSDP")

    def on_validation_start(self) -> None:
        """Check that there is a trained selector to validate.

        Raises:
            UsageError: if there is neither a selector nor a checkpoint.
        """
        trained = self.hparams.selector is not None or self._restored
        if self.trainer.state.fn == TrainerFn.VALIDATING and not trained:
            raise UsageError("nothing trained to validate: give --model.selector DIR, or --ckpt_path FILE")

    def configure_callbacks(self) -> list[Callback]:
        """Return the callbacks for checkpoints and export."""
        return selector_checkpoints(Path(self.trainer.default_root_dir), BEST_BY, self.hparams.save_every)

    def configure_model(self) -> None:
        """Load the needed parts of the teacher onto this process's device, once."""
        if self._student is not None:
            return
        stored = self.data.store is not None
        if stored:
            check_store(self.data, self.teacher)
        start = None if self.hparams.selector is not None else self.hparams.start  # a selector brings its weights
        copied = len(self.selector.decoder.layers) if start == TEACHER else 0
        layers = copied if stored else max(copied, self.teacher.layer + 1)
        lm = self.teacher.load(self.trainer.strategy.root_device, layers)
        if start is not None:
            load_initial_weights(self.selector, start, lm)
        self._student = LiteScorer(lm, self.selector, self.teacher.reduction, alignment="exact")

    @property
    def data(self) -> TrainingSource:
        """The data module."""
        return self.trainer.datamodule

    @property
    def lm(self) -> VideoLM:
        """The teacher's VideoLLM."""
        assert self._student is not None
        return self._student.lm

    # -- a step

    def scores(self, clips: list[TrainingClip]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the teacher's and the selector's scores of each clip, float32 [V], from one run of the tower."""
        assert self._student is not None
        prompts = [clip.prompt for clip in clips if clip.prompt is not None]
        stored = [clip.teacher_scores.to(self.device) for clip in clips if clip.teacher_scores is not None]
        queries = [prompt.query_ids for prompt in prompts]
        videos = [self._encode(prompt, project=not stored) for prompt in prompts]
        with self._teacher_precision():
            teacher = stored or self.teacher.scores(self.lm, videos, queries)
        student = self._student.scores(videos, queries, [self.teacher.frame_sets(video) for video in videos])
        for clip, expected, scores in zip(clips, teacher, student):
            if expected.shape != scores.shape:
                raise ValueError(
                    f"clip {clip.key} has {len(scores)} visual tokens, its stored teacher scores {len(expected)}: "
                    "the video has changed since; score it again"
                )
        return [scores.clone() for scores in teacher], student  # clones, because autograd cannot use inference tensors

    def _encode(self, prompt: VideoPrompt, project: bool) -> EncodedVideo:
        """Encode a clip for the selector, with gradients, and for the VideoLLM if `project` is set."""
        clip = prompt.clip
        with self._teacher_precision():
            chunks = list(self.lm.vision_chunks(clip))
        selector_features = torch.cat([self.selector.project(vision.clone(), grid) for vision, grid in chunks])
        features = selector_features
        if project:
            with self._teacher_precision(), torch.inference_mode():
                features = torch.cat([self.lm.project(vision, grid) for vision, grid in chunks])
        return EncodedVideo(
            prompt.prefix_ids, features, clip.grid, clip.seconds_per_unit, clip.delimiters, selector_features
        )

    def _teacher_precision(self) -> torch.autocast:
        """Disable autocast, so that the teacher scores in the precision of its weights, as when scores are stored."""
        return torch.autocast(self.device.type, enabled=False)

    def training_step(self, clips: list[TrainingClip]) -> Tensor:
        """Return the mean loss over clips of any lengths; log it as `train_loss`.

        Raises:
            ValueError: if the loss is not finite.
        """
        self._count_left_out(clips)
        pairs = zip(*self.scores(clips))
        loss = torch.stack([LOSSES[self.hparams.loss](student, teacher) for teacher, student in pairs]).mean()
        self._check_finite("loss", loss)
        self.log("train_loss", loss, prog_bar=True, batch_size=len(clips))
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Run the backward pass, which computes checkpointed layers again, with the kernels of the forward pass."""
        with attention_kernels():
            super().backward(loss, *args, **kwargs)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop if a gradient is not finite, before it reaches the weights; float16 has loss scaling instead."""
        if not str(self.trainer.precision).startswith("16"):
            grads = [weight.grad for weight in self.selector.parameters() if weight.grad is not None]
            self._check_finite("gradient", torch.nn.utils.get_total_norm(grads))

    def _check_finite(self, name: str, value: Tensor) -> None:
        if not bool(torch.isfinite(value)):
            advice = "lower model.lr, or check the clips; the last checkpoint is from before"
            raise ValueError(f"the {name} is {float(value)} at step {self.global_step}: {advice}")

    def validation_step(self, clips: list[TrainingClip]) -> None:
        """Measure the agreement with the teacher, for the selector and for the controls."""
        if not self.trainer.sanity_checking:
            self._count_left_out(clips)
        if clips:
            for teacher, student in zip(*self.scores(clips)):
                self.metrics.add(student, teacher)

    def _count_left_out(self, clips: list[TrainingClip]) -> None:
        for clip in clips:
            self.clips_left_out.update(len(clip.left_out))
            for reason in clip.left_out:
                log.warning("left out: %s", reason)

    # -- end

    def on_train_epoch_end(self) -> None:
        """Log how many clips could not be used."""
        self.log("clips_left_out", self.clips_left_out)
        count = int(self.clips_left_out.compute())
        if count:
            log.warning("%d clips could not be used and were replaced; the reasons are above", count)

    def on_validation_epoch_end(self) -> None:
        """Log means over all processes; warn if the selector is hardly better than chance."""
        self.log_dict(dict(self.metrics.means))
        metrics = self.metrics.compute()
        if self.trainer.sanity_checking:
            return
        log.info(format_recall(metrics))
        if metrics[BEST_BY] < metrics[metric_name("random", "recall", 0.05)] + NOTABLE_RECALL:
            log.warning(
                "low recall: the selector is untrained, or for another model, layer or reduction than %s, layer %d, %s",
                *(self.family.path, self.teacher.layer, self.teacher.reduction),
            )
        if self.trainer.state.fn == TrainerFn.VALIDATING and self.trainer.is_global_zero:
            folder = Path(self.trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / "results.json", json.dumps({**metrics, "settings": self.settings}, indent=2))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what `export` and a resumed training need, in plain types."""
        card = {"layer": self.teacher.layer, "teacher": self.family.path, "steps": self.global_step}
        card |= {"reduction": self.teacher.reduction, "loss": self.hparams.loss}
        card |= {"start": self.hparams.selector or self.hparams.start or "random weights"}
        recall = self.trainer.callback_metrics.get(BEST_BY)
        card["recall"] = "not validated" if recall is None else f"{float(recall):.3f}"
        about = {"config": self.selector.config.to_dict(), "card": card, "lora": self.hparams.lora}
        checkpoint["selector"] = {**about, "tokenizer": self.selector.name_or_path, "settings": self.settings}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another training.

        Raises:
            UsageError: naming each setting that differs.
        """
        self._restored = True
        different = describe_differences(checkpoint.get("selector", {}).get("settings", {}), self.settings)
        if different and self.trainer.state.fn == TrainerFn.FITTING:
            raise UsageError(
                f"the checkpoint is of a training with other settings ({different}); "
                "give another --output_dir, or delete its checkpoints"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that a resumed training must share with the earlier one."""
        excluded = {*NOT_COMPARED, *option_names(ScoringOptions)}
        fixed = {name: value for name, value in self.hparams.items() if name not in excluded}
        return {"family": self.family.settings, "data": self.data.settings, **fixed, **self.teacher.score_settings}

    def configure_optimizers(self) -> dict[str, Any]:
        """Build AdamW with linear warm-up and a cosine to 0."""
        trained = [weight for weight in self.selector.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.hparams.lr, weight_decay=self.hparams.weight_decay)
        steps = total_steps(self.trainer, self.data.num_train_batches)
        return warmup_cosine(optimizer, steps, max(1, round(self.hparams.warmup * steps)))
