"""Time to the first token of the released sizes on a GPU, with real shapes and random weights built on the device.

    python -m bench.gpu                                       (about a quarter of an hour on an H200)
    python -m bench.gpu --tiny --device cpu --frames 4        (the same program on small shapes, to try it)

Pixels are random and lie on the device, so decoding is not measured. Rates are the operations of `bench.roofline` per
second. The rate of a large matrix product on the same card is printed for comparison.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, InternVLConfig, LlavaOnevisionConfig, Qwen2_5_VLConfig
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from bench.measure import require_gpu, write_result
from bench.roofline import MODELS, SMALL, computed
from flexselect import FlexSelect, LiteSelector
from flexselect.analysis.after_loading import first_token
from flexselect.analysis.before_loading import matrix_rate
from flexselect.attention.kernels import KERNELS
from flexselect.families import family_of
from flexselect.loading.compilation import compile_layers
from flexselect.scoring.lite import LiteScorer
from flexselect.scoring.reference_layer import ReferenceLayerScorer
from flexselect.selectors.lite_selector import selector_config
from flexselect.structures.prompt import VideoClip, VideoPrompt

FRAMES, ROUNDS = (64, 128, 256, 512, 1024), 3
TINY = {"hidden_size": 96, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}


def text(decoder: Any, tiny: bool, **more: Any) -> dict[str, Any]:
    """Return the arguments of a language model's configuration.

    Args:
        decoder: the shapes, a `bench.roofline.Decoder`.
        tiny: use small sizes instead.
        **more: arguments that are added or replaced.
    """
    sizes = {
        "hidden_size": decoder.width,
        "intermediate_size": decoder.inner,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.kv_heads,
    }
    fixed = {"num_hidden_layers": decoder.layers, "vocab_size": 152064, "bos_token_id": 0, "eos_token_id": 1}
    return {
        **fixed,
        **sizes,
        **(TINY if tiny else {}),
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        **more,
    }


def configuration(name: str, tiny: bool) -> tuple[Any, tuple[int, int], tuple[int, ...]]:
    """Return a model's configuration, the token grid of a unit, and the shape of a unit's pixel values."""
    model = next(model for model in MODELS if model.name == name)
    tower = {"hidden_size": model.tower.width, "intermediate_size": model.tower.inner}
    ids = {"image_token_id": 9, "video_token_id": 9, "tie_word_embeddings": False}
    if name.startswith("Qwen"):
        vision = {**tower, "depth": 32, "num_heads": 16, "out_hidden_size": TINY["hidden_size"] if tiny else 3584}
        section = [4, 4, 4] if tiny else [16, 24, 24]
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section}
        small = {"hidden_size": 64, "intermediate_size": 96, "depth": 2, "fullatt_block_indexes": [1], "num_heads": 4}
        decoder = text(model.llm, tiny, rope_parameters=rope)
        config: Any = Qwen2_5_VLConfig(text_config=decoder, vision_config=vision | (small if tiny else {}), **ids)
        return config, (11, 20), (880, 1176)
    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    if name.startswith("LLaVA"):
        vision = {**tower, "num_hidden_layers": 26, "num_attention_heads": 16, "image_size": 384, "patch_size": 14}
        vision |= {"model_type": "siglip_vision_model", "vision_use_head": False, **(small if tiny else {})}
        decoder = text(model.llm, tiny, model_type="qwen2")
        config = LlavaOnevisionConfig(text_config=decoder, vision_config=vision, mm_newline_position="grid", **ids)
        return config, (14, 15), (1, 3, 384, 384)
    vision = {**tower, "num_hidden_layers": 24, "num_attention_heads": 16, "attention_bias": True}
    vision |= {"image_size": [448, 448], "patch_size": [14, 14], **(small if tiny else {})}
    ids.pop("video_token_id")
    decoder = text(model.llm, tiny, model_type="llama")
    return (
        InternVLConfig(text_config=decoder, vision_config=vision, image_seq_length=256, **ids),
        (1, 258),
        (1, 3, 448, 448),
    )


def build(config: Any, folder: Path, device: str, tiny: bool) -> tuple[Any, Any, LiteSelector]:
    """Build family, model and selector, with random weights made on the device."""
    config.save_pretrained(folder)
    family = family_of(str(folder))
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    small = {"hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, "num_key_value_heads": 2}
    sizes = (TINY if tiny else small) | {"num_hidden_layers": SMALL.layers}
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype).eval().requires_grad_(False)
        selector = LiteSelector(selector_config(family, sizes)).to(dtype).eval().requires_grad_(False)
    return family, family.wrap(model), selector


def measured(
    fs: FlexSelect, mode: str, model: Any, prompt: VideoPrompt, warm_up: VideoPrompt, frames: int
) -> dict[str, Any]:
    """Measure one mode at one number of frames; the row has `error` if the GPU memory was not enough.

    The warm-up has another length, as an earlier question would: what is planned or compiled for a length is measured.
    """
    row = {"model": model.name, "mode": mode, "frames": frames}
    try:
        first_token(fs, warm_up)
        first, *rounds = [first_token(fs, prompt) for _ in range(ROUNDS + 1)]
    except torch.OutOfMemoryError:
        return {**row, "error": "out of memory"}
    seconds = {stage: statistics.median(run.seconds[stage] for run in rounds) for stage in first.seconds}
    cost = computed(model, frames)
    operations = {"encode": cost["tower"], "score": cost.get(f"score_{mode}", 0.0)}
    operations["prefill"] = cost["prefill_dense" if mode == "dense" else "prefill_kept"]
    rates = {stage: operations[stage] / seconds[stage] / 1e12 for stage in operations if operations[stage]}
    total = sum(seconds.values())
    return {
        **row,
        "seconds": seconds,
        "first_token_s": total,
        "first_call_s": sum(first.seconds.values()),
        "tflops_by_stage": rates,
        "peak_gb": max(first.peaks.values()) / 1e9 if first.peaks else None,
        "peak_gb_by_stage": {stage: peak / 1e9 for stage, peak in first.peaks.items()},
    }


def random_prompt(grid: tuple[int, int], shape: tuple[int, ...], units: int, weight: Tensor) -> VideoPrompt:
    """Return a prompt with a video of noise between two texts.

    Args:
        grid: token rows and columns of a unit.
        shape: shape of a unit's pixel values.
        units: number of units.
        weight: a weight of the model; pixels get its device and dtype.
    """
    pixels = torch.randn(units * shape[0], *shape[1:], device=weight.device, dtype=weight.dtype)
    return VideoPrompt(VideoClip(pixels, (units, *grid)), torch.arange(10, 25), torch.arange(30, 94))


def show(row: dict[str, Any]) -> None:
    """Print a row of the table."""
    head = f"{row['model']:16}{row['mode']:7}{row['frames']:7}"
    if "error" in row:
        print(f"{head}  {row['error']}", flush=True)
        return
    seconds = "".join(f"{row['seconds'][stage]:10.3f}" for stage in ("encode", "score", "prefill"))
    known = row.get("tflops_by_stage", {})
    rates = "".join(f"{known[stage]:9.1f}" if stage in known else f"{'-':>9}" for stage in row["seconds"])
    print(
        f"{head}{seconds}{row['first_token_s']:10.3f}{row['first_call_s']:10.3f}{rates}{row['peak_gb'] or 0:9.1f}",
        flush=True,
    )


def main() -> None:
    """Print one row per model, mode and number of frames."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=list(FRAMES))
    names = [model.name for model in MODELS]
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small shapes to try the program; no results are written")
    parser.add_argument("--kernels", choices=list(KERNELS), default="flash")
    parser.add_argument("--compile", action="store_true", help="compile MLPs and norms")
    options = parser.parse_args()
    require_gpu(parser, options.device)
    if min(options.frames) < 2:
        parser.error("--frames must be at least 2, one unit of Qwen2.5-VL")
    disable_progress_bar()
    set_verbosity_error()
    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    rate = matrix_rate(options.device, dtype, 512 if options.tiny else 8192)
    print(f"{options.device}: {rate / 1e12:.1f} TFLOP/s in a matrix product; seconds, TFLOP/s by stage, gigabytes")
    heads = ("encode", "score", "prefill", "later", "first")
    print(f"{'model':16}{'mode':7}{'frames':>7}" + "".join(f"{head:>10}" for head in heads), end="")
    print("".join(f"{head:>9}" for head in (*heads[:3], "peak GB")))
    rows = []
    for model in (model for model in MODELS if model.name in options.models):
        config, grid, shape = configuration(model.name, options.tiny)
        with tempfile.TemporaryDirectory() as folder:
            family, lm, selector = build(config, Path(folder), options.device, options.tiny)
            layer, lm.kernels = model.layer, options.kernels
            if options.compile:
                compile_layers(lm.decoder)
            scorers = {"dense": None, "self": ReferenceLayerScorer(lm, layer), "lite": LiteScorer(lm, selector)}
            for frames in options.frames:
                units, weight = frames // model.unit_frames, next(lm.model.parameters())
                prompt, warm_up = (random_prompt(grid, shape, count, weight) for count in (units, units + 1))
                for mode, scorer in scorers.items():
                    fs = FlexSelect(lm, family, scorer, budget=model.budget)
                    rows.append(measured(fs, mode, model, prompt, warm_up, frames))
                    if options.tiny:
                        rows[-1].pop("tflops_by_stage", None)  # operations are known for the published shapes only
                    show(rows[-1])
        del lm, selector, scorers, scorer, fs, prompt, warm_up, weight  # before the next model is built
    if not options.tiny:
        card = torch.cuda.get_device_name() if options.device != "cpu" else "CPU"
        extra = [str(count) for count in options.frames] if options.frames != list(FRAMES) else []
        extra += [] if options.models == names else options.models
        extra += [options.kernels] * (options.kernels != "flash") + ["compile"] * options.compile
        write_result(
            "_".join(["gpu", *extra]),  # so that no run overwrites another one
            {
                "card": card,
                "matmul_tflops": rate / 1e12,
                "rounds": ROUNDS,
                "kernels": options.kernels,
                "compile": options.compile,
            },
            rows,
        )


if __name__ == "__main__":
    main()
