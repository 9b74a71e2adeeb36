"""Lay out the demo model before it is trained: config.json, a small tokenizer, and no weights.

    python checkpoints/demo/build.py checkpoints/demo/video_llm

The files have the names and the form of a released Qwen2.5-VL, only smaller: about 1 M parameters, 3x3 tokens a unit.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from datamodules.needles import COLOURS, LETTERS, SHAPES
from flexselect.families.qwen2_5_vl import PREFIX, QUERY
from flexselect.questions import VideoQuestion

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"]
SIDE = 84  # pixels: three tokens of 28
VOCABULARY = 448


def main(folder: Path) -> None:
    """Write the files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer()
    tokenizer.save_pretrained(folder)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "mrope_section": [4, 4, 4], "rope_theta": 10000.0},
        "tie_word_embeddings": False,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision = {
        "depth": 1,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_heads": 4,
        "out_hidden_size": 96,
        "fullatt_block_indexes": [0],
        "tokens_per_second": 2,
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        video_token_id=ids["<|video_pad|>"],
        image_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
        architectures=["Qwen2_5_VLForConditionalGeneration"],
    )
    config.flexselect = {"min_pixels": SIDE**2, "max_pixels": SIDE**2, "reference_layer": 1, "budget": 112}
    config.save_pretrained(folder)
    Qwen2VLVideoProcessor(min_pixels=SIDE**2, max_pixels=SIDE**2).save_pretrained(folder)


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as Qwen's: any text can be asked, and the demo's words are one token each."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=SPECIAL[3:]
    )


def _corpus() -> list[str]:
    questions = [f"What colour is the {shape}?" for shape in SHAPES] + [f"Which shape is {c}?" for c in COLOURS]
    words = [*COLOURS, *SHAPES, *LETTERS]
    both = [*COLOURS, *SHAPES]
    fours = [*itertools.permutations(both[::2], 4), *itertools.permutations(both[1::2], 4)]
    choices = [VideoQuestion("", "", "", options).text for options in fours]
    return [*[PREFIX] * 50, *[QUERY.format(question=q) for q in questions] * 20, *words * 20, *choices]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
