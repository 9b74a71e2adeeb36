"""Train a small VideoLLM from scratch: the demo's model."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForImageTextToText

from flexselect.families import family_of
from flexselect.families.base import VideoFamily
from flexselect.loading.weights import LoadOptions
from flexselect.running.merging import merge_embeddings
from flexselect.structures.layout import Layout, lay_out
from lightning_modules.schedule import warmup_cosine
from lightning_modules.selector_checkpoints import FOLDER, LAST, ResumePoint, check_save_every

IGNORED = -100


class VideoLLMTraining(LightningModule):
    """Module that minimises cross-entropy on the answer tokens.

    It writes a whole checkpoint into `output_dir` after each epoch.

    Args:
        family: its folder has config.json and a tokenizer.
        lr: AdamW's learning rate after warm-up.
        warmup_steps: number of linear warm-up steps.
        save_every: steps between writes of `checkpoints/last.ckpt`, from which a stopped training resumes.
        start: folder of a checkpoint of the same shapes, whose weights are trained further; None: random ones.

    Raises:
        ValueError: if `save_every` is below 1, or `start` has other shapes.
    """

    def __init__(
        self,
        family: VideoFamily,
        lr: float = 1e-3,
        warmup_steps: int = 50,
        save_every: int = 200,
        start: str | None = None,
    ) -> None:
        super().__init__()
        check_save_every(save_every)
        self.save_hyperparameters(ignore="family")
        self.family = family
        config = AutoConfig.from_pretrained(family.path)
        self.model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
        for weight in self.model.parameters():
            if weight.ndim > 1:  # a narrow model hardly learns from the usual 0.02, which suits widths in the thousands
                torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
        if start is not None:
            weights = family_of(start).load(LoadOptions(torch.float32)).model.state_dict()
            try:
                self.model.load_state_dict(weights)
            except RuntimeError as error:
                raise ValueError(f"{start} cannot be the start of {family.path}, which has other shapes") from error
        self.lm = family.wrap(self.model)

    def training_step(self, batch: dict[str, Any]) -> Tensor:
        """Train on a batch of clips of equal length; log `train_loss`, and `words_accuracy` or `choice_accuracy`."""
        embeddings, positions, labels = self._assemble(batch)
        # padding is on the right, where causal attention ignores it: it needs no mask
        ones = torch.ones(embeddings.shape[:2], dtype=torch.long, device=self.device)
        hidden = self.lm.decoder(
            inputs_embeds=embeddings, position_ids=positions, attention_mask=ones, use_cache=False
        ).last_hidden_state
        trained = labels[:, 1:] != IGNORED  # bool [B, N - 1]
        logits, target = self.model.lm_head(hidden[:, :-1][trained]), labels[:, 1:][trained]
        loss = functional.cross_entropy(logits, target)
        wrong = torch.zeros_like(labels[:, 1:])
        wrong[trained] = (logits.argmax(-1) != target).long()
        accuracy = (wrong.sum(1) == 0).float().mean()
        size = len(labels)
        self.log("train_loss", loss, prog_bar=True, batch_size=size)
        self.log(f"{batch['form']}_accuracy", accuracy, prog_bar=True, on_step=False, on_epoch=True, batch_size=size)
        stage = float(self.trainer.datamodule.stage) if self.trainer.datamodule else 0.0
        self.log("stage", stage, prog_bar=True, on_step=False, on_epoch=True, batch_size=size)
        return loss

    def _assemble(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Return embeddings [B, N, D], positions [P, B, N] or [B, N], and labels [B, N], padded on the right."""
        grid, prefix = batch["grid"], batch["prefix"]
        clips = len(batch["queries"])
        units = clips * grid[0], *grid[1:]
        tokens = self.lm.project(self.lm.vision(batch["pixel_values"], units), units).view(clips, math.prod(grid), -1)
        embeddings, positions, labels = [], [], []
        for i, (query, answer) in enumerate(zip(batch["queries"], batch["answers"])):
            text, between = torch.cat([query, answer]), batch["delimiters"][i]
            layout = lay_out(prefix, text, range(grid[0]), grid[1] * grid[2], self.lm.visual_id, between)
            merged, deepstack = merge_embeddings(self.lm.embed, layout.ids[None], layout.visual, tokens[i, None])
            if deepstack:
                raise ValueError(
                    f"a {self.family.name} has deepstack features, and cannot be trained from scratch here"
                )
            position_ids, stays = self._positions(layout, grid, float(batch["seconds_per_unit"][i])), None
            if batch["kept"]:
                stays = layout.kept_mask(batch["kept"][i])
                position_ids = torch.arange(int(stays.sum())).expand(len(position_ids), -1)  # compact
            embeddings.append(merged[0] if stays is None else merged[0, stays])
            positions.append(position_ids.T)
            ignored = torch.full((position_ids.shape[1] - len(answer),), IGNORED)
            labels.append(torch.cat([ignored, answer.cpu()]))
        padded = pad_sequence(positions, batch_first=True).permute(2, 0, 1)  # [P, B, N]
        return (
            pad_sequence(embeddings, batch_first=True),
            (padded if len(padded) > 1 else padded[0]).to(self.device),
            pad_sequence(labels, batch_first=True, padding_value=IGNORED).to(self.device),
        )

    def _positions(self, layout: Layout, grid: tuple[int, int, int], seconds: float) -> Tensor:
        """Return the positions of a clip with so many seconds between its units: int64 [P, N]."""
        position_ids = self.lm.position_ids(layout, grid, seconds)
        if torch.equal(position_ids, self.lm.position_ids(layout, grid, 2 * seconds + 1)):  # they ignore time
            position_ids = position_ids + _spread(layout, position_ids[0], seconds)
        return position_ids

    def configure_optimizers(self) -> dict[str, Any]:
        """Build AdamW with linear warm-up and a cosine to a hundredth."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr, weight_decay=0.01, betas=(0.9, 0.98))
        steps, warmup = self.trainer.estimated_stepping_batches, self.hparams.warmup_steps
        if not warmup < steps < math.inf:
            length = f"has {steps} steps" if steps > 0 else "has no end"
            advice = "set --trainer.max_steps or --trainer.max_epochs, or lower --model.warmup_steps"
            raise ValueError(f"the training {length}, but the warm-up takes {warmup}: {advice}")
        return warmup_cosine(optimizer, int(steps), warmup, floor=0.01)

    def configure_callbacks(self) -> list[Callback]:
        """Return the callback that saves a checkpoint to resume from."""
        return [ResumePoint(Path(self.trainer.default_root_dir) / FOLDER / LAST, self.hparams.save_every)]

    def on_train_epoch_end(self) -> None:
        """Save in Hugging Face layout, with the family's tokenizer and other files."""
        self._save()

    def on_fit_end(self) -> None:
        """Save again if the training was complete before: its weights may have been replaced since."""
        if self.trainer.ckpt_path:
            self._save()

    def _save(self) -> None:
        if not self.trainer.is_global_zero:
            return
        folder = Path(self.trainer.default_root_dir)
        if folder.resolve() != Path(self.family.path).resolve():
            ignored = shutil.ignore_patterns("*.safetensors", "csv", "tensorboard", FOLDER)  # files of another training
            shutil.copytree(self.family.path, folder, dirs_exist_ok=True, ignore=ignored)
        self.model.save_pretrained(folder)


def _spread(layout: Layout, axis: Tensor, seconds_per_unit: float) -> Tensor:
    """Return how far each token moves if unit u takes the position of unit u * `seconds_per_unit`: int64 [N].

    A video of one unit per second then has no positions that are far beyond those of training.
    """
    units = torch.arange(int(layout.unit.max()) + 1)
    begins = [int(axis[layout.unit == unit].min()) for unit in units[:2]]
    moved = (units * max(1.0, seconds_per_unit)).long() - units
    moved *= begins[-1] - begins[0]
    after = torch.arange(len(layout.unit)) >= layout.span.stop
    return torch.where(layout.unit >= 0, moved[layout.unit.clamp(min=0)], torch.where(after, moved[-1], 0))
