"""Small models with random weights, in the classes and layouts of the released models, for measurements."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from flexselect import FlexSelect, LiteSelector
from flexselect.families import family_of
from flexselect.selectors.lite_selector import selector_config
from flexselect.structures.prompt import EncodedVideo

FAMILIES = ("qwen2_5_vl", "llava_video", "internvl")
GRIDS = {"qwen2_5_vl": (11, 20), "llava_video": (14, 15), "internvl": (1, 258)}  # rows and columns, as published
LAYERS, LAYER = 8, 5  # decoder layers; the reference layer, at the relative depth of the published ones
TEXT = {"hidden_size": 240, "intermediate_size": 896, "num_attention_heads": 10, "num_key_value_heads": 2}
SELECTOR = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 1}


def random_model(folder: Path, name: str) -> Path:
    """Write a VideoLLM of a family into a folder, and a selector for it into the subfolder `selector`."""
    folder.mkdir(parents=True)
    subprocess.run([sys.executable, "checkpoints/demo/build.py", name, str(folder)], check=True)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {**TEXT, "num_hidden_layers": LAYERS}
    config["text_config"].pop("layer_types", None)
    config["text_config"].pop("head_dim", None)
    if "out_hidden_size" in config["vision_config"]:
        config["vision_config"]["out_hidden_size"] = TEXT["hidden_size"]
    config["flexselect"]["reference_layer"] = LAYER
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    LiteSelector(selector_config(family_of(str(folder)), SELECTOR)).save_pretrained(folder / "selector")
    return folder


def random_video(fs: FlexSelect, name: str, units: int) -> EncodedVideo:
    """Make random features of a video after the vision tower, with the released model's number of tokens per unit."""
    rows, columns = GRIDS[name]
    tokens, generator = units * rows * columns, torch.Generator().manual_seed(0)
    features = torch.randn(tokens, TEXT["hidden_size"], generator=generator)
    selector_features = torch.randn(tokens, SELECTOR["hidden_size"], generator=generator)
    prefix_ids, grid = fs.lm.prompter.prefix_ids, (units, rows, columns)
    return EncodedVideo(prefix_ids, features, grid, selector_features=selector_features)
