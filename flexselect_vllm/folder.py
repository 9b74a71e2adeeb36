"""Write an engine folder: what vLLM loads in place of a checkpoint, with links to the checkpoint's weights."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from flexselect.families.base import VideoFamily
from flexselect.loading.checkpoint_files import weight_files
from flexselect.loading.fingerprint import weights_hash
from flexselect_vllm.config import FlexSelectConfig
from flexselect_vllm.names import check_family
from flexselect_vllm.plugin import ARCHITECTURE

NAME = "flexselect-{}"
TEMPLATE = "{{ messages[0]['content'] }}"  # of no use: a request's item is its prompt


def served_name(family: VideoFamily) -> str:
    """Return the name under which a server has this checkpoint: with the hash of its weights."""
    return NAME.format(weights_hash(family.path)[:12])


def levels_of(family: VideoFamily) -> int:
    """Return E, the number of decoder layers that take visual features beside the embeddings."""
    return len(family.model_config.to_dict()["vision_config"].get("deepstack_visual_indexes", ()))


def is_engine_folder(folder: Path) -> bool:
    """Return whether a folder was written here before."""
    try:
        return json.loads((folder / "config.json").read_text())["model_type"] == FlexSelectConfig.model_type
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_engine_folder(family: VideoFamily, folder: Path) -> Path:
    """Write the folder of a family's language model; return it.

    Raises:
        FileNotFoundError: if the checkpoint has no weights in safetensors.
        ValueError: if the folder holds something else, or if vLLM cannot answer for this family here.
    """
    if folder.exists() and any(folder.iterdir()) and not is_engine_folder(folder):
        raise ValueError(f"{folder} is no empty folder, and no engine folder of ours: give another")
    check_family(family)
    folder.mkdir(parents=True, exist_ok=True)
    model, text = family.model_config, family.model_config.get_text_config()
    text_config = {**text.to_dict(), "tie_word_embeddings": model.tie_word_embeddings}
    FlexSelectConfig(text_config, levels_of(family), architectures=[ARCHITECTURE]).save_pretrained(folder)
    files = weight_files(family.path)
    missing = [name for name, file in files.items() if file is None]
    if missing:
        raise FileNotFoundError(f"{family.path} lacks {', '.join(missing)}")
    for name, file in files.items():
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(Path(str(file)).resolve())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"": 0}, unk_token="")), unk_token="")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder
