"""Free memory of a device, or free room on a disk."""

from __future__ import annotations

import shutil
import tempfile

import psutil
import torch


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
