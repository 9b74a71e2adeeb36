"""Write a demo model before training: config.json and a small tokenizer, without weights.

    python checkpoints/demo/build.py qwen2_5_vl checkpoints/demo/video_llm

The files have the names and format of a released model of the family, but are smaller: about 1 M parameters, frames of
3x3 tokens. The shipped model is a Qwen2.5-VL; `make test-slow` also trains the others.
"""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    InternVLConfig,
    LlavaOnevisionConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen3_5Config,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from datamodules.needles import CELL, COLOURS, LETTERS, SHAPES
from flexselect.evaluation.questions import VideoQuestion
from flexselect.families import internvl, llava_video, qwen2_5_vl, qwen3_vl

COMMON = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SIDE = 84  # pixels: three tokens of 28
PATCHES = 3  # tokens in each direction
BETWEEN = [" seconds", "think"] * 500  # words of Qwen3.5's timestamps and of its empty thought
VOCABULARY = 448
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
TOWER = {"hidden_size": 96, "intermediate_size": 192}


def write_qwen2_5_vl(folder: Path, smallest: int = SIDE) -> None:
    """Write a small Qwen2.5-VL; `smallest` is the side of the smallest frame in pixels."""
    ids = build_tokenizer(folder, qwen2_5_vl, ["<|vision_start|>", "<|vision_end|>", "<|video_pad|>"])
    rope = {**TEXT["rope_parameters"], "mrope_section": [4, 4, 4]}
    tower = {"depth": 1, "num_heads": 4, "out_hidden_size": 96, "fullatt_block_indexes": [0], "tokens_per_second": 2}
    config = Qwen2_5_VLConfig(
        text_config={**TEXT, **text_ids(ids), "rope_parameters": rope},
        vision_config={**TOWER, **tower},
        video_token_id=ids["<|video_pad|>"],
        image_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
        architectures=["Qwen2_5_VLForConditionalGeneration"],
    )
    config.flexselect = {"min_pixels": smallest**2, "max_pixels": SIDE**2, "reference_layer": 1, "budget": 112}
    config.save_pretrained(folder)
    Qwen2VLVideoProcessor(min_pixels=smallest**2, max_pixels=SIDE**2).save_pretrained(folder)


def write_two_looks(folder: Path) -> None:
    """Write the demo's Qwen2.5-VL for frames of one token too; its weights fit: same shapes and tokenizer."""
    write_qwen2_5_vl(folder, CELL)
    shutil.copy(Path(__file__).parent / "video_llm" / "tokenizer.json", folder)


def write_llava_video(folder: Path) -> None:
    """Write a small LLaVA-Video: 12 tokens per frame, newlines included."""
    ids = build_tokenizer(folder, llava_video, ["<image>"])
    tower = {"num_hidden_layers": 1, "num_attention_heads": 4, "image_size": SIDE, "patch_size": 14}
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **TEXT, **text_ids(ids)},
        vision_config={"model_type": "siglip_vision_model", **TOWER, **tower, "vision_use_head": False},
        image_token_id=ids["<image>"],
        video_token_id=ids["<image>"],
        mm_newline_position="grid",
        tie_word_embeddings=False,
        architectures=["LlavaOnevisionForConditionalGeneration"],
    )
    config.flexselect = {"reference_layer": 1, "budget": 153}
    config.save_pretrained(folder)


def write_internvl(folder: Path) -> None:
    """Write a small InternVL2.5 with InternLM2: 11 tokens per frame, delimiters included."""
    ids = build_tokenizer(folder, internvl, ["<img>", "</img>", "<IMG_CONTEXT>"])
    tower = {"num_hidden_layers": 1, "num_attention_heads": 4, "image_size": [SIDE, SIDE], "patch_size": [14, 14]}
    config = InternVLConfig(
        text_config={"model_type": "llama", **TEXT, **text_ids(ids)},
        vision_config={**TOWER, **tower, "attention_bias": True},
        image_token_id=ids["<IMG_CONTEXT>"],
        image_seq_length=9,
        tie_word_embeddings=False,
        architectures=["InternVLForConditionalGeneration"],
    )
    config.flexselect = {"reference_layer": 2, "budget": 140}
    config.save_pretrained(folder)


def write_qwen3_5(folder: Path) -> None:
    """Write a small Qwen3.5 whose first layer is recurrent: 9 tokens per unit, and a timestamp before each."""
    ids = build_tokenizer(folder, qwen3_vl, ["<|vision_start|>", "<|vision_end|>", "<|video_pad|>"], BETWEEN)
    rope = {**TEXT["rope_parameters"], "mrope_section": [2, 2, 2], "mrope_interleaved": True}
    recurrence = {"linear_num_key_heads": 4, "linear_key_head_dim": 16, "linear_num_value_heads": 4}
    recurrence |= {"linear_value_head_dim": 24}
    kinds = ["linear_attention", *["full_attention"] * 4]  # more recurrent layers learn several times more slowly
    tower = {"depth": 1, "num_heads": 4, "out_hidden_size": 96, "num_position_embeddings": (PATCHES * 2) ** 2}
    config = Qwen3_5Config(
        text_config={
            **{**TEXT, **text_ids(ids), **recurrence, "head_dim": 24, "layer_types": kinds},
            "rope_parameters": {**rope, "partial_rotary_factor": 0.5},
        },
        vision_config={**TOWER, **tower},
        video_token_id=ids["<|video_pad|>"],
        image_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
        architectures=["Qwen3_5ForConditionalGeneration"],
    )
    side = 32 * PATCHES
    config.flexselect = {"min_pixels": side**2, "max_pixels": side**2, "reference_layer": 1, "budget": 112}
    config.save_pretrained(folder)


def text_ids(ids: dict[str, int]) -> dict[str, int]:
    """Return the special ids of the text model."""
    end = ids["<|endoftext|>"]
    return {"bos_token_id": end, "eos_token_id": ids["<|im_end|>"], "pad_token_id": end}


def build_tokenizer(folder: Path, family: Any, special: list[str], more: Sequence[str] = ()) -> dict[str, int]:
    """Write a tokenizer with the special tokens of a family; return their ids.

    It is a byte-level BPE like Qwen's: it can encode any text, and each word of the demo is one token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[*COMMON, *special], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*corpus(family), *more], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=special,
    )
    fast.save_pretrained(folder)
    return {token: fast.convert_tokens_to_ids(token) for token in [*COMMON, *special]}


def corpus(family: Any) -> list[str]:
    """Return all texts that the model will read or write."""
    questions = [f"What colour is the {shape}?" for shape in SHAPES] + [f"Which shape is {c}?" for c in COLOURS]
    words = [*COLOURS, *SHAPES, *LETTERS]
    candidates = [*COLOURS, *SHAPES]
    option_lists = [*itertools.permutations(candidates[::2], 4), *itertools.permutations(candidates[1::2], 4)]
    choices = [VideoQuestion("", "", "", options).text for options in option_lists]
    prompts = [family.QUERY.format(question=question) for question in questions]
    return [*[family.PREFIX] * 50, *prompts * 20, *words * 20, *choices]


if __name__ == "__main__":
    build = {"qwen2_5_vl": write_qwen2_5_vl, "llava_video": write_llava_video, "internvl": write_internvl}
    build |= {"qwen3_5": write_qwen3_5, "two_looks": write_two_looks}
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    build[sys.argv[1]](folder)
