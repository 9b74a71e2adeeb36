"""InternLM2's tokenizer from `tokenizer.model` alone, against SentencePiece itself."""

import io
import json

import pytest
import sentencepiece

from flexselect.loading.internlm2_tokenizer import InternLM2Tokenizer, load_tokenizer

SPECIAL = {"<unk>": 0, "<s>": 1, "</s>": 2, "<|im_start|>": 300, "<|im_end|>": 301, "<img>": 302, "</img>": 303}
TEXT = ["What colour is the circle?", "你是书生·万象，英文名是InternVL", "  two  spaces\nand a line"] * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("internlm2")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT),
        model_writer=model,
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    added = {str(number): {"content": token, "special": True} for token, number in SPECIAL.items()}
    settings = {"tokenizer_class": "InternLM2Tokenizer", "added_tokens_decoder": added}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_special_tokens_are_read_by_name_and_the_rest_by_sentencepiece(folder):
    tokenizer = load_tokenizer(str(folder))
    assert isinstance(tokenizer, InternLM2Tokenizer)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    text = "<|im_start|>user\n<img></img>What colour?<|im_end|>\n"
    expected = [300, *pieces.encode("user\n"), 302, 303, *pieces.encode("What colour?"), 301, *pieces.encode("\n")]
    assert tokenizer(text).input_ids == expected
    assert tokenizer(text, add_special_tokens=True).input_ids == [1, *expected]


@pytest.mark.parametrize("text", TEXT[:3])
def test_text_survives_the_way_there_and_back(folder, text):
    tokenizer = load_tokenizer(str(folder))
    ids = tokenizer(f"<|im_start|>{text}<|im_end|>").input_ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special_tokens=False) == f"<|im_start|>{text}<|im_end|>"
