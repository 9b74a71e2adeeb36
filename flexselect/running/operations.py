"""Count the operations of a model's parts, from shapes alone.

Multiplications and additions of matrix products and attention count as one operation each. Causal attention counts
half. The tower's patch embedding, the projection to visual tokens and the logits are not counted: together a few per
cent of a model of published size. Nor is the merger inside MiniCPM-V's tower, about a fifth of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flexselect.attention.layers import Recurrence, attention_layers, head_width, mlp_width


@dataclass(frozen=True)
class Decoder:
    """Shapes of a language model."""

    layers: int
    width: int
    inner: int  # width of the MLP that a token goes through, which has three matrices
    heads: int
    kv_heads: int
    attended: int  # width of all heads together
    recurrent: tuple[int, ...] = ()  # layers without attention; where there are some, attention has a gate
    recurrence: Recurrence | None = None  # their sizes

    @classmethod
    def of(cls, config: Any) -> Decoder:
        """Read the configuration of a language model."""
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        recurrent = tuple(sorted({*range(layers)} - {*attention_layers(config)}))
        sizes = layers, config.hidden_size, mlp_width(config), heads, config.num_key_value_heads
        recurrence = Recurrence.of(config) if recurrent else None
        return cls(*sizes, heads * head_width(config), recurrent, recurrence)

    def operations(self, tokens: int, layers: int) -> float:
        """Count the operations of the first layers over one prompt."""
        recurrent = sum(layer < layers for layer in self.recurrent)
        projections = (3 if self.recurrent else 2) * self.attended + 2 * self.kv_heads * self.attended // self.heads
        attention = 2 * tokens * self.width * projections + 2 * tokens**2 * self.attended
        every = 2 * tokens * self.width * 3 * self.inner
        return layers * every + (layers - recurrent) * attention + recurrent * tokens * self._of_recurrence

    @property
    def _of_recurrence(self) -> float:
        """Operations of a recurrent layer without its MLP, per token: it reads its state twice and writes it once."""
        if self.recurrence is None:
            return 0.0
        sizes = self.recurrence
        matrices = self.width * (sizes.inputs + 2 * sizes.values + 2 * sizes.heads) + sizes.inputs * sizes.kernel
        return 2 * matrices + 6 * sizes.memory

    def cache_gb(self, tokens: int, layers: int) -> float:
        """Compute the size of keys and values in bfloat16, in GB."""
        return layers * tokens * 2 * self.kv_heads * (self.attended // self.heads) * 2 / 1e9


@dataclass(frozen=True)
class Tower:
    """Shapes of a vision tower and of a unit of frames."""

    layers: int
    width: int
    inner: int  # width of the MLP
    matrices: int  # number of matrices in the MLP
    patches: int  # patches per unit
    seen: float  # patches that one patch attends to, on average over the layers
    merged: int = 0  # the last layers, which run on a quarter of the patches (MiniCPM-V)

    @classmethod
    def of(cls, config: Any, height: int, width: int) -> Tower:
        """Read the configuration of a tower, for frames of a size in pixels."""
        fields, is_glm = vars(config), config.model_type.startswith("glm4v")
        layers = fields.get("depth") or fields["num_hidden_layers"]
        patch = config.patch_size if isinstance(config.patch_size, int) else config.patch_size[0]
        patches, windows = (height // patch) * (width // patch), fields.get("fullatt_block_indexes")
        seen = float(patches)
        if windows is not None:  # the other layers attend within windows
            seen = ((layers - len(windows)) * (config.window_size // patch) ** 2 + len(windows) * patches) / layers
        inner = config.out_hidden_size if is_glm else config.intermediate_size  # so its MLP is made in transformers
        matrices = 2 if windows is None and not is_glm else 3
        merged = layers - 1 - fields.get("insert_layer_id", layers - 1)
        return cls(layers, config.hidden_size, inner, matrices, patches, seen, merged)

    def operations(self, units: int) -> float:
        """Count the operations for some units."""
        whole = (self.layers - self.merged) * self._of_layer(self.patches, self.seen)
        return units * (whole + self.merged * self._of_layer(self.patches / 4, self.seen / 4))

    def _of_layer(self, patches: float, seen: float) -> float:
        """Count the operations of a layer over the patches of a unit, each of which attends to `seen` of them."""
        weights = 4 * self.width**2 + self.matrices * self.width * self.inner
        return patches * (2 * weights + 4 * seen * self.width)
