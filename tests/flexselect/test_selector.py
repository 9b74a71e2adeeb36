"""The lightweight selector: made, saved, read again, used for scoring, refused with the reason."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from flexselect import FlexSelect, LiteSelector
from flexselect.attention.probe import PROBED
from flexselect.families import family_of
from flexselect.selectors.lite_selector import selector_config
from lightning_modules.video_qa import VideoQA
from tests import tiny
from tests.near import assert_near

REFUSED = r"it was trained for another model|there are no trained selectors"
SIZES = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.fixture(scope="module", params=["qwen2_5_vl", "llava_video", "internvl", "qwen3_vl", "qwen3_5"])
def made(request, tmp_path_factory):
    """A VideoLLM and a new selector for it, saved."""
    model = tiny.BUILDERS[request.param](tmp_path_factory.mktemp("model"))
    selector = LiteSelector(selector_config(family_of(str(model)), SIZES))
    tiny.randomise(selector)
    folder = tmp_path_factory.mktemp("selector")
    selector.save_pretrained(folder)
    return model, folder, selector.eval()


def load(model, selector, **options):
    return FlexSelect.from_pretrained(str(model), selector=str(selector), dtype="float32", device="cpu", **options)


def test_saved_and_read_again_it_scores_the_same(made):
    model, folder, selector = made
    fs = load(model, folder)
    prompt = tiny.prompt(fs)
    scores = fs.select(prompt).scores
    fs.scorer.selector = selector
    assert_near(fs.select(prompt).scores, scores)
    assert scores.shape == (fs.encode(prompt).num_tokens,) and float(scores.std()) > 0, "canary"
    assert json.loads((folder / "config.json").read_text())["model_type"] == "flexselect_lite"


def test_it_answers_a_video(made):
    model, folder, _ = made
    answer = load(model, folder, budget=7).open(tiny.frames(4)).ask("Which shape is red?", max_new_tokens=2)
    assert answer.num_kept_tokens == 7


def test_scores_with_gradients_are_the_same_scores(made):
    """Training's forward pass, and that of the attention of the last layer, written out."""
    model, folder, selector = made
    fs = load(model, folder)
    prompt = tiny.prompt(fs, count=4)
    encoded = fs.encode(prompt)
    layout = encoded.layout(prompt.query_ids, fs.lm.visual_id)
    text = selector.embed(layout.ids.masked_fill(layout.visual, 0))
    embeddings = text.clone()
    embeddings[layout.visual] = encoded.selector_features
    where = fs.lm.position_ids(layout, prompt.clip.grid, 1.0)
    where = where[:, None] if len(where) > 1 else where
    result = selector(embeddings[None], where, layout.query_rows, layout.span)
    assert result.requires_grad
    torch.testing.assert_close(result[0, layout.places], fs.select(prompt).scores)
    selector.decoder.set_attn_implementation("eager")
    weights = selector.decoder(
        inputs_embeds=embeddings[None],
        position_ids=where,
        attention_mask=torch.ones(1, len(layout.ids), dtype=torch.long),
        output_attentions=True,
    ).attentions[-1]
    selector.decoder.set_attn_implementation(PROBED)
    expected = weights[0, :, -layout.query_rows :, layout.span].amax((0, 1))
    torch.testing.assert_close(result[0], expected, atol=1e-6, rtol=1e-4)


def test_gradient_checkpointing_changes_nothing(made):
    model, folder, _ = made
    fs, grads = load(model, folder), []
    selector = LiteSelector.from_pretrained(str(folder), dtype="float32")
    prompt = tiny.prompt(fs, count=4)
    encoded = fs.encode(prompt)
    layout = encoded.layout(prompt.query_ids, fs.lm.visual_id)
    where = fs.lm.position_ids(layout, prompt.clip.grid, 1.0)
    where = where[:, None] if len(where) > 1 else where
    for checkpointing in (False, True):
        if checkpointing:
            selector.gradient_checkpointing_enable()
        selector.train()
        embeddings = selector.embed(layout.ids.masked_fill(layout.visual, 0))
        selector.zero_grad()
        scores = selector(embeddings[None], where, layout.query_rows, layout.span)
        scores.log().sum().backward()
        grads.append(
            {name: weight.grad.clone() for name, weight in selector.named_parameters() if weight.grad is not None}
        )
    assert set(grads[0]) == set(grads[1]) and len(grads[0]) > 10
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name])


def test_what_is_no_selector_is_refused(made, tmp_path):
    model, folder, _ = made
    with pytest.raises(ValueError, match=r"is not a selector: its config\.json says"):
        load(model, model)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(model, tmp_path / "nowhere")
    broken = shutil.copytree(folder, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    del weights["decoder.layers.0.input_layernorm.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"do not fit LiteSelector: missing_keys: decoder.layers.0.input_layernorm"):
        load(model, broken)


def test_a_selector_of_another_tower_is_refused(made, tmp_path):
    model, folder, _ = made
    other = shutil.copytree(folder, tmp_path / "other")
    selector = LiteSelector.from_pretrained(str(other))
    selector.config.vision_size += 2
    fs = load(model, folder)
    fs.scorer.selector = selector
    with pytest.raises(ValueError, match="takes vision features of width"):
        fs.open(tiny.frames(2))


def test_a_selector_of_another_family_is_refused_before_weights_are_loaded(made, request, tmp_path, monkeypatch):
    """Also where the widths that it sees are the same: Qwen3-VL and Qwen3.5; and where there are no selectors."""
    _, folder, _ = made
    mine = request.node.callspec.params["made"]
    monkeypatch.setattr("flexselect.pipeline.load_lm", lambda *_: pytest.fail("the model was loaded"))
    others = [kind for kind in ("qwen2_5_vl", "qwen3_vl", "qwen3_5", "minicpm_v") if kind != mine]
    for kind in others:
        (tmp_path / kind).mkdir()
        other = tiny.BUILDERS[kind](tmp_path / kind)
        with pytest.raises(ValueError, match=REFUSED):
            load(other, folder)
        with pytest.raises(ValueError, match=REFUSED):
            VideoQA(family_of(str(other)), selector=str(folder))
    assert len(others) >= 3


def test_no_selector_can_be_made_for_every_family(tmp_path):
    with pytest.raises(ValueError, match="no selector can be made for LLaVA-Video"):
        selector_config(family_of(str(tiny.llava_video(tmp_path)), newlines="one_token"), SIZES)


def test_pushed_to_the_hub_with_its_card(made, tmp_path, monkeypatch):
    _, folder, _ = made
    output = {
        "teacher": "a/b",
        "layer": 20,
        "reduction": "max",
        "start": "c/d",
        "steps": 7,
        "loss": "l1",
        "recall": "0.5",
    }
    calls = []

    class Hub:
        def __init__(self, token):
            calls.append(token)

        def create_repo(self, repo_id, private, exist_ok):
            calls.append((repo_id, private))
            return type("Repo", (), {"repo_id": repo_id})()

        def upload_folder(self, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, tmp_path / "hub")
            return f"hub/{repo_id}"

    monkeypatch.setattr("flexselect.selectors.lite_selector.HfApi", Hub)
    selector = LiteSelector.from_pretrained(str(folder))
    selector.config.training = output
    assert selector.push_to_hub("me/selector", private=True, token="t") == "hub/me/selector"
    assert calls == ["t", ("me/selector", True)]
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "base_model: a/b" in card and "layer 20 of `a/b`" in card and "| 7 steps, loss `l1` |" in card
    again = LiteSelector.from_pretrained(str(tmp_path / "hub"))
    assert again.config.training == output
    assert all(torch.equal(one, two) for one, two in zip(again.state_dict().values(), selector.state_dict().values()))


def test_a_prompt_in_another_vocabulary_is_refused(made):
    _, folder, _ = made
    selector = LiteSelector.from_pretrained(str(folder))
    with pytest.raises(ValueError, match=r"the prompt has token 5000, the selector at .* knows \d+"):
        selector.embed(torch.tensor([1, 5000]))
