"""Check a machine and a checkpoint before weights are loaded."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from safetensors import SafetensorError, safe_open

from flexselect.analysis.findings import Findings, gigabytes, listed
from flexselect.analysis.memory import Memory, clip_of, estimate
from flexselect.attention_kernels import KERNELS
from flexselect.families.base import VideoFamily
from flexselect.loading.fingerprint import package_versions, weight_files
from flexselect.options import Options

FRAMES = (64, 256, 1024)
RESERVE = 1.5e9  # bytes that CUDA and PyTorch's allocator need besides tensors


def check_machine(findings: Findings, options: Options) -> None:
    """Name the machine, its GPUs, the versions of packages, and the attention kernels that will be used."""
    cores, memory = os.cpu_count() or 1, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    machine = f"{platform.system()} {platform.machine()}, {cores} cores, {gigabytes(memory)} of memory"
    findings.add("machine", "ok", machine, cores=cores, memory=memory)
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    names = [f"{gpu.name}, {gigabytes(gpu.total_memory)}" for gpu in gpus]
    advice = "" if gpus else "a CPU is enough for the demo model; the published models need a GPU, or hours"
    findings.add("GPUs", "ok" if gpus else "not known", "; ".join(names) or "none", advice, gpus=names)
    versions = package_versions()
    findings.add("versions", "ok", ", ".join(f"{name} {number}" for name, number in versions.items()), **versions)
    order = [kernel.name.lower() for kernel in KERNELS[options.attention_kernels]]
    scoring = [kernel.name.lower() for kernel in KERNELS["flash"]]
    text = f"scoring tries {', '.join(scoring)}; tower and answers, {options.attention_kernels} first"
    if options.attn_implementation != "sdpa":
        text += f", with {options.attn_implementation}"
    known = "ok" if gpus else "not known"
    findings.add("attention kernels", known, text, scoring=scoring, answering=order)  # type: ignore[arg-type]


def check_files(findings: Findings, path: str, weights: int) -> None:
    """Check the weight files: all there, none cut short. Nothing is downloaded.

    Args:
        findings: gets the finding.
        path: local folder or hub id.
        weights: number of weights, for the size of a download in 16 bits.
    """
    files = weight_files(path, download=False)
    missing = [name for name, file in files.items() if file is None]
    if missing and not Path(path).is_dir():
        needed, free = 2 * weights, shutil.disk_usage(Path(HF_HUB_CACHE).anchor).free
        text = f"{path} is not downloaded: about {gigabytes(needed)} to fetch, {gigabytes(free)} of disk are free"
        advice = "" if free > needed else "free some room, or set HF_HOME to another disk"
        findings.add("files", "not known" if free > needed else "not ok", text, advice, needed=needed, free=free)
        return
    if missing:
        findings.add("files", "not ok", f"{path} has no {listed(missing)}", "download the checkpoint again")
        return
    keys, size = 0, 0
    for name, file in files.items():
        try:
            with safe_open(str(file), "pt") as shard:
                keys += len(shard.keys())
        except (OSError, SafetensorError) as error:
            findings.add("files", "not ok", f"{name} cannot be read: {error}", "download this file again")
            return
        size += Path(str(file)).stat().st_size
    findings.add("files", "ok", f"{len(files)} with {keys:,} tensors, {gigabytes(size)}", keys=keys, bytes=size)


def check_tokenizer(findings: Findings, family: VideoFamily) -> None:
    """Check that the tokenizer exists and belongs to the model."""
    with findings.step("tokenizer", "copy the tokenizer's files of the published checkpoint into the folder"):
        prompter = family.prompter()
        ids = prompter.query_ids("What is shown?")
        findings.add("tokenizer", "ok", f"{len(prompter.tokenizer):,} tokens; the text after a video has {len(ids)}")


def check_memory(findings: Findings, family: VideoFamily, options: Options, weights: int) -> None:
    """Estimate the memory at several numbers of frames; not ok if the model does not fit the GPU."""
    rows = {frames: estimate(family, options, clip_of(family, frames), weights) for frames in FRAMES}
    first = rows[FRAMES[0]]
    name = options.quantization or options.dtype
    findings.add("weights", "ok", f"{weights / 1e9:.2f} billion, {gigabytes(first.weights)} in {name}", count=weights)
    available = _available(options)
    for frames, memory in rows.items():
        fits = available is None or memory.peak + RESERVE <= available
        needs = f"{gigabytes(memory.peak)} (encode {gigabytes(memory.encode)}, score {gigabytes(memory.score)}, "
        needs += f"answer {gigabytes(memory.answer)}; keep=scores_kv holds {gigabytes(memory.prefix_cache)} more)"
        state = "not known" if available is None else "ok" if fits else "not ok"
        advice = "" if fits else _advice(memory, available or 0)
        findings.add(f"{frames} frames", state, needs, advice, **vars(memory))  # type: ignore[arg-type]


def _available(options: Options) -> int | None:
    """Return the memory for the model: of one GPU, or of all if it is spread; None: it runs on the CPU."""
    count = torch.cuda.device_count() if str(options.device or "cuda").startswith("cuda") else 0
    sizes = [torch.cuda.get_device_properties(i).total_memory for i in range(count)]
    return None if not sizes else sum(sizes) if options.device_map else sizes[0]


def _advice(memory: Memory, available: int) -> str:
    """Name the option that would make it fit."""
    if memory.weights + RESERVE > available:
        return "spread the model with --model.device_map auto, or load it with --model.quantization 4bit"
    return "lower --family.max_frames, or --model.units_per_set"
