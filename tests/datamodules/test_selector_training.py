"""Training annotations: the forms they come in, sampling that every process agrees on, broken clips."""

import json
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset

from datamodules.annotations import Record, read_records
from datamodules.epoch_order import EpochOrder
from datamodules.selector_training import SelectorDataModule
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
    assert first == Record("a/b.mp4", tmp_path / "a/b.mp4", "What is red?", "The ball.")
    assert second.video == "c.mp4" and second.question == "Why?" and second.answer == "So."
    (elsewhere, _) = read_records(str(tmp_path / name), video_root="/videos")
    assert str(elsewhere.path) == "/videos/a/b.mp4"


def test_answers_are_needed_where_they_are_read(checkpoint, tmp_path):
    rows = [RECORD, {"video": "c.mp4", "conversations": [{"from": "human", "value": "Why?"}]}]
    arguments = {"family": Qwen25VL(str(checkpoint)), "annotations": write(tmp_path / "train.json", rows)}
    assert len(SelectorDataModule(**arguments).records) == 2
    with pytest.raises(
        ValueError, match=r"train\.json, record 2: has no answer, which query question_and_answer needs"
    ):
        SelectorDataModule(**arguments, query="question_and_answer")
    assert len(SelectorDataModule(**arguments, query="question_and_answer", unusable="skip").records) == 1


def test_several_videos_in_a_row_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"record 1: is about 2 videos at once; a question is about one"):
        read_records(write(tmp_path / "train.json", [{"videos": ["a.mp4", "b.mp4"], "question": "Q?"}]))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_rows_of_any_data_set(tmp_path, kind):
    rows = Dataset.from_list([{"video": "c.mp4", "question": "Why?", "answer": "So."}])
    rows.to_csv(tmp_path / "train.csv") if kind == "csv" else rows.to_parquet(tmp_path / "train.parquet")
    (record,) = read_records(str(tmp_path / f"train.{kind}"))
    assert record == Record("c.mp4", tmp_path / "c.mp4", "Why?", "So.")


def test_conversations_in_a_data_set(tmp_path):
    Dataset.from_list([RECORD]).to_parquet(tmp_path / "train.parquet")
    (record,) = read_records(str(tmp_path / "train.parquet"))
    assert record.question == "What is red?" and record.answer == "The ball."


def test_bad_lines_and_lists_are_named(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"video": "a.mp4", "question": "Why?"}\n{"video"')
    with pytest.raises(ValueError, match=r"train\.jsonl, line 2: cannot be read"):
        read_records(str(tmp_path / "train.jsonl"))
    for text, output in (
        ("- a\n b: [", "is no YAML"),
        ("foo: 1", "needs a list `datasets`"),
        ("datasets: [1]", "needs a"),
    ):
        (tmp_path / "all.yaml").write_text(text)
        with pytest.raises(ValueError, match=f"all.yaml.*{output}"):
            read_records(str(tmp_path / "all.yaml"))


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
    assert [record.video for record in read_records(str(tmp_path / "all.yaml"))] == [f"{i}.mp4" for i in expected]


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


def loader(checkpoint, videos, rank=0, world=1, val=False, **options):
    annotations = str(videos / "annotations.jsonl")
    arguments = {"val_annotations": annotations} if val else {"annotations": annotations}
    data = SelectorDataModule(Qwen25VL(str(checkpoint)), **arguments, num_workers=0, **options)
    data.trainer = process(rank, world)
    return data


def process(rank=0, world=1, had=0, limit=1.0):
    """A trainer that has had so many batches."""
    progress = {"batch_progress": SimpleNamespace(total=SimpleNamespace(ready=had))}
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(**progress))
    return SimpleNamespace(global_rank=rank, world_size=world, fit_loop=loop, limit_train_batches=limit)


def order(size=8, batch=1, seed=0, shapes=None, **process_options):
    return list(EpochOrder(size, batch, seed, process(**process_options), shapes))


def test_each_epoch_has_an_order_of_its_own_that_processes_share():
    assert order() == order() and sorted(order()) == list(range(8))
    assert order() != order(had=8) and order() != order(seed=1)
    halves = [order(rank=rank, world=2) for rank in range(2)]
    assert sorted(halves[0] + halves[1]) == list(range(8)) and len(halves[0]) == len(halves[1])


@pytest.mark.parametrize("shapes", [None, [(i % 3,) for i in range(48)]])
def test_a_step_of_two_processes_is_a_step_of_one(shapes):
    one = order(48, batch=4, shapes=shapes)
    two = [order(48, batch=2, shapes=shapes, rank=rank, world=2) for rank in range(2)]
    for step in range(12):
        both = [index for mine in two for index in mine[2 * step : 2 * step + 2]]
        assert sorted(both) == sorted(one[4 * step : 4 * step + 4])


def test_clips_of_one_form_go_together():
    shapes = [(i % 3,) for i in range(50)]
    shuffled, grouped = order(50, batch=4), order(50, batch=4, shapes=shapes)
    assert sorted(grouped) == list(range(50)) and grouped != sorted(grouped, key=shapes.__getitem__), (
        "steps are shuffled"
    )

    def mixed(indices):
        return sum(len({shapes[i] for i in indices[s : s + 4]}) > 1 for s in range(0, 48, 4))

    assert mixed(grouped) <= 2 < 8 <= mixed(shuffled)


def test_an_order_is_taken_up_where_it_was_left():
    """Four batches an epoch."""
    second = order(8, batch=2, had=4)
    assert order(8, batch=2, had=6) == second[4:] and order(8, batch=2, had=7) == second[6:]
    assert order(8, batch=2, had=8) not in (second, []), "an epoch that is done is followed by the next"
    short = order(8, batch=2, had=3, limit=2)
    assert short == order(8, batch=2, had=2, limit=2)[2:], "of an epoch that was cut short"


def test_every_process_validates_as_many_clips(checkpoint, videos):
    kept = [list(loader(checkpoint, videos, rank, 3, val=True).val_dataloader().sampler) for rank in range(3)]
    assert [len(mine) for mine in kept] == [3, 3, 3] and sorted(index for mine in kept for index in mine) == [
        -1,
        *range(8),
    ]
    clips = [clip for batch in loader(checkpoint, videos, 2, 3, val=True).val_dataloader() for clip in batch]
    assert len(clips) == 2, "the gap is no clip"


def test_prompts(checkpoint, videos):
    (batch, *_) = loader(checkpoint, videos, batch_size=3).train_dataloader()
    assert len(batch) == 3 and batch[0].prompt.clip.pixels.dtype == torch.uint8
    family = Qwen25VL(str(checkpoint))
    text = family.prompter().tokenizer.decode(batch[0].prompt.query_ids)
    assert text.endswith("?<|im_end|>\n<|im_start|>assistant\n")
    (batch, *_) = loader(checkpoint, videos, query="question_and_answer").train_dataloader()
    assert family.prompter().tokenizer.decode(batch[0].prompt.query_ids).endswith("<|im_end|>")


def test_a_broken_clip_is_replaced_by_the_next_and_says_why(checkpoint, videos, tmp_path):
    rows = [{"video": "gone.mp4", "question": "Why?"}, {"video": str(videos / "needles_000.mp4"), "question": "How?"}]
    write(tmp_path / "annotations.jsonl", rows)
    data = loader(checkpoint, tmp_path)
    clips = [clip for (clip,) in data.train_dataloader()]
    asked = [data.family.prompter().tokenizer.decode(clip.prompt.query_ids) for clip in clips]
    assert len(asked) == 2 and all("How?" in text for text in asked)
    (reason,) = [reason for clip in clips for reason in clip.left_out]
    assert "gone.mp4: no such file" in reason
    write(tmp_path / "annotations.jsonl", rows[:1])
    with pytest.raises(ValueError, match=r"none of the 1 clips can be used; the first: .*gone.mp4"):
        next(iter(loader(checkpoint, tmp_path).train_dataloader()))


def test_teacher_scores_are_made_video_by_video(checkpoint, videos):
    data = loader(checkpoint, videos)
    steps = list(data.predict_dataloader())
    assert [len(clips) for clips in steps] == [4, 4]
    assert all(clip.prompt.clip is clips[0].prompt.clip for clips in steps for clip in clips)
    data.skip({data.key(record) for record in data.records[:5]})
    assert [len(clips) for clips in data.predict_dataloader()] == [3], "what was scored is not decoded again"


def test_without_annotations_nothing_is_trained(checkpoint, videos):
    with pytest.raises(ValueError, match=r"give --data\.annotations FILE for fit"):
        SelectorDataModule(Qwen25VL(str(checkpoint)))
    data = loader(checkpoint, videos, val=True)
    data.records = []
    with pytest.raises(ValueError, match="nothing to train on"):
        data.train_dataloader()
