"""Load checkpoints from disk or the hub: configuration first, weights strictly."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import is_bitsandbytes_available, logging

from flexselect.attention.layers import mlp_width
from flexselect.loading.checkpoint_files import damage_of, describing, weight_files
from flexselect.options import LoadingOptions

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class LoadOptions:
    """Options of loading weights and placing them on devices; the same for every family."""

    dtype: torch.dtype | str = torch.bfloat16
    device: torch.device | str = "cpu"
    device_map: str | dict | None = None  # "auto": spread over all GPUs, then CPU memory, then disk (accelerate)
    offload_folder: str | None = None  # folder for offloaded layers that must be converted first
    attn_implementation: str = "sdpa"
    quantization: str | None = None  # "4bit" or "8bit", through bitsandbytes
    num_layers: int | None = None  # load only the first layers: enough to score, not to answer; None: all
    shapes_only: bool = False  # tensors without values: tells in seconds whether all weights are there and fit

    @classmethod
    def of(cls, options: LoadingOptions, num_layers: int | None = None) -> LoadOptions:
        """Convert the loading options of a run; the default device is a GPU if there is one."""
        device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        placement = device, options.device_map, options.offload_folder, options.attn_implementation
        return cls(DTYPES[options.dtype], *placement, options.quantization, num_layers)


def load_weights(
    model_class: type[PreTrainedModel], path: str, config: PreTrainedConfig, options: LoadOptions
) -> PreTrainedModel:
    """Load a checkpoint strictly: missing or unexpected keys are errors, never random tensors.

    Raises:
        ValueError: if the weights cannot be read, or do not fit the architecture; naming the keys.
    """
    _check_size(path, config)
    if options.num_layers is not None:
        config = _first_layers(config, options.num_layers)
    with _quiet(options):
        model, report = _read(model_class, path, config, options)
    if options.num_layers is not None:
        report["unexpected_keys"] = [key for key in report["unexpected_keys"] if not _above(key, options.num_layers)]
    problems = {kind: sorted(map(str, keys)) for kind, keys in report.items() if keys}
    if problems:
        listed = "; ".join(f"{kind}: {', '.join(keys[:5])} ({len(keys)} in all)" for kind, keys in problems.items())
        raise ValueError(f"the weights at {path} do not fit {model_class.__name__}: {listed}")
    if _device_map(options) is None and options.quantization is None:
        model = model.to(options.device)
    return model.eval()


def _read(model_class: Any, path: str, config: PreTrainedConfig, options: LoadOptions) -> tuple[Any, dict[str, Any]]:
    """Read the weights: the model, and transformers' report of keys that found no place."""
    quantization = quantization_config(options)
    try:
        return model_class.from_pretrained(
            None if options.shapes_only else path,
            state_dict=_shapes(path) if options.shapes_only else None,
            config=config,
            dtype=options.dtype,
            attn_implementation=options.attn_implementation,
            device_map=_device_map(options),
            offload_folder=options.offload_folder,
            quantization_config=quantization,
            ignore_mismatched_sizes=True,  # the report names mismatches, and is refused
            output_loading_info=True,
        )
    except torch.OutOfMemoryError:
        raise
    except ImportError as error:  # of an attention kernel
        raise ValueError(f"attn_implementation={options.attn_implementation!r} cannot be used here: {error}") from error
    except Exception as error:  # the type depends on what is damaged
        reason = damage_of(path) or error
        raise ValueError(f"the weights at {path} are missing, cut short or not weights: {reason}") from error


@contextmanager
def _quiet(options: LoadOptions) -> Iterator[None]:
    """Keep transformers from listing every key of skipped layers, and from a progress bar where no value is read."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    if options.num_layers is not None or options.shapes_only:
        logging.set_verbosity_error()
    if options.shapes_only:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _device_map(options: LoadOptions) -> str | dict | None:
    """Return where weights go while they are loaded; None: to the CPU."""
    if options.shapes_only:
        return {"": "meta"}
    if options.device_map is None and torch.device(options.device).type == "cuda":
        return {"": options.device}  # at once: the model never fills the CPU's memory
    return options.device_map


def _shapes(path: str) -> dict[str, Tensor]:
    """Return a checkpoint's tensors by name, without values."""
    tensors: dict[str, Tensor] = {}
    for file in weight_files(path, download=False).values():
        with safe_open(str(file), "pt") as shard:
            names = shard.keys()
            tensors |= {name: torch.empty(shard.get_slice(name).get_shape(), device="meta") for name in names}
    return tensors


def _check_size(path: str, config: PreTrainedConfig) -> None:
    """Refuse a configuration that is far too large for its weights, before it fills memory with random tensors."""
    available = sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))
    with describing(path):
        text = config.get_text_config()
        layer = text.hidden_size * (3 * mlp_width(text) + text.hidden_size)
        needed = text.vocab_size * text.hidden_size + text.num_hidden_layers * layer
    if available and needed > 4 * available and damage_of(path) is None:  # 2 weights per byte at 4 bits, times 2
        described = f"a language model of about {needed / 1e9:.1f} billion weights"
        raise ValueError(f"the weights at {path} do not fit its config.json: {described} in {available:,} bytes")


def _first_layers(config: PreTrainedConfig, count: int) -> PreTrainedConfig:
    """Return a copy of a configuration with `count` decoder layers."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    text.num_hidden_layers = count
    if text.to_dict().get("layer_types"):
        text.layer_types = text.layer_types[:count]
    return config


def _above(key: str, count: int) -> bool:
    """Return whether a weight's key, in any layout, belongs to decoder layer `count` or a later one."""
    match = re.search(r"(?:^|\.)(?:language_model|model)\.layers\.(\d+)\.", key)
    return match is not None and int(match[1]) >= count


def quantization_config(options: LoadOptions) -> BitsAndBytesConfig | None:
    """Return how bitsandbytes quantizes the weights; None: it does not.

    Raises:
        ValueError: if bitsandbytes is not installed.
    """
    if options.quantization is None:
        return None
    if not is_bitsandbytes_available():
        raise ValueError(f"{options.quantization} loading needs bitsandbytes and a GPU: `pip install bitsandbytes`")
    if options.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=options.dtype)
