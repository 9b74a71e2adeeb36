"""Load checkpoints from disk or the hub: configuration first, weights strictly."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file, is_bitsandbytes_available, logging

from flexselect.loading.fingerprint import weight_files
from flexselect.options import LoadingOptions

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def read_config(path: str | Path) -> dict[str, Any]:
    """Read config.json of a local folder or a hub id.

    Raises:
        FileNotFoundError: naming the path, if there is no such file or it cannot be fetched.
    """
    folder = Path(path)
    parent_is_local = str(path).count("/") == 1 and folder.parent.is_dir()  # so "parent/name" is no hub id
    is_path = folder.is_absolute() or str(path).count("/") > 1 or folder.exists() or parent_is_local
    if is_path and not folder.is_dir():
        raise FileNotFoundError(f"{path} is not a folder with a checkpoint")
    try:
        file = cached_file(str(path), "config.json")
    except OSError as error:
        raise FileNotFoundError(
            f"no config.json at {path!r}, neither a local folder nor on the hub: {error}"
        ) from error
    if file is None:
        raise FileNotFoundError(f"no config.json in {path}: not a checkpoint")
    try:
        config = json.loads(Path(file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is cut short or no JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} is damaged: it holds {type(config).__name__}, not an object")
    names, defaults = config.get("architectures") or [], config.get("flexselect", {})
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{file} is damaged: its architectures are {names!r}, not a list of names")
    if not isinstance(defaults, dict) or not all(isinstance(number, int | float) for number in defaults.values()):
        raise ValueError(f"{file}: its flexselect must be an object of numbers, got {defaults!r}")
    return config


@contextmanager
def describing(path: str | Path) -> Iterator[None]:
    """Name the checkpoint's config.json in errors that libraries raise about its fields within a `with` block."""
    try:
        yield
    except (FileNotFoundError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: its config.json does not describe a valid model: {reason}") from error


TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
)


def copy_files(path: str, folder: Path, names: Sequence[str]) -> None:
    """Copy the named files of a checkpoint into a folder; missing files are skipped, existing ones kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        file = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
        if file is not None and not (folder / name).exists():
            shutil.copy(file, folder / name)


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
        reason = _unreadable(Path(path)) or error
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
        layer = text.hidden_size * (3 * text.intermediate_size + 2 * text.hidden_size)
        needed = text.vocab_size * text.hidden_size + text.num_hidden_layers * layer
    if available and needed > 4 * available and not _unreadable(Path(path)):  # 2 weights per byte at 4 bits, times 2
        described = f"a language model of about {needed / 1e9:.1f} billion weights"
        raise ValueError(f"the weights at {path} do not fit its config.json: {described} in {available:,} bytes")


def _unreadable(folder: Path) -> str | None:
    """Name the damaged file of a local checkpoint and the reason; None if no file is damaged."""
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        try:
            safe_open(str(file), "pt")
        except (OSError, SafetensorError) as error:
            return f"{file.name}: {error}; download it again"
    if len(files) > 1 and not (folder / "model.safetensors.index.json").exists():
        return "model.safetensors.index.json, the index of the shards, is missing"
    return None


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


def checked_tokenizer(
    path: str, load: Callable[[str], Any], special: Mapping[str, int | None], text: PreTrainedConfig | None = None
) -> Any:
    """Load a tokenizer and check that it fits the model; a folder without a tokenizer silently gives an empty one.

    Args:
        path: the checkpoint.
        load: function from path to tokenizer.
        special: special tokens that must be single ids, and their expected ids; None: any id.
        text: configuration of the language model, whose vocabulary the tokenizer must fit; None: any vocabulary.

    Raises:
        ValueError: naming the token that is read otherwise, or the size that does not fit.
    """
    try:
        tokenizer = load(path)
        ids_by_token = {token: tokenizer(token, add_special_tokens=False).input_ids for token in special}
    except Exception as error:  # the type depends on which file is damaged
        raise ValueError(f"the tokenizer at {path} is missing or does not belong to the model: {error}") from error
    for token, expected in special.items():
        ids = ids_by_token[token]
        if len(ids) != 1 or expected not in (None, ids[0]):
            raise ValueError(
                f"the tokenizer at {path} is missing or does not belong to the model: "
                f"it reads {token} as {ids}, not as {'one id' if expected is None else expected}"
            )
    if text is not None and len(tokenizer) > text.vocab_size:
        size = f"it has {len(tokenizer)} tokens, the model's vocabulary {text.vocab_size}"
        raise ValueError(f"the tokenizer at {path} does not belong to the model: {size}")
    eos = text.eos_token_id if text is not None else None
    if isinstance(eos, int) and eos not in tokenizer.added_tokens_decoder:
        raise ValueError(f"the tokenizer at {path} does not belong to the model: it has no end-of-text token {eos}")
    return tokenizer
