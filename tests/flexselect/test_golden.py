"""The released code's own numbers on tiny models, read in their original layouts."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2VLVideoProcessor

from flexselect import FlexSelect, LiteSelector
from flexselect.families.inputs import resize_to_square
from flexselect.ranking import spearman_loss
from flexselect.running.merging import merge_embeddings
from flexselect.scoring.reference_layer import ReferenceLayerScorer
from flexselect.training.losses import l1_loss
from tests.fixtures import SMALL
from tests.golden import shrink

CASES = (
    "L0_max_1set_short",
    "L1_mean_sets2",
    "Llast_max_sets_indiv",
    "Llast_mean_1set",
    "Lmid_max_1set",
    "Lmid_max_keepall_1set",
    "Lmid_max_keepall_sets",
    "Lmid_max_sets",
    "Lmid_max_sets_spg",  # Qwen2.5-VL only
    "Lmid_mean_sets_indiv",
)
FAMILIES = ("qwen2_5_vl", "llava", "internvl2_5")
EVERY = [(family, case) for family in FAMILIES for case in CASES if case != "Lmid_max_sets_spg" or "qwen" in family]


SIDES = {"llava": 384, "internvl2_5": 448}


def vision_inputs(golden, family, case):
    """The tower's input as the released preprocessing leaves it; made of the frames where only they are there."""
    inputs = load_file(golden / family / "inputs.safetensors")
    if family == "qwen2_5_vl":
        grid = torch.tensor(case["grid_thw"])
        seconds = torch.tensor(case["second_per_grid_ts"])
        patches = inputs["pixel_values_videos"] if "pixel_values_videos" in inputs else qwen_patches(inputs)
        return {"pixel_values_videos": patches[: grid.prod()], "video_grid_thw": grid, "second_per_grid_ts": seconds}
    resized = resize_to_square(inputs["frames_u8"], SIDES[family]).permute(0, 3, 1, 2)
    pixels = inputs.get("pixels_u8", resized)[: case["num_frames"]].float()
    if family == "llava":
        return {"pixel_values": (pixels * (1 / 255) - 0.5) / 0.5}
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    return {"pixel_values": (pixels / 255 - mean) / std}


def qwen_patches(inputs):
    processor = Qwen2VLVideoProcessor(do_resize=False, patch_size=14, merge_size=2, cap_pixels_per_frame=False)
    return processor(videos=[inputs["frames_u8"].permute(0, 3, 1, 2)], return_tensors="pt")["pixel_values_videos"]


def open_case(golden, family, name):
    folder = golden / family
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
    vision = vision_inputs(golden, family, case)
    return fs, fs.prompt_from_tensors(input_ids=tensors["input_ids"], **vision), case, tensors


@pytest.mark.parametrize(("family", "name"), EVERY)
def test_training_free_case(golden, family, name):
    fs, prompt, _, expected = open_case(golden, family, name)
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


@pytest.mark.parametrize("family", FAMILIES)
def test_visual_embeddings(large_golden, family):
    golden = large_golden
    fs, prompt, _, _ = open_case(golden, family, "Lmid_max_1set")
    expected = load_file(golden / family / "inputs.safetensors")["vision_embeds_llm"]
    torch.testing.assert_close(fs.encode(prompt).features, expected, atol=2e-5, rtol=1e-4)


LITE = ("max_1set", "max_sets", "mean_1set", "mean_sets_indiv")


def open_lite_case(golden, family, name, **options):
    folder = golden / family
    case = json.loads((folder / f"case_lite_{name}.json").read_text())
    fs = FlexSelect.from_pretrained(
        str(folder / "model"),
        selector=str(folder / "selector"),
        budget=case["budget"],
        units_per_set=case["max_frames_per_set"],
        reduction=case["reduction_function"],
        budget_split="released",
        dtype="float32",
        device="cpu",
        **options,
    )
    tensors = load_file(folder / f"case_lite_{name}.safetensors")
    original = {"selector_input_ids": tensors["selector_input_ids"]} if "selector_input_ids" in tensors else {}
    vision = vision_inputs(golden, family, case)
    return fs, fs.prompt_from_tensors(input_ids=tensors["input_ids"], **vision, **original), tensors


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", LITE)
def test_lite_case(golden, family, name):
    fs, prompt, expected = open_lite_case(golden, family, name)
    selection = fs.select(prompt)
    for g, tokens in enumerate(selection.sets):
        scores = expected[f"set{g}_scores"]
        assert float((selection.scores[tokens] - scores).abs().max() / scores.max()) < 2e-5
    assert torch.equal(selection.kept, expected["kept_global_idx"])
    logits = fs.next_token_logits(prompt, selection)
    torch.testing.assert_close(logits, expected["logits_prefill_kept"], atol=1e-4, rtol=0)
    tokens = fs.generate(prompt, selection, max_new_tokens=8)
    assert torch.equal(tokens, expected["greedy_tokens_kept"][: len(tokens)])
    ends = fs.lm.model.generation_config.eos_token_id
    assert len(tokens) == 8 or int(tokens[-1]) == ends, "the recorded ones go on after the end of text, ours do not"


@pytest.mark.parametrize("name", LITE)
def test_lite_internvl_exactly_aligned(golden, name):
    """Where the released code's slip is mended: the same tokens by number, the ones that were scored."""
    fs, prompt, expected = open_lite_case(golden, "internvl2_5", name, selector_alignment="exact")
    selection = fs.select(prompt)
    assert torch.equal(selection.kept, expected["kept_global_idx"]) and selection.shift == 0
    logits = fs.next_token_logits(prompt, selection)
    torch.testing.assert_close(logits, expected["aligned_logits_steps_kept"][0], atol=1e-4, rtol=0)
    assert torch.equal(fs.generate(prompt, selection, max_new_tokens=8), expected["aligned_greedy_tokens_kept"])


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava"])
def test_what_a_selector_sees(large_golden, family):
    golden = large_golden
    fs, prompt, _ = open_lite_case(golden, family, "max_1set")
    expected = load_file(golden / family / "inputs.safetensors")["vision_embeds_selector"]
    torch.testing.assert_close(fs.encode(prompt).selector_features, expected, atol=2e-5, rtol=1e-4)


def test_a_selector_reads_the_prompt_with_its_own_tokenizer(golden):
    fs, prompt, expected = open_lite_case(golden, "internvl2_5", "max_1set")
    arguments = fs.scorer.split(expected["selector_input_ids"])
    read = fs.scorer._to_selector_ids(prompt.prefix_ids), fs.scorer._to_selector_ids(prompt.query_ids)
    assert all(torch.equal(one, two) for one, two in zip(arguments, read))


def test_positions_of_qwen2_5_vl(golden):
    fs, prompt, _, expected = open_case(golden, "qwen2_5_vl", "Lmid_max_sets_spg")
    layout = fs.encode(prompt).layout(prompt.query_ids, fs.lm.visual_id)
    where = fs.lm.position_ids(layout, prompt.clip.grid, prompt.clip.seconds_per_unit)
    assert torch.equal(where[:, None], expected["position_ids_dense"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["Lmid_max_error_sets", "Lmid_max_error_lastset"])
def test_where_the_released_code_fails_a_set_keeps_all_it_has(golden, family, name):
    fs, prompt, case, _ = open_case(golden, family, name)
    kept = fs.select(prompt).kept
    assert len(kept) == sum(min(case["budget_per_set"], size) for size in case["set_sizes"])


@pytest.mark.parametrize("family", FAMILIES)
def test_canary_another_layer_gives_other_tokens(golden, family):
    fs, prompt, _, expected = open_case(golden, family, "Lmid_max_1set")
    fs.scorer.layer = 1
    assert not torch.equal(fs.select(prompt).kept, expected["kept_global_idx"])


@pytest.mark.parametrize(("family", "side"), SIDES.items())
def test_resize_is_the_released_one(golden, family, side):
    inputs, recorded = load_file(golden / family / "inputs.safetensors"), golden / family / "pixels.json"
    resized = resize_to_square(inputs["frames_u8"], side).permute(0, 3, 1, 2)
    if recorded.exists():
        assert shrink.digest(resized) == json.loads(recorded.read_text())["pixels_u8"]
    else:
        assert torch.equal(resized, inputs["pixels_u8"])


def test_patches_are_the_released_ones(large_golden):
    inputs = load_file(large_golden / "qwen2_5_vl" / "inputs.safetensors")
    torch.testing.assert_close(qwen_patches(inputs), inputs["pixel_values_videos"], atol=1e-6, rtol=0)


def test_the_small_set_is_the_large_one(large_golden):
    """What lies in tests/golden, byte by byte where files were taken whole, tensor by tensor where they were cut."""
    for file in sorted(SMALL.rglob("*")):
        whole = large_golden / file.relative_to(SMALL)
        if file.suffix == ".safetensors" and file.parent.name not in ("model", "selector"):
            expected, kept = load_file(whole), load_file(file)
            for name, tensor in kept.items():
                assert torch.equal(tensor, expected[name][: len(tensor)] if tensor.ndim else expected[name]), (
                    file,
                    name,
                )
        elif file.is_file() and whole.is_file():
            assert file.read_bytes() == whole.read_bytes(), file


def test_a_training_step_of_the_released_code(large_golden):
    """One LLaVA clip: teacher scores, student scores, and the gradient of every parameter under both losses."""
    golden = large_golden
    expected = load_file(golden / "losses" / "case_train_step_llava.safetensors")
    folder = golden / "llava"
    fs = FlexSelect.from_pretrained(
        str(folder / "model"), selector=str(folder / "selector"), dtype="float32", device="cpu"
    )
    case = {"num_frames": 4}
    vision_in = vision_inputs(golden, "llava", case)
    prompt = fs.prompt_from_tensors(input_ids=expected["input_ids"], **vision_in)
    selector, encoded = fs.scorer.selector, fs.encode(prompt)
    teacher = ReferenceLayerScorer(fs.lm, 5).score(encoded, prompt.query_ids).clone()
    torch.testing.assert_close(teacher, expected["teacher_scores"].flatten(), atol=1e-7, rtol=2e-5)
    vision = fs.lm.vision(prompt.clip.pixels, prompt.clip.grid).detach()
    layout = encoded.layout(prompt.query_ids, fs.lm.visual_id)
    # soft ranks divide scores by 1e-4, and with them the rounding of the scores
    for name, loss, tolerance in (("l1", l1_loss, 1e-5), ("spearman", spearman_loss, 1e-3)):
        selector.zero_grad()
        tokens = selector.project(vision, prompt.clip.grid)
        embeddings, _ = merge_embeddings(selector.embed, layout.ids[None], layout.visual, tokens[None])
        student = selector(
            embeddings, fs.lm.position_ids(layout, prompt.clip.grid, 1.0), layout.query_rows, layout.span
        )
        torch.testing.assert_close(student.flatten(), expected["student_scores"].flatten(), atol=1e-7, rtol=2e-5)
        value = loss(student[0], teacher)
        torch.testing.assert_close(value, expected[f"{name}_loss"], atol=1e-5, rtol=1e-5)
        value.backward()
        released = {key[len(name) + 6 :]: grad for key, grad in expected.items() if key.startswith(f"{name}_grad.")}
        actual = {renamed(key): weight.grad for key, weight in selector.named_parameters()}
        assert set(actual) == set(released)
        for key, grad in released.items():
            if grad.numel() == 0:
                assert actual[key] is None, f"{key} should get no gradient"
                continue
            assert float((actual[key] - grad).abs().max()) <= tolerance * float(grad.abs().max()), (name, key)


def renamed(key):
    for new, old in (("decoder.", ""), ("projector.newline", "image_newline")):
        key = key.replace(new, old)
    return key.replace("projector.linear_1", "mm_projector.0").replace("projector.linear_2", "mm_projector.2")


def test_both_config_layouts_of_the_internvl_selector(golden, tmp_path):
    folder = shutil.copytree(golden / "internvl2_5" / "selector", tmp_path / "selector")
    flat = LiteSelector.from_pretrained(str(folder))
    shutil.copy(folder / "config.as_written_by_the_training_code.json", folder / "config.json")
    nested = LiteSelector.from_pretrained(str(folder))
    assert all(torch.equal(one, two) for one, two in zip(flat.state_dict().values(), nested.state_dict().values()))
    assert flat.config.text_config.to_dict() == nested.config.text_config.to_dict()
    assert flat.config.brackets == nested.config.brackets and nested.config.alignment == "released"
