"""Prompts by the published vocabularies: the same ids as the text of the chat template, tokenized in one go."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from flexselect.families import family_of
from flexselect.loading.internlm2_tokenizer import load_tokenizer
from tests.flexselect.test_published_sizes import MODELS

REAL = next(Path(__file__).parents[3].glob("*/real/qwen2_5_tokenizer"), None)
pytestmark = pytest.mark.skipif(REAL is None, reason="NOT CHECKED on the published vocabularies: none here")
QUESTIONS = [
    "What is shown first?",
    "Which is true?\nA. He runs.\nB. She sings.\nAnswer with the option's letter from the given choices directly.",
    "视频里有多少人？",
    "  two  spaces, a tab\tand “quotes”  ",
    "1 + 1 = 2, <b>bold</b> & 100 %",
]
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}


def prompter(name, tokenizer, folder):
    (folder / "config.json").write_text(json.dumps(MODELS[name][0]))
    for file in tokenizer.iterdir():
        shutil.copy(file, folder)
    return family_of(str(folder)).prompter()


def chat(tokenizer, content):
    """The chat template of the published tokenizer, as text."""
    messages = [SYSTEM, {"role": "user", "content": content}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@pytest.fixture(
    scope="module",
    params=[
        ("Qwen2.5-VL-7B", "<|vision_start|>", "<|video_pad|>", "<|vision_end|>"),
        ("LLaVA-Video-7B", "", "<|video_pad|>", "\n"),  # its own placeholder is in no text
    ],
    ids=lambda param: param[0],
)
def of_qwen(request, tmp_path_factory):
    """A prompter, the published tokenizer, and the text around a placeholder."""
    name, *around = request.param
    made = prompter(name, REAL, tmp_path_factory.mktemp("model"))
    return made, AutoTokenizer.from_pretrained(REAL), around


@pytest.mark.parametrize("question", QUESTIONS)
def test_qwen_and_llava(of_qwen, question):
    made, whole, (before, placeholder, after) = of_qwen
    text = chat(whole, f"{before}{placeholder * 3}{after}{question}")
    ids = whole(text).input_ids
    visual = whole.convert_tokens_to_ids(placeholder)
    assert [*made.prefix_ids.tolist(), *[visual] * 3, *made.query_ids(question).tolist()] == ids


@pytest.fixture(scope="module")
def internvl(tmp_path_factory):
    """The published InternLM2 vocabulary with InternVL's tokens behind it, as in InternVL2.5-8B."""
    source, folder = tmp_path_factory.mktemp("tokenizer"), tmp_path_factory.mktemp("model")
    shutil.copy(REAL.parent / "internlm2_tokenizer" / "tokenizer.model", source)
    config = json.loads((REAL.parent / "internlm2_tokenizer" / "tokenizer_config.json").read_text(encoding="utf-8"))
    for number, token in ((92544, "<img>"), (92545, "</img>"), (92546, "<IMG_CONTEXT>")):
        config["added_tokens_decoder"][str(number)] = {"content": token, "special": True}
    (source / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return prompter("InternVL2.5-8B", source, folder), load_tokenizer(str(folder))


@pytest.mark.parametrize("question", QUESTIONS)
def test_internvl(internvl, question):
    made, whole = internvl
    system = (
        "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
    )
    text = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n<img><IMG_CONTEXT></img>"
    text += f"{question}<|im_end|>\n<|im_start|>assistant\n"
    assert [*made.prefix_ids.tolist(), 92544, 92546, 92545, *made.query_ids(question).tolist()] == (
        whole(text, add_special_tokens=True).input_ids
    )


def test_the_reader_of_internlm2_reads_as_the_published_one(internvl):
    """The same vocabulary as tokenizer.json, on text without special tokens."""
    _, ours = internvl
    published = PreTrainedTokenizerFast(tokenizer_file=str(REAL.parent / "internlm2_tokenizer" / "tokenizer.json"))
    for text in QUESTIONS:
        ids = published(text, add_special_tokens=False).input_ids
        assert ours(text).input_ids == ids and ours.decode(ids) == text
