"""Which of PyTorch's attention kernels run, and an attention function for prompts that are padded on the left.

On Hopper and Blackwell, PyTorch itself prefers cuDNN's kernel. That kernel plans anew for every new length: 20 to 40 ms
per new token while decoding, more in training. Here every question has another length. So flash-attention comes first,
then the memory-efficient kernel, then plain matrix products. None of this matters on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

FLASH_FIRST = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
KERNELS = {"flash": FLASH_FIRST, "cudnn": [SDPBackend.CUDNN_ATTENTION, *FLASH_FIRST]}

PADDED = "flexselect_padded"  # the attention function's name in transformers


@contextmanager
def attention_kernels(first: str = "flash") -> Iterator[None]:
    """Choose the order in which PyTorch tries its attention kernels within a block.

    Args:
        first: "flash" or "cudnn".
    """
    with sdpa_kernel(KERNELS[first], set_priority=True):
        yield


def padded_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """Make the mask of padded prompts: bool [B, 1, n, N]; None: nothing is masked.

    Padding attends to nothing, and some kernels return NaN for such rows. Here these rows attend to everything. No
    other row attends to them, so nothing that counts is changed.
    """
    mask = sdpa_mask(*args, **kwargs)
    return mask if mask is None else mask | ~mask.any(-1, keepdim=True)


AttentionInterface.register(PADDED, sdpa_attention_forward)
AttentionMaskInterface.register(PADDED, padded_mask)
