"""Tiny random models in the real classes and the real on-disk formats."""

import shutil
from pathlib import Path

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

DEMO = Path(__file__).parents[1] / "checkpoints" / "demo" / "video_llm"


def qwen2_5_vl(folder: Path, layers: int = 4, seed: int = 0) -> Path:
    """Hidden 64, 4 query and 2 key heads, windows in the tower; the demo's tokenizer."""
    torch.manual_seed(seed)
    for file in DEMO.glob("*.json"):
        shutil.copy(file, folder)
    config = Qwen2_5_VLConfig.from_pretrained(DEMO)
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 64, 96, layers
    text.layer_types, text.rope_parameters["mrope_section"] = ["full_attention"] * layers, [2, 3, 3]
    vision.hidden_size, vision.intermediate_size, vision.num_heads, vision.out_hidden_size = 32, 48, 2, 64
    vision.depth, vision.fullatt_block_indexes, vision.window_size = 2, [1], 56
    config.flexselect = {"min_pixels": 56 * 84, "max_pixels": 84 * 84, "budget": 9, "reference_layer": 2}
    model = Qwen2_5_VLForConditionalGeneration(config)
    for weight in model.parameters():  # wide enough that attention is far from uniform, and answers differ
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    model.save_pretrained(folder)
    return folder


def frames(count: int = 14, height: int = 84, width: int = 112, seed: int = 0) -> torch.Tensor:
    """Random frames, uint8 [count, height, width, 3]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, height, width, 3), generator=generator, dtype=torch.uint8)


def prompt(fs, question: str = "What colour is the circle?", count: int = 14, seed: int = 0):
    """A prompt over random frames."""
    from flexselect import VideoPrompt

    prompter = fs.lm.prompter
    clip = prompter.clip(prompter.resize(frames(count, seed=seed)))
    return VideoPrompt(clip, prompter.prefix_ids, prompter.query_ids(question))
