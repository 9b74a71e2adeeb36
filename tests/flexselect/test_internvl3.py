"""InternVL3 (Qwen2) and InternVL3.5 (Qwen3), in the layout of their authors and in Hugging Face's."""

import json

import pytest
import torch
from transformers import AutoTokenizer, InternVLForConditionalGeneration

from flexselect import FlexSelect
from flexselect.families import InternVL, family_of
from tests import tiny

KINDS = {"qwen2": 151667, "qwen3": 151671}  # with the id of <IMG_CONTEXT>, as published


@pytest.fixture(scope="module", params=[(kind, layout) for kind in KINDS for layout in ("authors", "hf")], ids="-".join)
def folder(request, tmp_path_factory):
    kind, layout = request.param
    folder = tiny.internvl(tmp_path_factory.mktemp(kind), kind=kind)
    if layout == "hf":
        model = FlexSelect.from_pretrained(str(folder), dtype="float32", device="cpu").lm.model
        folder = tmp_path_factory.mktemp(f"{kind}-hf")
        plain = InternVLForConditionalGeneration._from_config(model.config)  # the loaded one would be saved as it was
        plain.load_state_dict(model.state_dict())
        plain.save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny.DEMO).save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<img>", "</img>", "<IMG_CONTEXT>"]})
        tokenizer.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "flexselect": tiny.OWN}))
    return folder


def load(folder, **options):
    return FlexSelect.from_pretrained(str(folder), dtype="float32", device="cpu", **options)


def test_the_family_is_found_and_published_ids_are_known(folder):
    family = family_of(str(folder))
    kind = family.model_config.text_config.model_type
    assert type(family) is InternVL and not family.is_internlm2 and kind in KINDS
    assert family.model_config.image_token_id == KINDS[kind] and family.tokens_per_unit == 258
    for file in folder.glob("tokenizer*"):
        file.rename(file.with_name("hidden_" + file.name))
    try:
        assert family_of(str(folder)).special_ids == {"<img>": KINDS[kind] - 2, "</img>": KINDS[kind] - 1}
    finally:
        for file in folder.glob("hidden_*"):
            file.rename(file.with_name(file.name.removeprefix("hidden_")))
    assert "<|im_start|>" in family.prompter().tokenizer.decode(family.prompter().prefix_ids)[:14], "no <s>"


def test_dense_logits_are_those_of_transformers_from_pixels(folder):
    fs = load(folder)
    prompt = tiny.prompt(fs, count=3)
    encoded = fs.encode(prompt)
    layout, context = encoded.layout(prompt.query_ids, fs.lm.visual_id), 447  # the tiny vocabulary has no 151671
    first, last = fs.lm.delimiters
    inner = torch.tensor([[first, *[context] * 256, last]] * 3).flatten()
    ids = layout.ids.clone()
    ids[layout.visual] = inner
    fs.lm.model.config.image_token_id = fs.lm.model.model.config.image_token_id = context
    with torch.inference_mode():
        pixels = fs.lm.prompter.pixel_values(prompt.clip, 0, 3)
        whole = fs.lm.model(input_ids=ids[None], pixel_values=pixels).logits[0, -1]
    torch.testing.assert_close(fs.next_token_logits(prompt), whole, atol=1e-4, rtol=1e-4)


def test_selection_sessions_and_batches(folder):
    """Keep-all is dense; a session is as from scratch; questions together are as one by one."""
    dense, fs = load(folder), load(folder, selector="self")
    frames = tiny.frames(4)
    prompt = tiny.prompt(fs, count=4)
    everything = load(folder, selector="self", budget=10**6)
    logits = everything.next_token_logits(prompt, everything.select(prompt))
    torch.testing.assert_close(logits, dense.next_token_logits(prompt), atol=1e-4, rtol=1e-4)
    kept, again = (fs.open(frames, keep=keep) for keep in ("scores_kv", "features"))
    questions = ["What is it?", "Where is the red one?"]
    together = kept.ask_all(questions, 5)
    for question, answer in zip(questions, together):
        other = again.ask(question, 5)
        torch.testing.assert_close(answer.selection.scores, other.selection.scores, atol=1e-5, rtol=1e-4)
        assert answer.ids.tolist() == other.ids.tolist() and answer.num_kept_tokens == 9


def test_another_language_model_is_refused(tmp_path):
    folder = tiny.internvl(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["llm_config"] |= {"model_type": "gpt_oss"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match="the language model is 'gpt_oss'; only 'internlm2', 'qwen2', 'qwen3' are supp"
    ):
        InternVL(str(folder))
