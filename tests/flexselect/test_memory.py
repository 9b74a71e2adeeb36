"""The estimate of memory against the tensors that live while a model of published size works, on shapes alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from bench.roofline import MODELS as MODELS_OF_ROOFLINE
from bench.roofline import computed
from flexselect import FlexSelect
from flexselect.analysis.memory import LONGEST, estimate, most_frames
from flexselect.analysis.operations import operations
from flexselect.analysis.plan import Plan
from flexselect.families import family_of
from flexselect.loading.weights import LoadOptions
from flexselect.options import Options
from flexselect.running.operations import Decoder, Tower
from flexselect.scoring.reference_layer import ReferenceLayerScorer
from flexselect.structures.prompt import VideoPrompt
from tests import tiny
from tests.dry_gpu import DryGPU
from tests.fixtures import slow_but
from tests.flexselect.test_published_sizes import MODELS, as_released, shapes_alone, write_sparse  # noqa: F401

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a real GPU is here: see docs/first_gpu_run.md")

SIZES = {  # frames of two frame sets, as the family resizes them
    "Qwen2.5-VL-7B": ("qwen2_5_vl", 40, 308, 560),
    "LLaVA-Video-7B": ("llava_video", 20, 384, 384),
    "InternVL2.5-8B": ("internvl", 20, 448, 448),
    "Qwen3-VL-8B": ("qwen3_vl", 40, 320, 576),
    "Qwen3.5-9B": ("qwen3_5", 40, 320, 576),
}
UNITS_PER_SET = 16
ROOT = Path(__file__).parents[2]


def family_and_prompter(name, kind, folder):
    """A published family from its config.json, with a tiny model's tokenizer."""
    (folder / "config.json").write_text(json.dumps(MODELS[name][0]))
    family = family_of(str(folder))
    (folder / "tiny").mkdir()
    prompter = family_of(str(tiny.BUILDERS[kind](folder / "tiny"))).prompter()
    prompter.family = family
    return family, prompter


@pytest.fixture(params=slow_but(lambda name: name.startswith("Qwen2.5"), SIZES))
def published(request, tmp_path):
    """A model of published size on a GPU, without values, and a clip's shape."""
    kind, frames, height, width = SIZES[request.param]
    family, prompter = family_and_prompter(request.param, kind, tmp_path)
    write_sparse(tmp_path, as_released(tmp_path, MODELS[request.param][0]))
    lm = family.load(LoadOptions(device_map={"": "meta"}))
    vars(lm)["prompter"] = prompter
    pixels = torch.zeros(1, height, width, 3, dtype=torch.uint8).expand(frames, -1, -1, -1)
    return family, lm, prompter.clip(pixels)


def test_the_estimate_is_a_little_above_the_peak(published):
    family, lm, clip = published
    expected = estimate(Plan(family, Options(selector="self", units_per_set=UNITS_PER_SET)), clip)
    dense = estimate(Plan(family, Options()), clip)
    with DryGPU(values=False) as gpu:
        lm.model.to("cuda:0")
        fs = FlexSelect(
            lm, family, ReferenceLayerScorer(lm, family.default_reference_layer), units_per_set=UNITS_PER_SET
        )
        prompt = VideoPrompt(clip, lm.prompter.prefix_ids, torch.arange(100))
        assert expected.weights == pytest.approx(gpu.live["cuda:0"], rel=1e-3)
        with gpu.stage("encode"):
            encoded = fs.encode(prompt)
        with gpu.stage("score"):
            (selection,) = fs.select_encoded(encoded, [prompt.query_ids])
        selection = replace(
            selection, kept=torch.arange(min(fs.budget, encoded.num_tokens))
        )  # without values, nothing is the highest
        with gpu.stage("prefix_cache"):
            kept = sum(part.num_bytes for part in fs.prepare(encoded))
        for name, chosen in (("answer", selection), ("dense", None)):
            with gpu.stage(name):
                fs.lm.next_token_logits(fs.lm.assemble(encoded, prompt.query_ids, chosen, fs.positions))
    peaks = {name: stage.peak["cuda:0"] for name, stage in gpu.stages.items()}
    assert kept == pytest.approx(expected.prefix_cache, rel=0.1), "text between units has keys and values too"
    bounds = {"encode": expected.encode, "score": expected.score, "answer": expected.answer, "dense": dense.answer}
    for name, bound in bounds.items():
        assert peaks[name] <= bound, name
        besides = bound - expected.weights, peaks[name] - expected.weights
        assert besides[0] <= 3 * besides[1], f"{name}: {besides} bytes besides the weights"


@pytest.mark.slow
def test_canary_a_tower_that_takes_a_whole_video_at_once(published, monkeypatch):
    family, lm, clip = published
    longer = replace(clip, pixels=clip.pixels.expand(4, *clip.pixels.shape).flatten(0, 1), grid=(80, *clip.grid[1:]))
    bound = estimate(Plan(family, Options(selector="self")), longer).encode
    prompt = VideoPrompt(longer, lm.prompter.prefix_ids, torch.arange(100))
    with DryGPU(values=False) as gpu:
        lm.model.to("cuda:0")
        for name, units in (("right", lm.units_per_step), ("wrong", 80)):
            monkeypatch.setattr(type(lm), "units_per_step", units)
            with gpu.stage(name):
                FlexSelect(lm, family).encode(prompt)
    assert gpu.stages["right"].peak["cuda:0"] <= bound < gpu.stages["wrong"].peak["cuda:0"]


TABLE = {
    "Qwen2.5-VL-7B": "qwen2_5_vl",
    "LLaVA-Video-7B": "llava_video",
    "InternVL2.5-8B": "internvl",
    "Qwen3-VL-8B": "qwen3_vl",
    "Qwen3.5-9B": "qwen3_5",
    "Qwen2.5-VL-72B": "qwen2_5_vl",
    "LLaVA-Video-72B": "llava_video",
}


@pytest.mark.parametrize("name", TABLE)
def test_the_table_of_the_readme(name, tmp_path, monkeypatch):
    family, prompter = family_and_prompter(name, TABLE[name], tmp_path)
    monkeypatch.setattr(family, "prompter", lambda: prompter)
    plan = Plan(family, Options(selector="self"))
    rows = [estimate(plan, plan.clip(frames)) for frames in (64, 256, 1024)]
    cells = [rows[0].weights, *(row.peak for row in rows), rows[2].prefix_cache]
    line = f"| {name} | " + " | ".join(f"{size / 1e9:.1f}" for size in cells) + " |"
    assert line in (ROOT / "README.md").read_text(encoding="utf-8"), line


@pytest.mark.parametrize("name", SIZES)
def test_operations_are_those_of_the_weights(name, tmp_path, monkeypatch):
    """One token costs two operations per weight of the layers; a patch, per weight of the tower's blocks."""
    family, prompter = family_and_prompter(name, SIZES[name][0], tmp_path)
    monkeypatch.setattr(family, "prompter", lambda: prompter)
    with torch.device("meta"):
        lm = family.wrap(AutoModelForImageTextToText.from_config(family.model_config))
    count = lambda part: sum(weight.numel() for weight in part.parameters())  # noqa: E731
    decoder = Decoder.of(family.model_config.get_text_config())
    states = 6 * decoder.recurrence.memory * len(decoder.recurrent) if decoder.recurrence else 0  # read twice, written
    assert decoder.operations(1, decoder.layers) == pytest.approx(2 * count(lm.decoder.layers) + states, rel=2e-3)
    frames = Plan(family, Options()).clip(family.frames_per_unit).pixels
    tower = Tower.of(family.model_config.vision_config, *frames.shape[1:3])
    blocks = max(
        (
            part
            for part in lm.model.modules()
            if isinstance(part, torch.nn.ModuleList) and part is not lm.decoder.layers
        ),
        key=count,
    )
    matrices = tower.operations(1) - tower.layers * tower.patches * 4 * tower.seen * tower.width
    assert matrices == pytest.approx(2 * tower.patches * count(blocks), rel=5e-3)


@pytest.mark.parametrize("model", MODELS_OF_ROOFLINE, ids=lambda model: model.name)
def test_operations_of_a_config_are_those_of_its_published_shapes(model, tmp_path, monkeypatch):
    family, prompter = family_and_prompter(model.name, SIZES[model.name][0], tmp_path)
    monkeypatch.setattr(family, "prompter", lambda: prompter)
    plan = Plan(family, Options(selector="self", reference_layer=model.layer))
    found, expected = operations(plan, plan.clip(256, 308, 560)), computed(model, 256)
    assert found["encode"] == pytest.approx(expected["tower"], rel=0.01)
    assert found["score"] == pytest.approx(expected["score_self"], rel=0.01), "a question of 128 tokens, not of 64"
    assert found["answer"] == pytest.approx(expected["prefill_kept"], rel=0.02)


def test_the_most_frames_that_fit(tmp_path, monkeypatch):
    """One unit more does not fit; a selector and kept scores count; 0 if the weights alone do not fit."""
    family, prompter = family_and_prompter("Qwen2.5-VL-7B", "qwen2_5_vl", tmp_path)
    monkeypatch.setattr(family, "prompter", lambda: prompter)
    plan = Plan(family, Options(selector="self"))
    most = most_frames(plan, 22e9)
    assert estimate(plan, plan.clip(most)).peak <= 22e9 < estimate(plan, plan.clip(most + 2)).peak
    assert most_frames(plan, 16e9) == 0
    assert most_frames(Plan(family, Options()), 22e9) < most, "dense needs more"
    assert most_frames(plan, 1e15) == LONGEST, "no config asks for more"
    family.max_frames = 2 * LONGEST
    assert most_frames(Plan(family, Options(selector="self")), 1e15) == 2 * LONGEST
