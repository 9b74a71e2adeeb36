"""Compile the parts of a decoder that torch.compile handles well."""

from __future__ import annotations

from torch import nn


def compile_layers(decoder: nn.Module) -> None:
    """Compile MLPs and norms of a decoder; all layers and lengths share a few graphs.

    Attention stays as it is: it knows its layer's number and its cache, so each layer would be compiled again for each
    new length, up to a limit, and run uncompiled after that.
    """
    for layer in decoder.layers:  # type: ignore[union-attr]
        for name, part in layer.named_children():
            if name != "self_attn":
                part.compile(dynamic=True)
