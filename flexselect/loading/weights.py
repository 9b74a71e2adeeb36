"""Checkpoints from disk or the hub: configuration first, weights strictly."""

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
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file, is_bitsandbytes_available, logging

from flexselect.options import LoadingOptions

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def read_config(path: str | Path) -> dict[str, Any]:
    """Read config.json of a local folder or a hub id.

    Raises:
        FileNotFoundError: naming the path, when there is no such file or it cannot be fetched.
    """
    folder = Path(path)
    below = str(path).count("/") == 1 and folder.parent.is_dir()  # a folder here, not an owner on the hub
    if not folder.is_dir() and (folder.is_absolute() or str(path).count("/") > 1 or folder.exists() or below):
        raise FileNotFoundError(f"{path} is not a folder with a checkpoint")
    try:
        found = cached_file(str(path), "config.json")
    except OSError as error:
        raise FileNotFoundError(
            f"no config.json at {path!r}, neither a local folder nor on the hub: {error}"
        ) from error
    if found is None:
        raise FileNotFoundError(f"no config.json in {path}: not a checkpoint")
    try:
        config = json.loads(Path(found).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{found} is cut short or no JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{found} is damaged: it holds {type(config).__name__}, not an object")
    names, own = config.get("architectures") or [], config.get("flexselect", {})
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{found} is damaged: its architectures are {names!r}, not a list of names")
    if not isinstance(own, dict) or not all(isinstance(number, int | float) for number in own.values()):
        raise ValueError(f"{found}: its flexselect must be an object of numbers, got {own!r}")
    return config


@contextmanager
def describing(path: str | Path) -> Iterator[None]:
    """Whatever a library makes of fields that it does not expect is said of the checkpoint's config.json."""
    try:
        yield
    except (FileNotFoundError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: its config.json describes no model that can be made: {reason}") from error


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
    """Copy those of a checkpoint's files that it has, as they are, where the folder has none of that name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        found = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
        if found is not None and not (folder / name).exists():
            shutil.copy(found, folder / name)


@dataclass(frozen=True)
class LoadOptions:
    """How weights are placed; the same for every family."""

    dtype: torch.dtype | str = torch.bfloat16
    device: torch.device | str = "cpu"
    device_map: str | dict | None = None  # "auto": spread over all GPUs, then memory, then disk (accelerate)
    offload_folder: str | None = None  # for layers on disk that the checkpoint's files do not hold as they are used
    attn_implementation: str = "sdpa"
    quantization: str | None = None  # "4bit" or "8bit", through bitsandbytes
    num_layers: int | None = None  # load only so many decoder layers: enough to score, not to answer

    @classmethod
    def of(cls, options: LoadingOptions, num_layers: int | None = None) -> LoadOptions:
        """What a run's options say of it."""
        device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        placed = device, options.device_map, options.offload_folder, options.attn_implementation
        return cls(DTYPES[options.dtype], *placed, options.quantization, num_layers)


def load_weights(
    model_class: type[PreTrainedModel], path: str, config: PreTrainedConfig, options: LoadOptions
) -> PreTrainedModel:
    """Load a checkpoint, strictly: a key too many or too few is an error, never a random tensor.

    Raises:
        ValueError: when the weights cannot be read, or do not fit the architecture; naming the keys.
    """
    _check_size(path, config)
    verbosity = logging.get_verbosity()
    if options.num_layers is not None:
        config = _first_layers(config, options.num_layers)
        logging.set_verbosity_error()  # it would list every key of the layers that are left out
    try:
        loaded: Any = model_class.from_pretrained(
            path,
            config=config,
            dtype=options.dtype,
            attn_implementation=options.attn_implementation,
            device_map=options.device_map,
            offload_folder=options.offload_folder,
            quantization_config=_quantization(options),
            ignore_mismatched_sizes=True,  # they are in the report, which is refused below with their names
            output_loading_info=True,
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of many kinds, by what is damaged
        reason = _unreadable(Path(path)) or error
        raise ValueError(f"the weights at {path} are missing, cut short or not weights: {reason}") from error
    finally:
        logging.set_verbosity(verbosity)
    model, report = loaded
    if options.num_layers is not None:
        report["unexpected_keys"] = [key for key in report["unexpected_keys"] if not _above(key, options.num_layers)]
    wrong = {kind: sorted(map(str, keys)) for kind, keys in report.items() if keys}
    if wrong:
        listed = "; ".join(f"{kind}: {', '.join(keys[:5])} ({len(keys)} in all)" for kind, keys in wrong.items())
        raise ValueError(f"the weights at {path} do not fit {model_class.__name__}: {listed}")
    if options.device_map is None and options.quantization is None:
        model = model.to(options.device)
    return model.eval()


def _check_size(path: str, config: PreTrainedConfig) -> None:
    """A configuration far too large for its weights would fill memory with random tensors before it is refused."""
    there = sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))
    with describing(path):
        text = config.get_text_config()
        layer = text.hidden_size * (3 * text.intermediate_size + 2 * text.hidden_size)
        needed = text.vocab_size * text.hidden_size + text.num_hidden_layers * layer
    if there and needed > 4 * there and not _unreadable(Path(path)):  # 4 bits a weight, and room to be wrong by half
        described = f"a language model of about {needed / 1e9:.1f} billion weights"
        raise ValueError(f"the weights at {path} do not fit its config.json: {described} in {there:,} bytes")


def _unreadable(folder: Path) -> str | None:
    """Which of a local checkpoint's files is at fault, and why; None where that cannot be said."""
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        try:
            safe_open(str(file), "pt")
        except (OSError, SafetensorError) as error:
            return f"{file.name}: {error}; download it again"
    if len(files) > 1 and not (folder / "model.safetensors.index.json").exists():
        return "model.safetensors.index.json is missing beside the shards"
    return None


def _first_layers(config: PreTrainedConfig, count: int) -> PreTrainedConfig:
    config = copy.deepcopy(config)
    text = config.get_text_config()
    text.num_hidden_layers = count
    if text.to_dict().get("layer_types"):
        text.layer_types = text.layer_types[:count]
    return config


def _above(key: str, count: int) -> bool:
    """Whether a key, of any layout, is of the language model's layer `count` or a later one."""
    found = re.search(r"(?:^|\.)(?:language_model|model)\.layers\.(\d+)\.", key)
    return found is not None and int(found[1]) >= count


def _quantization(options: LoadOptions) -> BitsAndBytesConfig | None:
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
    """Load a tokenizer and make sure that it is the model's: a folder without one gives an empty one, silently.

    Args:
        path: of the checkpoint.
        load: from path to tokenizer.
        special: tokens it must read as one id each, and which id, None where any will do.
        text: configuration of the language model, whose vocabulary it must fit.

    Raises:
        ValueError: naming the token that is read otherwise, or the size that does not fit.
    """
    try:
        tokenizer = load(path)
        read = {token: tokenizer(token, add_special_tokens=False).input_ids for token in special}
    except Exception as error:  # of many kinds, by which of its files is damaged
        raise ValueError(f"the tokenizer at {path} is missing or does not belong to the model: {error}") from error
    for token, expected in special.items():
        found = read[token]
        if len(found) != 1 or expected not in (None, found[0]):
            raise ValueError(
                f"the tokenizer at {path} is missing or does not belong to the model: "
                f"it reads {token} as {found}, not as {'one id' if expected is None else expected}"
            )
    if text is not None and len(tokenizer) > text.vocab_size:
        size = f"it has {len(tokenizer)} tokens, the model's vocabulary {text.vocab_size}"
        raise ValueError(f"the tokenizer at {path} does not belong to the model: {size}")
    end = text.eos_token_id if text is not None else None
    if isinstance(end, int) and end not in tokenizer.added_tokens_decoder:
        raise ValueError(f"the tokenizer at {path} does not belong to the model: id {end} ends no text in it")
    return tokenizer
