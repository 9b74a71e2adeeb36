"""Check a machine and a checkpoint before weights are loaded."""

from __future__ import annotations

import os
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from safetensors import safe_open

from flexselect.analysis.findings import Findings, State, count, gigabytes, listed
from flexselect.analysis.memory import estimate, most_frames
from flexselect.analysis.operations import operations
from flexselect.analysis.plan import Plan
from flexselect.attention.kernels import KERNELS
from flexselect.engine.clock import Clock
from flexselect.loading.checkpoint_files import Damage, damage_of, weight_files
from flexselect.loading.fingerprint import package_versions
from flexselect.loading.weights import LoadOptions, load_weights
from flexselect.options import Options
from flexselect.running.greedy import CHANGES_ANSWERS
from flexselect.scoring.factory import is_trained
from flexselect.selectors.lite_selector import check_made_for, selector_at
from flexselect.shipped import checkpoint_folder
from flexselect.storage.run_settings import read_json_object

FRAMES = (64, 256, 1024)
VIDEO_TOKENS = ("<|video_pad|>", "<|video|>")  # of Qwen's and GLM's models, whose config.json has its id
RESERVE = 1.5e9  # bytes that CUDA and PyTorch's allocator need besides tensors, on each GPU


@dataclass(frozen=True)
class GPU:
    """A GPU of this machine; sizes in bytes."""

    name: str
    total: int
    free: int


def find_gpus() -> list[GPU]:
    """List the GPUs of this machine."""
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    sizes = [torch.cuda.mem_get_info(i) for i in range(len(names))]
    return [GPU(name, total, free) for name, (free, total) in zip(names, sizes)]


def memory_of_machine() -> int:
    """Return the size of the CPU's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_machine(findings: Findings, options: Options) -> None:
    """Name the machine, its GPUs, the versions of packages, and the attention kernels that will be tried."""
    cores, memory = os.cpu_count() or 1, memory_of_machine()
    machine = f"{platform.system()} {platform.machine()}, {cores} cores, {gigabytes(memory)} of memory"
    findings.add("machine", "ok", machine, cores=cores, memory=memory)
    gpus = find_gpus()
    names = [f"{gpu.name}, {gigabytes(gpu.free)} of {gigabytes(gpu.total)} free" for gpu in gpus]
    advice = "" if gpus else "a CPU is enough for the demo model; for others see `time` below"
    findings.add("GPUs", "ok" if gpus else "not known", "; ".join(names) or "none", advice, gpus=names)
    versions = package_versions()
    findings.add("versions", "ok", ", ".join(f"{name} {number}" for name, number in versions.items()), **versions)
    order = [kernel.name.lower() for kernel in KERNELS[options.attention_kernels]]
    scoring = [kernel.name.lower() for kernel in KERNELS["flash"]]
    text = f"scoring tries {', '.join(scoring)}; tower and answers, {options.attention_kernels} first"
    if options.attn_implementation != "sdpa":
        text += f", with {options.attn_implementation}"
    findings.add("attention kernels", "ok", text, scoring=scoring, answering=order)


def check_files(findings: Findings, name: str, path: str, weights: int | None) -> bool:
    """Check weight files: all there, none cut short. Nothing is downloaded.

    Args:
        findings: gets the finding.
        name: name of the finding.
        path: local folder or hub id.
        weights: number of weights, for the size of a download in 16 bits; None: not known.

    Returns:
        Whether the files are there and whole.
    """
    files = weight_files(path, download=False)
    missing = [file_name for file_name, file in files.items() if file is None]
    if missing and not Path(path).is_dir():
        _to_download(findings, name, path, weights)
        return False
    folder = path if Path(path).is_dir() else str(Path(str(next(iter(files.values())))).parent)
    damage = damage_of(folder)
    if damage is None and missing:
        damage = Damage(f"{path} has no {listed(missing)}", "download the checkpoint again")
    if damage is not None:
        findings.add(name, "not ok", damage.reason, damage.advice)
        return False
    keys, size = 0, 0
    for file in files.values():
        with safe_open(str(file), "pt") as shard:
            keys += len(shard.keys())
        size += Path(str(file)).stat().st_size
    findings.add(name, "ok", f"{len(files)} with {keys:,} tensors, {gigabytes(size)}", keys=keys, bytes=size)
    return True


def _to_download(findings: Findings, name: str, path: str, weights: int | None) -> None:
    """Say that a checkpoint is not downloaded, and whether the disk has room for it."""
    free = shutil.disk_usage(Path(HF_HUB_CACHE).anchor).free
    needed = 2 * (weights or 0)
    size = "its size is not known" if weights is None else f"about {gigabytes(needed)} to fetch"
    text, fits = f"{path} is not downloaded: {size}, {gigabytes(free)} of disk are free", free > needed
    advice = "" if fits else "free some room, or set HF_HOME to another disk"
    findings.add(name, "not known" if fits else "not ok", text, advice, needed=needed, free=free)


def check_tokenizer(findings: Findings, plan: Plan) -> None:
    """Check that the tokenizer exists and belongs to the model."""
    with findings.step("tokenizer", "copy the tokenizer's files of the published checkpoint into the folder"):
        prompter = plan.prompter
        ids = prompter.query_ids("What is shown?")
        expected, vocabulary = plan.family.config.get("video_token_id"), prompter.tokenizer.get_vocab()
        actual = {token: vocabulary[token] for token in VIDEO_TOKENS if token in vocabulary}
        if expected is not None and expected not in actual.values():
            read = " and ".join(f"{token} as {number}" for token, number in actual.items()) or "no video token"
            raise ValueError(f"video_token_id in config.json is {expected}, the tokenizer reads {read}")
        findings.add("tokenizer", "ok", f"{len(prompter.tokenizer):,} tokens; the text after a video has {len(ids)}")


def check_generation(findings: Findings, path: str) -> None:
    """Say what generation_config.json changes about answers, which are greedy: numbers of sampling have no effect."""
    file = Path(checkpoint_folder(path)) / "generation_config.json"
    if not file.is_file():
        return
    with findings.step("generation_config.json", "download the file again, or delete it"):
        settings = read_json_object(file)
        changing = {name: settings[name] for name in CHANGES_ANSWERS if settings.get(name) not in (None, 1, 1.0, 0)}
        listing = ", ".join(f"{name} {value}" for name, value in changing.items())
        text = f"{listing} changes greedy answers, as in transformers" if changing else "answers are greedy"
        findings.add("generation_config.json", "ok", text, **changing)


def check_shapes(findings: Findings, plan: Plan) -> None:
    """Check that every weight of the model has a tensor of its name and shape, without reading values.

    A forward pass of shapes must then succeed: it uses numbers that no weight depends on, such as M-RoPE's sections.
    """
    with findings.step("names and shapes", "these weights are not of this config.json; download both again"):
        lm = plan.family.load(LoadOptions(shapes_only=True))
        findings.add("names and shapes", "ok", "every weight has its tensor")
        with findings.step("forward pass", "config.json is not that of the published checkpoint; download it again"):
            width = lm.model.config.get_text_config().hidden_size
            embeddings = torch.empty(1, 8, width, dtype=lm.model.dtype, device="meta")
            mask = torch.empty(1, 1, 8, 8, dtype=torch.bool, device="meta")  # 4-D: transformers reads no value of it
            lm.decoder.rotary_emb.rope_type = "default"  # "dynamic" looks at positions
            lm.decoder(inputs_embeds=embeddings, attention_mask=mask, use_cache=False)


def check_selector(findings: Findings, plan: Plan) -> None:
    """Check that a trained selector is whole and made for this model; nothing is downloaded."""
    path = plan.options.selector
    if not is_trained(path) or not check_files(findings, "selector's files", path, None):
        return
    with findings.step("selector", "choose a selector that was trained for this model, or --model.selector self"):
        kind, config = selector_at(path)
        load_weights(kind, path, config, LoadOptions(shapes_only=True))
        check_made_for(path, config, plan.family)
        text = f"{count(plan.selector_weights)} weights in {config.text_config.num_hidden_layers} layers"
        findings.add("selector", "ok", text, count=plan.selector_weights)


def check_memory(findings: Findings, plan: Plan) -> None:
    """Estimate the memory at several numbers of frames; not ok if the frames of this config do not fit."""
    options, limit = plan.options, plan.max_frames
    rows = {frames: estimate(plan, plan.clip(frames)) for frames in sorted({*FRAMES, limit})}
    held = rows[limit].weights
    text = f"{count(plan.weights)}, {gigabytes(held)} in {options.quantization or options.dtype}"
    findings.add("weights", "ok", text + (", selector included" if plan.selector_weights else ""), count=plan.weights)
    available, place = _room(options)
    for frames, memory in rows.items():
        fits = memory.peak <= available
        text = f"{gigabytes(memory.peak)} (encode {gigabytes(memory.encode)}, score {gigabytes(memory.score)}, "
        text += f"answer {gigabytes(memory.answer)}; keep=scores_kv holds {gigabytes(memory.prefix_cache)} more)"
        state: State = "ok" if fits else "not ok" if frames <= limit else "not known"
        advice = "" if fits or frames <= limit else f"does not fit, but this config takes at most {limit:,} frames"
        findings.add(f"{frames} frames", state, text, advice, **vars(memory))
    most = most_frames(plan, available)
    advice = "" if most >= limit else f"lower --family.max_frames to {most}, or lower --model.units_per_set"
    if not most:
        advice = "spread the model with --model.device_map auto, or load it with --model.quantization 4bit"
    text = f"up to {most:,} frames fit in {place}; this config takes at most {limit:,}"
    findings.add("room", "not ok" if advice else "ok", text, advice, frames=most, available=available)


def _room(options: Options) -> tuple[float, str]:
    """Return the bytes that tensors may fill, and where: one GPU, all GPUs if the model is spread, or the CPU."""
    gpus = [] if torch.device(options.device or "cuda").type == "cpu" else find_gpus()
    if not gpus:
        memory = memory_of_machine()
        return memory - RESERVE, f"{gigabytes(memory)} of the CPU's memory"
    if options.device_map is None:
        gpus = [gpus[torch.device(options.device or "cuda").index or 0]]
    free = sum(gpu.free for gpu in gpus)
    return free - RESERVE * len(gpus), f"{gigabytes(free)} that are free on {len(gpus)} GPU{'s'[: len(gpus) - 1]}"


def check_time(findings: Findings, plan: Plan) -> None:
    """Compute the least seconds to an answer, from the rate of a matrix product that is measured here."""
    loading, limit = LoadOptions.of(plan.options), plan.max_frames
    rate = matrix_rate(str(loading.device), loading.dtype, 8192 if torch.cuda.is_available() else 1024)
    costs = {frames: operations(plan, plan.clip(frames)) for frames in sorted({*FRAMES, limit}) if frames <= limit}
    seconds = {n: {stage: cost / rate for stage, cost in stages.items()} for n, stages in costs.items()}
    listed_seconds = ", ".join(f"{sum(stages.values()):.3g} s for {n:,} frames" for n, stages in seconds.items())
    text = f"at least {listed_seconds}, at {rate / 1e12:.3g} TFLOP/s of a matrix product here; without decoding"
    findings.add("time", "ok", text, rate=rate, seconds=seconds)


def matrix_rate(device: str, dtype: torch.dtype | str, size: int) -> float:
    """Measure operations per second in a large matrix product, the best of ten."""
    a, best = torch.randn(size, size, device=device).to(dtype), float("inf")
    clock = Clock([a.device] if a.is_cuda else [])
    for _ in range(10):
        clock.stop()
        began = time.perf_counter()
        a @ a
        clock.stop()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
