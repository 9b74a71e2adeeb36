"""The verb `locate`: measure at every layer how well it finds needles, and recommend a reference layer."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from lightning import LightningModule
from torch import Tensor
from torchmetrics import CatMetric

from flexselect.analysis.needle_recall import NeedleClip, clip_states, format_layers, measure_layers, summarise_layers
from flexselect.attention.layers import attention_layers
from flexselect.contracts import Recorded
from flexselect.families import load_lm
from flexselect.families.base import VideoFamily, VideoLM
from flexselect.loading.fingerprint import package_versions, weights_hash
from flexselect.options import LoadingOptions, check_names
from flexselect.storage.run_settings import write_atomically
from flexselect.visualize import recall_by_layer, states_by_layer
from flexselect.visualize.style import check_matplotlib

USE = "# python cli.py predict ... --config {}     (after the model's own configs: the layer that `locate` found)\n"

log = logging.getLogger(__name__)


class Locating(LightningModule):
    """Module that finds the layer whose attention recalls needles best, in one forward pass per clip.

    Of a hybrid only the layers with attention are measured.

    Writes to `--output_dir`: `locate.json`; `use.yaml`, a config for the other verbs; `locate.png`; and
    `states_by_layer.png`.

    Args:
        family: the family of the model.
        options: see `flexselect.options.LoadingOptions`.
    """

    def __init__(self, family: VideoFamily, **options: Any) -> None:
        super().__init__()
        check_names(LoadingOptions, options, "Locating", set_by=("device",))
        self.options = LoadingOptions(device=None, **options)
        self.save_hyperparameters(asdict(self.options))
        self.family = family
        self.measures = CatMetric()  # gathers clips over all processes
        self.chance = 0.0  # recall and pointing of random scores
        self._lm: VideoLM | None = None

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path(self.trainer.default_root_dir)

    def setup(self, stage: str) -> None:
        """Refuse to start without matplotlib, which is needed at the end."""
        check_matplotlib()

    def configure_model(self) -> None:
        """Load the weights onto this process's device, once."""
        if self._lm is None:
            device = str(self.trainer.strategy.root_device)
            self._lm = load_lm(self.family, replace(self.options, device=device))

    def predict_step(self, clip: NeedleClip, batch_idx: int) -> Tensor:
        """Measure every layer; of the first clip also draw hidden states of text, needle and other tokens."""
        assert self._lm is not None
        measures = measure_layers(self._lm, clip)
        self.measures.update(measures[None])
        self.chance = 1 / clip.prompt.clip.num_units
        if batch_idx == 0 and self.trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            states, groups = clip_states(self._lm, clip)
            states_by_layer(states, groups, "Hidden states of a clip").savefig(self.folder / "states_by_layer.png")
        return measures

    @property
    def provenance(self) -> dict[str, Any]:
        """Provenance of the result: model, clips, packages."""
        clips: Recorded = self.trainer.datamodule
        weights = weights_hash(self.family.path)
        return {
            "family": self.family.settings,
            "weights": weights,
            "data": clips.settings,
            "packages": package_versions(),
        }

    def on_predict_end(self) -> None:
        """Gather the measures of all clips, write and draw them, recommend a layer."""
        measures = self.measures.compute().cpu()  # [clips, 2, layers, 2]
        if not self.trainer.is_global_zero:
            return
        layers = attention_layers(self.family.model_config.get_text_config())
        summary_by_layer, folder = summarise_layers(measures, self.chance, layers), self.folder
        write_atomically(folder / "locate.json", json.dumps({**summary_by_layer, **self.provenance}, indent=2))
        recommended = {name: summary_by_layer[name] for name in ("reference_layer", "reduction")}
        write_atomically(
            folder / "use.yaml", USE.format(folder / "use.yaml") + yaml.safe_dump({"model": {"init_args": recommended}})
        )
        recall_by_layer(summary_by_layer).savefig(folder / "locate.png")
        sys.stdout.write(f"{format_layers(summary_by_layer)}, or --config {folder / 'use.yaml'}\n")
        log.info("%s", folder / "locate.png")
