"""Trains a selector to rank visual tokens as the VideoLLM's reference layer does (FlexSelect-Lite, section 3.3)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from lightning import LightningModule
from torch import Tensor
from torchmetrics import MeanMetric

from flexselect.families.base import VideoFamily, VideoLM
from flexselect.families.loading import LoadOptions
from flexselect.families.merging import merged
from flexselect.losses import LOSSES
from flexselect.prompt import EncodedVideo, VideoPrompt
from flexselect.ranking import recall_at_k, spearman
from flexselect.scorers import CONTROLS, ReferenceLayerScorer
from flexselect.selector import LiteSelector, selector_config
from lightning_modules.schedule import warmup_cosine

BUDGETS = (0.02, 0.05, 0.1)  # shares of the visual tokens at which recall is measured
RANKINGS = ("selector", "random", "uniform")


def _recall(ranking: str, share: float) -> str:
    return f"{ranking}_recall_{share:g}".replace(".", "_")


METRICS = [f"{name}_spearman" for name in RANKINGS] + [_recall(name, share) for name in RANKINGS for share in BUDGETS]


class SelectorTraining(LightningModule):
    """One clip with one question at a time: the tower runs once, the frozen teacher scores, the selector learns.

    The teacher is no submodule: frozen weights belong in no checkpoint, and are neither moved nor wrapped.

    Args:
        family: of the teacher.
        selector: folder or hub id of a selector to go on from; None: a new one of `sizes`.
        sizes: of a new selector's language model, over the teacher's own: `hidden_size`, `num_hidden_layers`, ...
        reference_layer: of the teacher; None: the one used for answering, unlike the released trainings.
        reduction: over heads and query rows, for teacher and selector.
        loss: "listwise", or as released "spearman", "l1" or "l2".
        lr: of AdamW, after warm-up and before the cosine.
        warmup: share of all steps.
        weight_decay: of AdamW.
        gradient_checkpointing: less memory, a third more time.
        dtype: of the teacher's weights; the selector's are float32, under the trainer's precision.
    """

    def __init__(
        self,
        family: VideoFamily,
        selector: str | None = None,
        sizes: dict[str, Any] | None = None,
        reference_layer: int | None = None,
        reduction: Literal["max", "mean"] = "max",
        loss: Literal["listwise", "spearman", "l1", "l2"] = "listwise",
        lr: float = 1e-5,
        warmup: float = 0.03,
        weight_decay: float = 0.0,
        gradient_checkpointing: bool = False,
        dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore="family")
        self.family = family
        if (selector is None) == (sizes is None):
            raise ValueError("give either a selector to go on from, or the sizes of a new one")
        if selector is not None:
            self.selector = LiteSelector.from_pretrained(selector, dtype="float32")
        else:
            self.selector = LiteSelector(selector_config(family, sizes or {}, reduction))
        self._freeze_what_gets_no_gradient()
        if gradient_checkpointing:
            self.selector.gradient_checkpointing_enable()
        self.layer = family.default_reference_layer if reference_layer is None else reference_layer
        self._teacher: ReferenceLayerScorer | None = None
        self.metrics = torch.nn.ModuleDict({name: MeanMetric() for name in METRICS})

    def _freeze_what_gets_no_gradient(self) -> None:
        """Of the last layer only norm, queries and keys are used, and nothing after it."""
        last = self.selector.decoder.layers[-1]
        unused = (last.mlp, last.post_attention_layernorm, last.self_attn.v_proj, last.self_attn.o_proj)
        for module in (*unused, self.selector.decoder.norm):
            module.requires_grad_(False)

    def configure_model(self) -> None:
        """Load the teacher's layers up to the reference layer onto this process's device, once."""
        if self._teacher is None:
            device = self.trainer.strategy.root_device
            options = LoadOptions(getattr(torch, self.hparams.dtype), device, num_layers=self.layer + 1)
            lm = self.family.load(options)
            lm.model.requires_grad_(False)
            self._teacher = ReferenceLayerScorer(lm, self.layer, self.hparams.reduction)

    @property
    def lm(self) -> VideoLM:
        """The teacher."""
        assert self._teacher is not None
        return self._teacher.lm

    def scores(self, prompt: VideoPrompt) -> tuple[Tensor, Tensor]:
        """Teacher's and selector's scores of a clip's visual tokens, float32 [V] both, from one run of the tower."""
        assert self._teacher is not None
        grid, lm = prompt.clip.grid, self.lm
        views: list[Tensor] = []

        def keep(vision: Tensor, grid: tuple[int, int, int]) -> Tensor:
            views.append(vision)
            return vision.new_empty(0)

        encoded = lm.encode(prompt, keep)
        teacher = self._teacher.score(encoded, prompt.query_ids).clone()  # out of inference mode
        vision = torch.cat(views).clone()
        tokens = self.selector.project(vision, grid)
        layout = encoded.layout(prompt.query_ids, lm.visual_id)
        embeddings, _ = merged(self.selector.embed, layout.ids[None], layout.visual, tokens[None])
        where = lm.position_ids(layout, grid, seconds_per_unit=1.0).to(self.device)
        where = where[:, None] if len(where) > 1 else where
        found = self.selector(embeddings, where, layout.query_rows, layout.span)
        return teacher.to(self.device), found[0, layout.visual[layout.span].to(found.device)]

    def training_step(self, batch: list[VideoPrompt]) -> Tensor:
        """Mean loss of a batch of clips, whatever their lengths; logs `train_loss`.

        Raises:
            ValueError: for a loss that is not finite: training on would waste the time.
        """
        losses = []
        for prompt in batch:
            teacher, student = self.scores(prompt)
            losses.append(LOSSES[self.hparams.loss](student, teacher))
        loss = torch.stack(losses).mean()
        if not torch.isfinite(loss):
            raise ValueError(
                f"the loss is {float(loss)} at step {self.global_step}: lower model.lr, or check the clips"
            )
        self.log("train_loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: list[VideoPrompt]) -> None:
        """Agreement with the teacher, beside what tokens drawn by chance or evenly spread would give."""
        for prompt in batch:
            teacher, student = self.scores(prompt)
            rankings = {"selector": student, **_drawn_by_chance(student)}
            for name, scores in rankings.items():
                self.metrics[f"{name}_spearman"].update(spearman(scores, teacher))
            for share in BUDGETS:
                k = max(1, round(share * len(teacher)))
                best = teacher.topk(k).indices
                for name, scores in rankings.items():
                    self.metrics[_recall(name, share)].update(recall_at_k(scores, best, k))

    def on_validation_epoch_end(self) -> None:
        """Means over all processes."""
        self.log_dict(dict(self.metrics), prog_bar=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What `export` needs beside the weights: all in plain types."""
        card = {"layer": self.layer, "teacher": self.family.path, "steps": self.global_step}
        card |= {"reduction": self.hparams.reduction, "loss": self.hparams.loss}
        checkpoint["selector"] = {"config": self.selector.config.to_dict(), "card": card}

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW, linear warm-up, cosine to 0."""
        trained = [weight for weight in self.selector.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.hparams.lr, weight_decay=self.hparams.weight_decay)
        steps = self.trainer.estimated_stepping_batches
        if not 0 < steps < math.inf:
            raise ValueError(f"the training must have a known length, got {steps} steps: set trainer.max_steps")
        warmup = max(1, round(self.hparams.warmup * steps))
        return warmup_cosine(optimizer, int(steps), warmup)


def _drawn_by_chance(scores: Tensor) -> dict[str, Tensor]:
    """What the controls give as many tokens."""
    nothing = torch.empty(0, dtype=torch.long)
    tokens = EncodedVideo(nothing, scores[:, None], (len(scores), 1, 1))
    return {name: control().score(tokens, nothing).to(scores.device) for name, control in CONTROLS.items()}
