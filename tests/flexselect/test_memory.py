"""The estimate of memory against the tensors that live while a model of published size works, on shapes alone."""

import json
from pathlib import Path

import pytest
import torch

from flexselect import FlexSelect
from flexselect.analysis.memory import clip_of, count_weights, estimate
from flexselect.families import family_of
from flexselect.loading.weights import LoadOptions
from flexselect.options import Options
from flexselect.scoring.reference_layer import ReferenceLayerScorer
from flexselect.structures.prompt import VideoPrompt
from tests import tiny
from tests.dry_gpu import DryGPU
from tests.flexselect.test_published_sizes import MODELS, as_released, shapes_alone, write_sparse  # noqa: F401

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a real GPU is here: see docs/first_gpu_run.md")

SIZES = {  # frames of two frame sets, as the family resizes them
    "Qwen2.5-VL-7B": ("qwen2_5_vl", 40, 308, 560),
    "LLaVA-Video-7B": ("llava_video", 20, 384, 384),
    "InternVL2.5-8B": ("internvl", 20, 448, 448),
    "Qwen3-VL-8B": ("qwen3_vl", 40, 320, 576),
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


@pytest.fixture(
    params=[name if name.startswith("Qwen2.5") else pytest.param(name, marks=pytest.mark.slow) for name in SIZES]
)
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
    weights = count_weights(family)
    expected = estimate(family, Options(selector="self", units_per_set=UNITS_PER_SET), clip, weights)
    dense = estimate(family, Options(), clip, weights)
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
        with gpu.stage("prefix_cache"):
            kept = sum(part.num_bytes for part in fs.prepare(encoded))
        for name, chosen in (("answer", selection), ("dense", None)):
            with gpu.stage(name):
                fs.lm.next_token_logits(fs.lm.assemble(encoded, prompt.query_ids, chosen, fs.positions))
    peaks = {name: stage.peak["cuda:0"] for name, stage in gpu.stages.items()}
    assert kept == pytest.approx(expected.prefix_cache, rel=0.1), "text between units has keys and values too"
    for name, bound in (("encode", expected.encode), ("score", expected.score), ("answer", expected.answer)):
        assert peaks[name] <= bound <= 1.15 * peaks[name], name
    assert peaks["dense"] <= dense.answer <= 1.3 * peaks["dense"], "keys and values of a new token are in it"


TABLE = {
    "Qwen2.5-VL-7B": "qwen2_5_vl",
    "LLaVA-Video-7B": "llava_video",
    "InternVL2.5-8B": "internvl",
    "Qwen3-VL-8B": "qwen3_vl",
    "Qwen2.5-VL-72B": "qwen2_5_vl",
    "LLaVA-Video-72B": "llava_video",
}


@pytest.mark.parametrize("name", TABLE)
def test_the_table_of_the_readme(name, tmp_path, monkeypatch):
    family, prompter = family_and_prompter(name, TABLE[name], tmp_path)
    monkeypatch.setattr(family, "prompter", lambda: prompter)
    weights = count_weights(family)
    rows = [estimate(family, Options(selector="self"), clip_of(family, frames), weights) for frames in (64, 256, 1024)]
    cells = [rows[0].weights, *(row.peak for row in rows), rows[2].prefix_cache]
    line = f"| {name} | " + " | ".join(f"{size / 1e9:.1f}" for size in cells) + " |"
    assert line in (ROOT / "README.md").read_text(encoding="utf-8"), line
