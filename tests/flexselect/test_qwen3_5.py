"""Qwen3.5: layers with attention between recurrent ones."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from flexselect import FlexSelect, Selection
from flexselect.attention.layers import attention_layers, layer_at_same_depth
from flexselect.attention.states import KeysValues, Recurrent, cache_keyword, empty_cache
from flexselect.families import family_of
from tests import tiny
from tests.flexselect.test_qwen3_vl import clip, prompt, tensors
from tests.near import assert_near
from tests.processes import Run

BUILDERS = {
    "dense": tiny.qwen3_5,
    "experts": lambda folder: tiny.qwen3_5(folder, experts=True),
    "Qwen3-VL with experts": lambda folder: tiny.qwen3_vl(folder, experts=True),
}
TEMPLATE = (  # with the published switch
    "{%- if system is defined %}{{ '<|im_start|>system\n' + system + '<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endfor %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}"
    "{%- else %}{{- '<think>\n' }}{%- endif %}"
)
OFF, ON = "<think>\n\n</think>\n\n", "<think>\n"


def opened(folder, **options):
    options = {"selector": "self", "units_per_set": 3, **options}
    return FlexSelect.from_pretrained(str(folder), dtype="float32", device="cpu", **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.qwen3_5(tmp_path_factory.mktemp("qwen3_5"))


@pytest.fixture
def fs(folder):
    return opened(folder)


@pytest.mark.parametrize("kind", BUILDERS)
@torch.inference_mode()
def test_dense_equals_the_models_own_forward_and_generation_from_pixels(kind, tmp_path):
    fs = opened(BUILDERS[kind](tmp_path))
    some = prompt(fs)
    arguments = tensors(fs, some)
    arguments["mm_token_type_ids"] = (arguments["input_ids"] == fs.lm.visual_id).int() * 2
    arguments["attention_mask"] = torch.ones_like(arguments["input_ids"])
    original = fs.lm.model(**arguments).logits[0, -1]
    torch.testing.assert_close(fs.next_token_logits(some), original, atol=1e-5, rtol=1e-4)
    written = fs.lm.model.generate(**arguments, max_new_tokens=6, do_sample=False)[0, arguments["input_ids"].shape[1] :]
    assert fs.generate(some, None, 6).tolist() == written.tolist()
    session = fs.open(tiny.frames(12), range(12), keep="scores_kv")
    session.ask("Which shape is red?", 1)
    fresh = fs.open(tiny.frames(12), range(12), keep="features").ask("Why?", 3)
    later = session.ask("Why?", 3)
    torch.testing.assert_close(later.selection.scores, fresh.selection.scores, atol=1e-5, rtol=1e-4)
    assert later.text == fresh.text


@torch.inference_mode()
def test_a_dropped_token_was_never_read(fs):
    """The kept tokens one at a time, through transformers' step of the recurrence; nothing decays for a dropped one."""
    some = prompt(fs)
    encoded = fs.encode(some)
    kept = torch.tensor([2, 9, 10, 30])
    selection = Selection(torch.zeros(encoded.num_tokens), kept, [torch.arange(encoded.num_tokens)])
    inputs = fs.lm.assemble(encoded, some.query_ids, selection, "original")
    config = fs.lm.decoder.config
    cache = empty_cache(config)
    for place in range(inputs["inputs_embeds"].shape[1]):
        out = fs.lm.decoder(
            inputs_embeds=inputs["inputs_embeds"][:, place : place + 1],
            position_ids=inputs["position_ids"][..., place : place + 1],
            attention_mask=torch.ones(1, place + 1, dtype=torch.long),
            use_cache=True,
            **{cache_keyword(fs.lm.decoder): cache},
        ).last_hidden_state
    expected = fs.lm.model.lm_head(out[0, -1])
    pruned = fs.next_token_logits(some, selection)
    torch.testing.assert_close(pruned, expected, atol=1e-5, rtol=1e-4)
    everything = Selection(torch.zeros(42), torch.arange(42), [torch.arange(42)])
    assert_near(fs.next_token_logits(some, everything), fs.next_token_logits(some))
    masked = {**fs.lm.assemble(encoded, some.query_ids, None, "original")}
    layout = encoded.layout(some.query_ids, fs.lm.visual_id)
    masked["attention_mask"] = layout.kept_mask(kept)[None].long()
    assert not torch.allclose(fs.lm.next_token_logits(masked), pruned, atol=1e-3), "a masked token still decays a state"


def test_a_snapshot_is_continued_and_not_changed(fs):
    session = fs.open(tiny.frames(12), range(12), keep="scores_kv")
    session.ask("Which shape is red?", 1)
    parts = list(session.prefix_cache(session.encode()))
    assert [type(states) for states in parts[0].past] == [Recurrent, KeysValues, KeysValues]
    before = [[state.clone() for states in part.past for state in states] for part in parts]
    for question in ("Why?", "W?", "Which of the shapes is red, and where does it stand?"):
        session.ask(question, 1)
    assert all(
        torch.equal(*pair) for part, old in zip(parts, before) for pair in zip((s for p in part.past for s in p), old)
    )


def test_what_a_session_keeps(fs, tmp_path):
    """Fixed for each frame set in a recurrent layer, growing with the tokens in one with attention."""
    sizes = {}
    for count in (6, 12):  # one frame set, or two
        session = fs.open(tiny.frames(count), range(count), keep="scores_kv")
        session.ask("Why?", 1)
        encoded = session.encode()
        sizes[count] = sum(part.num_bytes for part in session.prefix_cache(encoded))
        assert sizes[count] == fs.prefix_cache_bytes(encoded)
        tokens = len(encoded.layout(torch.empty(0, dtype=torch.long), fs.lm.visual_id).before_query.ids)
        tokens += (len(encoded.prefix_ids) - 1) * (count // 6 - 1)  # each set has the prefix, and ends with its frames
        growing = 2 * 2 * 2 * 16 * 4 * tokens  # layers, keys and values, heads, width, bytes
        fixed = (4 * (2 * 16 + 32) + 4 * 8 * 8) * 4  # four inputs of its convolution, and a state for each head
        assert sizes[count] == growing + fixed * (count // 6)
        session.save(tmp_path / "session")
        again = fs.load_session(tmp_path / "session")
        expected, restored = (s.select("What is red?").scores for s in (session, again))
        assert_near(restored, expected)


def test_a_recurrent_layer_cannot_be_the_reference_layer(folder):
    for layer in (0, 3, 4):
        message = f"reference_layer must be one of 1, 2, the layers with attention, for this model, got {layer}"
        with pytest.raises(ValueError, match=message):
            opened(folder, reference_layer=layer)
    config = family_of(str(folder)).model_config.get_text_config()
    assert attention_layers(config) == [1, 2]
    for depth, layer in ((24, 15), (32, 23), (64, 47), (40, 27), (48, 35), (60, 43)):
        config.num_hidden_layers = depth
        config.layer_types = [("full_attention" if i % 4 == 3 else "linear_attention") for i in range(depth)]
        assert layer_at_same_depth(config, {28: 20, 80: 60}) == layer, depth


def test_a_checkpoint_without_attention_is_refused(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["layer_types"] = ["linear_attention"] * len(config["text_config"]["layer_types"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"by its config\.json no layer has attention"):
        family_of(str(tmp_path))


def test_quiet_says_nothing_of_missing_kernels(folder, videos):
    """In a process of its own, since transformers says it once."""
    words = [
        "ask",
        str(videos / "needles_000.mp4"),
        "Which shape is red?",
        "--model",
        str(folder),
        "--max_new_tokens",
        "2",
    ]
    assert "[transformers]" not in Run([*words, "--quiet"]).ended(0)


def test_a_checkpoints_own_default_must_have_attention(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config["flexselect"]["reference_layer"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="reference_layer is 3, not one of 1, 2"):
        family_of(str(tmp_path))


@pytest.mark.parametrize("template", [None, TEMPLATE, "{%- set system = 'Think hard.' %}" + TEMPLATE])
@pytest.mark.parametrize("thinking", [None, False, True])
def test_thinking_is_off_unless_it_is_wanted(folder, template, thinking):
    """By the switch of the checkpoint's own template, whose default is on; else by the published text."""
    family = family_of(str(folder), **({} if thinking is None else {"thinking": thinking}))
    prompter = family.prompter()
    prompter.tokenizer.chat_template = template
    before, opening = prompter._turns(family.thinking)
    assert opening == (ON if thinking else OFF)
    system = "<|im_start|>system\nThink hard.<|im_end|>\n" if template and "set system" in template else ""
    assert before == f"{system}<|im_start|>user\n"
    ids = family.prompter().query_ids("Who?", [("Where?", "left")])
    assert prompter.tokenizer.decode(ids.tolist()) == (
        "Where?<|im_end|>\n<|im_start|>assistant\nleft<|im_end|>\n<|im_start|>user\n"
        f"Who?<|im_end|>\n<|im_start|>assistant\n{opening}"
    )
    assert family.settings["thinking"] is bool(thinking)
    with pytest.raises(ValueError, match="thinking must be true or false, got 'no'"):
        family_of(str(folder), thinking="no")


def test_a_template_of_other_turns_is_refused(folder):
    prompter = family_of(str(folder)).prompter()
    prompter.tokenizer.chat_template = "{% for turn in messages %}User: {{ turn.content }}{% endfor %}"
    with pytest.raises(ValueError, match="its chat template writes no turns as Qwen"):
        prompter._turns(False)


def test_weights_for_drafts_are_passed_over(folder, tmp_path):
    """Published checkpoints hold one more layer, `mtp`, that drafts tokens; transformers has no place for it."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "mtp.fc.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    some = prompt(opened(folder))
    assert torch.equal(opened(tmp_path).next_token_logits(some), opened(folder).next_token_logits(some))
    save_file({**weights, "mpt.fc.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"do not fit.*unexpected_keys: mpt\.fc\.weight"):
        opened(tmp_path)


def test_each_unit_follows_its_timestamp_and_there_is_no_deepstack(fs):
    encoded = fs.encode(prompt(fs, count=4))
    assert encoded.features.shape == (12, 64) and len(clip(fs, count=4).delimiters) == 2
    inputs = fs.lm.assemble(encoded, fs.lm.prompter.query_ids("Why?"), None, "original")
    text = fs.lm.prompter.tokenizer.decode(inputs["input_ids"][0].tolist()).replace("<|video_pad|>", ".")
    assert text == (
        "<|im_start|>user\n<7.8 seconds><|vision_start|>......<|vision_end|>"
        "<8.8 seconds><|vision_start|>......<|vision_end|>"
        f"Why?<|im_end|>\n<|im_start|>assistant\n{OFF}"
    )
