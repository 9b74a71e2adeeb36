"""Project the tower's output to a selector's visual tokens, one projector per family.

A projector takes the output of `VideoLM.vision`, and returns as many tokens as `VideoLM.project`, in the same order.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLPatchMerger
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionPatchMerger

from flexselect.families.inputs import between_delimiters, with_newlines

MERGE = 2  # patches merged into a token of Qwen's models, in each direction


class LlavaProjector(nn.Module):
    """Two linear layers, pooling by two in both directions, a newline after each row.

    Args:
        vision_size: C, 1152.
        width: d.
    """

    def __init__(self, vision_size: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(vision_size, width)
        self.linear_2 = nn.Linear(width, width)
        self.newline = nn.Parameter(torch.randn(width) / math.sqrt(width))

    def forward(self, vision: Tensor, delimiters: Tensor | None) -> Tensor:
        """Project [t, 729, C] to [210 t, d]."""
        tokens = self.linear_2(functional.gelu(self.linear_1(vision)))
        side = math.isqrt(tokens.shape[1])
        rows = math.ceil(side / 2)
        image = tokens.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        pooled = functional.interpolate(image, size=(rows, rows), mode="bilinear").permute(0, 2, 3, 1)
        return with_newlines(pooled.flatten(1, 2), self.newline)


class QwenProjector(nn.Module):
    """Qwen2.5-VL's merger of 2x2 patches.

    Args:
        vision_size: C of one patch, 1280.
        width: d.
    """

    def __init__(self, vision_size: int, width: int) -> None:
        super().__init__()
        self.merger = self.new_merger(vision_size, width)

    def new_merger(self, vision_size: int, width: int) -> nn.Module:
        """Make the merger."""
        return Qwen2_5_VLPatchMerger(width, vision_size, MERGE)

    def forward(self, vision: Tensor, delimiters: Tensor | None) -> Tensor:
        """Project [v, 4C] to [v, d]."""
        return self.merger(vision.unflatten(1, (MERGE**2, -1)).flatten(0, 1))


class Qwen3Projector(QwenProjector):
    """Qwen3-VL's merger of 2x2 patches. The selector does not see deepstack features, see `LiteSelectorConfig`.

    Args:
        vision_size: C of one patch, 1152.
        width: d.
    """

    def new_merger(self, vision_size: int, width: int) -> nn.Module:
        """Make the merger."""
        config = Qwen3VLVisionConfig(hidden_size=vision_size, out_hidden_size=width, spatial_merge_size=MERGE)
        return Qwen3VLVisionPatchMerger(config)


class InternVLProjector(nn.Module):
    """A norm and two linear layers; frames stand between the selector's embeddings of <img> and </img>.

    Args:
        vision_size: C after pixel shuffle, 4096.
        width: d.
    """

    def __init__(self, vision_size: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(vision_size)
        self.linear_1 = nn.Linear(vision_size, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, vision: Tensor, delimiters: Tensor | None) -> Tensor:
        """Project [t, 256, C], with the embeddings of the delimiters [2, d], to [258 t, d]."""
        assert delimiters is not None
        return between_delimiters(self.linear_2(functional.gelu(self.linear_1(self.norm(vision)))), delimiters)


PROJECTORS: dict[str, type[nn.Module]] = {
    "llava": LlavaProjector,
    "qwen2_5_vl": QwenProjector,
    "internvl": InternVLProjector,
    "qwen3_vl": Qwen3Projector,
}
