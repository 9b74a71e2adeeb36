"""The released code's own numbers on a tiny Qwen2.5-VL: scores, kept tokens, logits, greedy tokens."""

import json

import pytest
import torch
from safetensors.torch import load_file

from flexselect import FlexSelect

CASES = (
    "L0_max_1set_short",
    "L1_mean_sets2",
    "Llast_max_sets_indiv",
    "Llast_mean_1set",
    "Lmid_max_1set",
    "Lmid_max_keepall_1set",
    "Lmid_max_keepall_sets",
    "Lmid_max_sets",
    "Lmid_max_sets_spg",
    "Lmid_mean_sets_indiv",
)


def open_case(golden, name):
    folder = golden / "qwen2_5_vl"
    case = json.loads((folder / f"case_self_{name}.json").read_text())
    fs = FlexSelect.from_pretrained(
        str(folder / "model"),
        selector="self",
        reference_layer=case["reference_layer"],
        budget=case["budget"],
        units_per_set=case["max_frames_per_set"],
        reduction=case["reduction_function"],
        budget_split="released",
        dtype="float32",
        device="cpu",
    )
    tensors = load_file(folder / f"case_self_{name}.safetensors")
    grid = torch.tensor(case["grid_thw"])
    prompt = fs.prompt_from_tensors(
        input_ids=tensors["input_ids"],
        pixel_values_videos=load_file(folder / "inputs.safetensors")["pixel_values_videos"][: grid.prod()],
        video_grid_thw=grid,
        second_per_grid_ts=torch.tensor(case["second_per_grid_ts"]),
    )
    return fs, prompt, case, tensors


@pytest.mark.parametrize("name", CASES)
def test_training_free_case(golden, name):
    fs, prompt, _, expected = open_case(golden, name)
    selection = fs.select(prompt)
    for g, tokens in enumerate(selection.sets):
        if f"set{g}_scores" in expected:  # the keep-all cases compute none
            scores = expected[f"set{g}_scores"]
            assert float((selection.scores[tokens] - scores).abs().max() / scores.max()) < 2e-5
    assert torch.equal(selection.kept, expected["kept_global_idx"])
    for chosen, kind in ((selection, "kept"), (None, "dense")):
        logits = fs.next_token_logits(prompt, chosen)
        torch.testing.assert_close(logits, expected[f"logits_prefill_{kind}"], atol=1e-4, rtol=0)
        assert torch.equal(fs.generate(prompt, chosen, max_new_tokens=8), expected[f"greedy_tokens_{kind}"])


def test_positions(golden):
    fs, prompt, _, expected = open_case(golden, "Lmid_max_sets_spg")
    where = fs.lm.position_ids(
        len(prompt.prefix_ids), prompt.clip.grid, len(prompt.query_ids), prompt.clip.seconds_per_unit
    )
    assert torch.equal(where[:, None], expected["position_ids_dense"])


@pytest.mark.parametrize("name", ["Lmid_max_error_sets", "Lmid_max_error_lastset"])
def test_where_the_released_code_fails_a_set_keeps_all_it_has(golden, name):
    fs, prompt, case, _ = open_case(golden, name)
    kept = fs.select(prompt).kept
    assert len(kept) == sum(min(case["budget_per_set"], size) for size in case["set_sizes"])


def test_canary_another_layer_gives_other_tokens(golden):
    fs, prompt, _, expected = open_case(golden, "Lmid_max_1set")
    fs.scorer.layer = 1
    assert not torch.equal(fs.select(prompt).kept, expected["kept_global_idx"])
