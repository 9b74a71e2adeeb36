"""Trains a selector to rank visual tokens as the VideoLLM's reference layer does (FlexSelect-Lite, section 3.3)."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Callback, LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torchmetrics import SumMetric

from flexselect.contracts import TrainingClip, TrainingSource
from flexselect.families.base import VideoFamily, VideoLM
from flexselect.options import ScoringOptions, names
from flexselect.scoring.lite import LiteScorer
from flexselect.storage.run_settings import UsageError, describe_differences, write_atomically
from flexselect.structures.prompt import EncodedVideo, VideoPrompt
from flexselect.training.adapters import add_lora
from flexselect.training.adapters import freeze as freeze_parts
from flexselect.training.initialization import TEACHER, begin, starting_weights
from flexselect.training.losses import LOSSES
from flexselect.training.teacher import Teacher
from lightning_modules.ranking_metrics import RankingMetrics, in_words, metric_name
from lightning_modules.schedule import total_steps, warmup_cosine
from lightning_modules.selector_checkpoints import check_save_every, selector_checkpoints

log = logging.getLogger(__name__)
BEST_BY = metric_name("selector", "recall", 0.05)
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
NOTABLE = 0.3  # recall over chance: selectors with random weights reach 0.2, attention being what it is
FREE = ("gradient_checkpointing", "save_every")  # may change from run to run


class SelectorTraining(LightningModule):
    """Clips with a question each: the tower runs once, the frozen teacher scores, the selector learns.

    The teacher is no submodule: frozen weights belong in no checkpoint, and are neither moved nor wrapped. Where the
    data module has stored scores, none of its decoder is loaded.

    Args:
        family: of the teacher.
        selector: folder or hub id of a selector to go on from; None: a new one.
        start: of a new one: "teacher", the VideoLLM's own first layers, or a small model's folder or hub id, see
            `flexselect.training.initialization`; None: random weights.
        sizes: of a new one's language model, over those of its start: `hidden_size`, `num_hidden_layers`, ...
        loss: "silog", "listwise", or as released "spearman", "l1" or "l2"; see `flexselect.training.losses`.
        lr: of AdamW, after warm-up and before the cosine.
        warmup: share of all steps.
        weight_decay: of AdamW.
        freeze: parts of the selector that are not trained, "projector" or "decoder.embed_tokens" for two.
        lora: of `peft.LoraConfig`: adapters are trained in place of the language model; merged on export.
        gradient_checkpointing: less memory, a third more time.
        save_every: steps between checkpoints to go on from after a kill.
        options: of the teacher, see `flexselect.options.ScoringOptions`; the selector is trained with its reduction,
            and its weights are float32, under the trainer's precision.
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
        self.selector = begin(family, selector, start, sizes, self.teacher.reduction)
        if lora is not None:
            add_lora(self.selector, lora)
        if gradient_checkpointing:
            self.selector.gradient_checkpointing_enable()
        freeze_parts(self.selector, freeze or [])
        self._student: LiteScorer | None = None
        self._restored = False  # whether weights came from a checkpoint
        self.metrics = RankingMetrics()
        self.clips_left_out = SumMetric()

    # -- begin

    def setup(self, stage: str) -> None:
        """Refuse what would mean nothing.

        Raises:
            UsageError: for weights in half precision.
        """
        if str(self.trainer.precision) not in PRECISIONS:
            reason = "updates of small steps are lost in half-precision weights"
            raise UsageError(f"trainer.precision is {self.trainer.precision}: {reason}; use {' or '.join(PRECISIONS)}")

    def on_validation_start(self) -> None:
        """Refuse to validate what was never trained.

        Raises:
            UsageError: for neither a selector nor a checkpoint.
        """
        trained = self.hparams.selector is not None or self._restored
        if self.trainer.state.fn == TrainerFn.VALIDATING and not trained:
            raise UsageError("nothing trained to validate: give --model.selector DIR, or --ckpt_path FILE")

    def configure_callbacks(self) -> list[Callback]:
        """Checkpoints to go on from, the best one, and its export at the end."""
        return selector_checkpoints(Path(self.trainer.default_root_dir), BEST_BY, self.hparams.save_every)

    def configure_model(self) -> None:
        """Load what is needed of the teacher onto this process's device, once."""
        if self._student is not None:
            return
        stored = self._check_store()
        start = None if self.hparams.selector is not None else self.hparams.start  # a selector has its weights
        copied = len(self.selector.decoder.layers) if start == TEACHER else 0
        layers = copied if stored else max(copied, self.teacher.layer + 1)
        lm = self.teacher.load(self.trainer.strategy.root_device, layers)
        if start is not None:
            starting_weights(self.selector, start, lm)
        self._student = LiteScorer(lm, self.selector, self.teacher.reduction, alignment="exact")

    def _check_store(self) -> bool:
        """Whether there are stored scores.

        Raises:
            UsageError: for scores of another teacher, or not of all clips.
        """
        data = self.data
        if data.store is None:
            return False
        data.store.match({**self.teacher.settings(data.query), **data.reading.settings})
        missing = data.unscored()
        if missing:
            raise UsageError(
                f"{data.store.folder} lacks the teacher scores of {len(missing)} clips, {missing[0]} for one: "
                "complete it with `predict` and the same annotations"
            )
        return True

    @property
    def data(self) -> TrainingSource:
        """Where the clips come from."""
        return self.trainer.datamodule

    @property
    def lm(self) -> VideoLM:
        """The teacher."""
        assert self._student is not None
        return self._student.lm

    # -- a step

    def scores(self, clips: list[TrainingClip]) -> tuple[list[Tensor], list[Tensor]]:
        """Teacher's and selector's scores of each clip's visual tokens, float32 [V], from one run of the tower."""
        assert self._student is not None
        prompts = [clip.prompt for clip in clips if clip.prompt is not None]
        stored = [clip.teacher_scores.to(self.device) for clip in clips if clip.teacher_scores is not None]
        queries = [prompt.query_ids for prompt in prompts]
        videos = [self._encode(prompt, project=not stored) for prompt in prompts]
        with self._as_it_is():
            teacher = stored or self.teacher.scores(self.lm, videos, queries)
        student = self._student.scores(videos, queries, [self.teacher.frame_sets(video) for video in videos])
        for clip, theirs, ours in zip(clips, teacher, student):
            if theirs.shape != ours.shape:
                raise ValueError(
                    f"clip {clip.key} has {len(ours)} visual tokens, its stored teacher scores {len(theirs)}: "
                    "the video has changed since; score it again"
                )
        return [scores.clone() for scores in teacher], student  # out of inference mode

    def _encode(self, prompt: VideoPrompt, project: bool) -> EncodedVideo:
        """As the VideoLLM sees the clip, if wanted, and as the selector sees it, with gradients."""
        clip = prompt.clip
        with self._as_it_is():
            views = list(self.lm.views(clip))
        selector_features = torch.cat([self.selector.project(view.clone(), grid) for view, grid in views])
        features = selector_features
        if project:
            with self._as_it_is(), torch.inference_mode():
                features = torch.cat([self.lm.project(view, grid) for view, grid in views])
        return EncodedVideo(
            prompt.prefix_ids, features, clip.grid, clip.seconds_per_unit, clip.delimiters, selector_features
        )

    def _as_it_is(self) -> torch.autocast:
        """The teacher scores in its own precision, whatever the trainer's: as when scores are stored."""
        return torch.autocast(self.device.type, enabled=False)

    def training_step(self, clips: list[TrainingClip]) -> Tensor:
        """Mean loss over clips of any lengths; logs `train_loss`.

        Raises:
            ValueError: for a loss that is not finite: training on would waste the time.
        """
        self._count(clips)
        pairs = zip(*self.scores(clips))
        loss = torch.stack([LOSSES[self.hparams.loss](student, teacher) for teacher, student in pairs]).mean()
        self._refuse("loss", loss)
        self.log("train_loss", loss, prog_bar=True, batch_size=len(clips))
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop before a gradient that is not finite spoils the weights; float16 scales its own down instead."""
        if not str(self.trainer.precision).startswith("16"):
            grads = [weight.grad for weight in self.selector.parameters() if weight.grad is not None]
            self._refuse("gradient", torch.nn.utils.get_total_norm(grads))

    def _refuse(self, what: str, value: Tensor) -> None:
        if not bool(torch.isfinite(value)):
            advice = "lower model.lr, or check the clips; the last checkpoint is from before"
            raise ValueError(f"the {what} is {float(value)} at step {self.global_step}: {advice}")

    def validation_step(self, clips: list[TrainingClip]) -> None:
        """Agreement with the teacher, beside what tokens drawn by chance or evenly spread would give."""
        if not self.trainer.sanity_checking:
            self._count(clips)
        if clips:
            for teacher, student in zip(*self.scores(clips)):
                self.metrics.add(student, teacher)

    def _count(self, clips: list[TrainingClip]) -> None:
        for clip in clips:
            self.clips_left_out.update(len(clip.left_out))
            for reason in clip.left_out:
                log.warning("left out: %s", reason)

    # -- end

    def on_train_epoch_end(self) -> None:
        """How many clips could not be used."""
        self.log("clips_left_out", self.clips_left_out)
        count = int(self.clips_left_out.compute())
        if count:
            log.warning("%d clips could not be used and were replaced; the reasons are above", count)

    def on_validation_epoch_end(self) -> None:
        """Means over all processes, in words too; says so where the selector knows little more than chance."""
        self.log_dict(dict(self.metrics.means))
        found = self.metrics.computed()
        if self.trainer.sanity_checking:
            return
        log.info(in_words(found))
        if found[BEST_BY] < found[metric_name("random", "recall", 0.05)] + NOTABLE:
            log.warning(
                "that is little: it is not trained yet, or for another model, layer or reduction than %s, layer %d, %s",
                *(self.family.path, self.teacher.layer, self.teacher.reduction),
            )
        if self.trainer.state.fn == TrainerFn.VALIDATING and self.trainer.is_global_zero:
            folder = Path(self.trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / "results.json", json.dumps({**found, "settings": self.settings}, indent=2))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What `export` and a resumed training need beside the weights: all in plain types."""
        card = {"layer": self.teacher.layer, "teacher": self.family.path, "steps": self.global_step}
        card |= {"reduction": self.teacher.reduction, "loss": self.hparams.loss}
        card |= {"start": self.hparams.selector or self.hparams.start or "random weights"}
        recall = self.trainer.callback_metrics.get(BEST_BY)
        card["recall"] = "not validated" if recall is None else f"{float(recall):.3f}"
        about = {"config": self.selector.config.to_dict(), "card": card, "lora": self.hparams.lora}
        checkpoint["selector"] = {**about, "tokenizer": self.selector.name_or_path, "settings": self.settings}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with another training's weights.

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
        """All that a resumed training must have in common with the one it goes on with."""
        own = {name: value for name, value in self.hparams.items() if name not in (*FREE, *names(ScoringOptions))}
        return {"family": self.family.settings, "data": self.data.settings, **own, **self.teacher.decides}

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW, linear warm-up, cosine to 0."""
        trained = [weight for weight in self.selector.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.hparams.lr, weight_decay=self.hparams.weight_decay)
        steps = total_steps(self.trainer, self.data.num_train_batches)
        return warmup_cosine(optimizer, steps, max(1, round(self.hparams.warmup * steps)))
