"""Facts about the layers of a text model, from its configuration.

In a hybrid (Qwen3.5) only some layers have attention. The others are recurrent: Gated DeltaNet, whose state has a fixed
size, however many tokens it has seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RECURRENT = "linear_attention"  # transformers' name for such a layer


def attention_layers(config: Any) -> list[int]:
    """Return the decoder layers that have attention, 0-based, given the configuration of a text model."""
    kinds = vars(config).get("layer_types") or []
    return [layer for layer in range(config.num_hidden_layers) if RECURRENT not in kinds[layer : layer + 1]]


def is_hybrid(config: Any) -> bool:
    """Return whether some layers are recurrent."""
    return len(attention_layers(config)) < config.num_hidden_layers


def head_width(config: Any) -> int:
    """Return d, the width of an attention head."""
    return int(vars(config).get("head_dim") or config.hidden_size // config.num_attention_heads)


def mlp_width(config: Any) -> int:
    """Return the width of the MLP that a token goes through; of a mixture, the sum over the experts of one token."""
    fields = vars(config)
    if "moe_intermediate_size" not in fields:
        return int(config.intermediate_size)
    experts = int(fields["num_experts_per_tok"]) * int(fields["moe_intermediate_size"])
    return experts + int(fields.get("shared_expert_intermediate_size", 0))


@dataclass(frozen=True)
class Recurrence:
    """Sizes of a recurrent layer."""

    inputs: int  # C, channels of its convolution: queries, keys and values
    heads: int  # of the values
    values: int  # width of the values of all heads
    kernel: int  # k, inputs that the convolution sees
    memory: int  # numbers in the states of all heads

    @classmethod
    def of(cls, config: Any) -> Recurrence:
        """Read the configuration of a hybrid."""
        keys = config.linear_num_key_heads * config.linear_key_head_dim
        values = config.linear_num_value_heads * config.linear_value_head_dim
        memory = values * config.linear_key_head_dim
        return cls(2 * keys + values, config.linear_num_value_heads, values, config.linear_conv_kernel_dim, memory)


def states_bytes(config: Any, layers: int, tokens: int, prompts: int, size: int) -> int:
    """Compute the bytes of the first layers' states after some prompts, see `flexselect.attention.states`.

    Args:
        config: the configuration of a text model.
        layers: number of layers.
        tokens: of all prompts together; keys and values grow with them.
        prompts: number of prompts; each has one state of fixed size in a recurrent layer.
        size: bytes per number of the model's type; the memory of a recurrent layer is float32.
    """
    attention = sum(layer < layers for layer in attention_layers(config))
    growing = 2 * attention * tokens * config.num_key_value_heads * head_width(config) * size
    if attention == layers:
        return growing
    sizes = Recurrence.of(config)
    return growing + (layers - attention) * prompts * (sizes.inputs * sizes.kernel * size + sizes.memory * 4)


def check_layer(layer: int, layers: Sequence[int], name: str = "reference_layer") -> None:
    """Refuse a reference layer that is none of these layers.

    Raises:
        ValueError: with the layers that there are.
    """
    if layer not in layers:
        what = "" if _are_all(layers) else ", the layers with attention,"
        raise ValueError(f"{name} must be {choices_of(layers)}{what} for this model, got {layer}")


def choices_of(layers: Sequence[int]) -> str:
    """Say in a message which layers there are, given their ascending numbers."""
    return f"between 0 and {layers[-1]}" if _are_all(layers) else f"one of {', '.join(map(str, layers))}"


def _are_all(layers: Sequence[int]) -> bool:
    return len(layers) > layers[-1]


def layer_at_same_depth(config: Any, published: Mapping[int, int]) -> int:
    """Return the reference layer that was published for a model of this depth, else the nearest of the same share.

    Args:
        config: the configuration of a text model.
        published: reference layer by number of decoder layers.
    """
    depth, layer = next(iter(published.items()))
    guess = published.get(config.num_hidden_layers, round(config.num_hidden_layers * layer / depth))
    return min(attention_layers(config), key=lambda other: abs(other - guess))
