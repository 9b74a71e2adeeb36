"""Training annotations: the forms they come in, sampling that every process agrees on, broken clips."""

import json

import pytest
import torch

from datamodules.selector_training import SelectorDataModule, read_records
from flexselect.families import Qwen25VL

RECORD = {
    "id": "1",
    "video": "a/b.mp4",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat is red?"},
        {"from": "gpt", "value": "The ball."},
        {"from": "human", "value": "And blue?"},
    ],
}


def write(path, rows):
    lines = path.suffix == ".jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))
    return str(path)


@pytest.mark.parametrize("name", ["train.json", "train.jsonl"])
def test_conversations_and_plain_rows(tmp_path, name):
    rows = [RECORD, {"video": "c.mp4", "question": "<video>\nWhy?", "answer": "So."}]
    first, second = read_records(write(tmp_path / name, rows))
    assert first == {"video": "a/b.mp4", "question": "What is red?", "answer": "The ball."}
    assert second["video"] == "c.mp4" and second["answer"] == "So."


def numbered(count):
    return [{"video": f"{i}.mp4", "question": "Why?"} for i in range(count)]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("all", list(range(10))),
        ("first:3", [0, 1, 2]),
        ("end:2", [8, 9]),
        ("first:25%", [0, 1, 2]),
        ("end:100", list(range(10))),
    ],
)
def test_sampling_strategies(tmp_path, strategy, expected):
    write(tmp_path / "part.json", numbered(10))
    (tmp_path / "all.yaml").write_text(f"datasets:\n- {{json_path: part.json, sampling_strategy: '{strategy}'}}\n")
    assert [record["video"] for record in read_records(str(tmp_path / "all.yaml"))] == [f"{i}.mp4" for i in expected]


def test_random_sampling_is_the_same_in_every_process(tmp_path):
    write(tmp_path / "part.json", numbered(100))
    (tmp_path / "all.yaml").write_text("datasets:\n- {json_path: part.json, sampling_strategy: 'random:20%'}\n")
    one, two = (read_records(str(tmp_path / "all.yaml"), seed=3) for _ in range(2))
    assert one == two and len(one) == 20
    assert one != read_records(str(tmp_path / "all.yaml"), seed=4), "canary"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "holds no records"),
        ("[{", "cannot be read as annotations"),
        ('[{"video": "a.mp4"}]', "record 1: has no video, or no question"),
    ],
)
def test_bad_annotations_are_named(tmp_path, text, message):
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(ValueError, match=f"train.json.*{message}"):
        read_records(str(tmp_path / "train.json"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_records(str(tmp_path / "nowhere.json"))


def loader(checkpoint, videos, rank=0, world=1, epoch=0, **options):
    data = SelectorDataModule(Qwen25VL(str(checkpoint)), str(videos / "annotations.jsonl"), num_workers=0, **options)
    data.trainer = type("Trainer", (), {"global_rank": rank, "world_size": world, "current_epoch": epoch})()
    return data


def test_each_epoch_has_an_order_of_its_own_that_processes_share(checkpoint, videos):
    def order(**options):
        return list(loader(checkpoint, videos, **options).train_dataloader().sampler)

    assert order() == order() and sorted(order()) == list(range(8))
    assert order() != order(epoch=1) and order() != order(seed=1)
    halves = [order(rank=rank, world=2) for rank in range(2)]
    assert sorted(halves[0] + halves[1]) == list(range(8)) and len(halves[0]) == len(halves[1])


def test_prompts(checkpoint, videos):
    (batch, *_) = loader(checkpoint, videos, batch_size=3).train_dataloader()
    assert len(batch) == 3 and batch[0].clip.pixels.dtype == torch.uint8
    family = Qwen25VL(str(checkpoint))
    text = family.prompter().tokenizer.decode(batch[0].query_ids)
    assert text.endswith("?<|im_end|>\n<|im_start|>assistant\n")
    (batch, *_) = loader(checkpoint, videos, query="question_and_answer").train_dataloader()
    assert family.prompter().tokenizer.decode(batch[0].query_ids).endswith("<|im_end|>")


def test_a_broken_clip_is_replaced_by_the_next_and_logged(checkpoint, videos, tmp_path, caplog):
    rows = [{"video": "gone.mp4", "question": "Why?"}, {"video": str(videos / "needles_000.mp4"), "question": "How?"}]
    write(tmp_path / "annotations.jsonl", rows)
    data = loader(checkpoint, tmp_path)
    asked = [data.family.prompter().tokenizer.decode(p.query_ids) for (p,) in data.train_dataloader()]
    assert len(asked) == 2 and all("How?" in text for text in asked)
    assert "left out: " in caplog.text and "gone.mp4" in caplog.text
    write(tmp_path / "annotations.jsonl", rows[:1])
    with pytest.raises(ValueError, match="none of the 1 clips under"):
        next(iter(loader(checkpoint, tmp_path).train_dataloader()))
