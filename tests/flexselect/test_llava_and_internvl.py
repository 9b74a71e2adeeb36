"""Numbers of the published evaluation of LLaVA-Video and InternVL2.5: sampling, prompt, tokens a frame."""

import json
import shutil

import pytest
import torch

from flexselect import FlexSelect
from flexselect.families import InternVL, LlavaVideo
from flexselect.families.internvl import SYSTEM
from tests import tiny


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return tiny.llava_video(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def internvl(tmp_path_factory):
    return tiny.internvl(tmp_path_factory.mktemp("internvl"))


def test_llava_sampling_table(llava):
    family = LlavaVideo(str(llava))
    assert family.sample(300, 30) == list(range(0, 300, 30))
    many = family.sample(20000, 25)
    assert len(many) == 512 and many[:6] == [0, 39, 78, 117, 156, 195] and many[-3:] == [19920, 19959, 19999]
    assert family.sample(1, 30) == [0]
    assert family.sample(10, 0.3) == list(range(10))  # the released code divides by zero
    assert LlavaVideo(str(llava), fps=float("inf"), max_frames=4).sample(10, 30) == [0, 3, 6, 9]


def test_internvl_sampling_table(internvl):
    family = InternVL(str(internvl))
    assert family.sample(300, 30) == [16, 49, 82, 116, 149, 182, 215, 249, 282]
    many = family.sample(20000, 25)
    assert len(many) == 512 and many[:6] == [19, 58, 97, 136, 175, 214] and many[-3:] == [19901, 19940, 19979]
    assert family.sample(1, 30) == [0] and family.sample(20, 30) == [9]  # the released code divides by zero


def test_prompts(llava, internvl):
    prompter = LlavaVideo(str(llava)).prompter()
    decode = prompter.tokenizer.decode
    assert decode(prompter.prefix_ids) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    )
    assert decode(prompter.query_ids("Why?")) == "\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    prompter = InternVL(str(internvl)).prompter()
    decode = prompter.tokenizer.decode
    prefix = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
    assert decode(prompter.prefix_ids) == "<|endoftext|>" + prefix  # the tiny tokenizer's first token
    assert decode(prompter.query_ids("Why?")) == "Why?<|im_end|>\n<|im_start|>assistant\n"


def test_published_layers_and_budgets(llava, internvl):
    for family, depths, budget in (
        (LlavaVideo(str(llava)), {28: 19, 80: 60}, 6720),
        (InternVL(str(internvl)), {32: 15}, 8256),
    ):
        family.config.pop("flexselect")
        for depth, layer in depths.items():
            family.model_config.text_config.num_hidden_layers = depth
            assert family.default_reference_layer == layer
        assert family.published_budget == budget
        assert family.default_positions == "compact"


def test_newlines_and_brackets_are_visual_tokens(llava, internvl):
    fs = FlexSelect.from_pretrained(str(llava), dtype="float32", device="cpu")
    rows = fs.encode(tiny.prompt(fs, count=2)).features.view(2, 14, 15, -1)
    assert torch.equal(rows[:, :, 14], fs.lm.model.model.image_newline.expand(2, 14, -1))
    fs = FlexSelect.from_pretrained(str(internvl), dtype="float32", device="cpu")
    frames = fs.encode(tiny.prompt(fs, count=2)).features.view(2, 258, -1)
    first, last = fs.lm.embed(torch.tensor(fs.lm.delimiters))
    assert torch.equal(frames[:, 0], first.expand(2, -1)) and torch.equal(frames[:, -1], last.expand(2, -1))


def test_an_answer_ends_with_the_turn(internvl):
    """InternVL2.5's configuration names </s>, which never comes; its turns end with <|im_end|>."""
    fs = FlexSelect.from_pretrained(str(internvl), dtype="float32", device="cpu")
    end = fs.lm.prompter.end_of_turn
    fs.lm.model.generation_config.eos_token_id = 1
    fs.lm.model.lm_head.bias = torch.nn.Parameter(100.0 * torch.nn.functional.one_hot(torch.tensor(end), 448))
    session = fs.open(tiny.frames(1))
    generate, generated = fs.lm.generate, []
    fs.lm.generate = lambda *arguments: generated.append(generate(*arguments)) or generated[-1]
    session.ask("Why?", max_new_tokens=8)
    assert [new.ids.tolist() for new in generated[0]] == [[end]]


def test_prompts_that_do_not_fit_their_frames_are_refused(llava, internvl):
    fs = FlexSelect.from_pretrained(str(llava), dtype="float32", device="cpu")
    with pytest.raises(ValueError, match="must have one placeholder for the clip, it has 2"):
        fs.prompt_from_tensors(input_ids=torch.tensor([1, -200, -200]), pixel_values=torch.zeros(2, 3, 384, 384))
    fs = FlexSelect.from_pretrained(str(internvl), dtype="float32", device="cpu")
    with pytest.raises(ValueError, match=r"1 <img> and 0 </img> .* for 2 frames"):
        ids = torch.tensor([1, fs.lm.delimiters[0], 5])
        fs.prompt_from_tensors(input_ids=ids, pixel_values=torch.zeros(2, 3, 448, 448))


def test_a_llava_tokenizer_without_tokenizer_json(llava, tmp_path):
    """As a fine-tune saves it with the slow tokenizer: vocabulary and merges in files of their own."""
    shutil.copytree(llava, tmp_path, dirs_exist_ok=True)
    whole = LlavaVideo(str(llava)).prompter()
    model = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    added = {
        str(i): vars(token) | {"content": token.content} for i, token in whole.tokenizer.added_tokens_decoder.items()
    }
    special = {number: {"content": token["content"], "special": True} for number, token in added.items()}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": special})
    )
    split = LlavaVideo(str(tmp_path)).prompter()
    for text in ("What colour is the cup?", "Why?"):
        assert split.query_ids(text).tolist() == whole.query_ids(text).tolist()
