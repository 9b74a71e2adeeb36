"""On which devices the parts of a loaded model compute, and how much memory is free there."""

from __future__ import annotations

import shutil
import tempfile

import psutil
import torch
from torch import nn


def device_of(module: nn.Module) -> torch.device:
    """Return the device that a module computes on.

    accelerate leaves the weights of an offloaded module elsewhere, as meta tensors, and loads them for each call.
    """
    weight = next(module.parameters())
    if weight.is_meta:
        hooks = (vars(part)["_hf_hook"] for part in module.modules() if "_hf_hook" in vars(part))
        for device in (vars(hook).get("execution_device") for hook in hooks):
            if device is not None:
                return torch.device(device)
    return weight.device


def gpus_of(module: nn.Module) -> set[torch.device]:
    """Return all GPUs that hold weights of a module."""
    return {weight.device for weight in module.parameters() if weight.device.type == "cuda"}


def free_bytes(place: torch.device | str) -> int:
    """Return the free bytes of a device ("cpu", "cuda:0"), or of the disk of temporary files ("disk")."""
    if str(place) == "disk":
        return shutil.disk_usage(tempfile.gettempdir()).free
    device = torch.device(place)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # held by the allocator
        return free + unused
    return psutil.virtual_memory().available
