"""The options that a module was given."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule


def options_of(module: LightningModule) -> dict[str, Any]:
    """Its saved hyperparameters, without those that Lightning adds for itself."""
    return {name: value for name, value in module.hparams.items() if not name.startswith("_")}
