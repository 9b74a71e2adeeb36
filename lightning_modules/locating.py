"""Predict: recall of needles at every layer, and the reference layer to use."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Literal

import torch
from lightning import LightningModule
from torch import Tensor

from flexselect.families.base import VideoFamily, VideoLM
from flexselect.locating import NeedleClip, clip_recalls, summary, table
from flexselect.pipeline import FlexSelect
from flexselect.settings import write_whole
from flexselect.visualize import recall_by_layer

log = logging.getLogger(__name__)


class Locating(LightningModule):
    """Finds the layer whose attention recalls needles best, in one forward pass a clip.

    Writes `locate.json` and `locate.png` to `--output_dir`.

    Args:
        family: of the model; its numbers apply.
        dtype: of the weights.
        device_map: see `FlexSelect.from_pretrained`.
        quantization: see there.
    """

    def __init__(
        self,
        family: VideoFamily,
        dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
        device_map: str | None = None,
        quantization: Literal["4bit", "8bit"] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore="family")
        self.family = family
        self.recalls: list[Tensor] = []
        self.chance = 0.0
        self._lm: VideoLM | None = None

    def configure_model(self) -> None:
        """Load the weights onto this process's device, once."""
        if self._lm is None:
            device = self.trainer.strategy.root_device
            self._lm = FlexSelect.from_pretrained(self.family, **self.hparams, device=device).lm

    def predict_step(self, clip: NeedleClip) -> int:
        """Recall at every layer; how many clips there are now."""
        assert self._lm is not None
        self.recalls.append(clip_recalls(self._lm, clip).cpu())
        self.chance = 1 / clip.prompt.clip.num_units
        return len(self.recalls)

    def on_predict_end(self) -> None:
        """Gather, write, draw, recommend."""
        mine = torch.stack(self.recalls).to(self.trainer.strategy.root_device)
        every = self.all_gather(mine).reshape(-1, *mine.shape[1:]).cpu() if self.trainer.world_size > 1 else mine.cpu()
        if not self.trainer.is_global_zero:
            return
        found, folder = summary(every, self.chance), Path(self.trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "locate.json", json.dumps({**found, "family": self.family.settings}, indent=2))
        recall_by_layer(folder / "locate.png", found)
        log.info("%s\n%s", table(found), folder / "locate.png")
