"""What answers cost: numbers by hand, sums, every mode, and what torch counts."""

import json
import math
import re
import time
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import cli
from flexselect import FlexSelect
from flexselect.analysis.operations import QUESTION, operations
from flexselect.analysis.plan import Plan
from flexselect.commands.experiment import table
from flexselect.engine.costs import cost_of_answering, cost_of_selecting, decoder_of
from flexselect.evaluation.comparison import compare
from flexselect.evaluation.costs import cost_line, mean_cost
from flexselect.families import family_of
from flexselect.options import Options
from flexselect.running.operations import Decoder, Tower
from flexselect.structures.answer import Answer
from flexselect.structures.cost import Cost, add_costs
from flexselect.structures.prompt import EncodedVideo, Selection
from flexselect.visualize.report import write_report
from tests import tiny

QUESTION_TEXT = "What colour is the circle?"
DEMO = "checkpoints/demo/video_llm"
COST = {"frames": 4, "decoded": 7, "pixels": 8_000_000, "scored": 9, "kept": 3, "tflop": 0.5}


def test_numbers_by_hand():
    """Each term written out once, for sizes that can be counted on paper."""
    decoder = Decoder(layers=3, width=4, inner=6, heads=2, kv_heads=1, attended=4)
    matrices = 4 * 4 + 2 * (4 * 2) + 4 * 4 + 3 * (4 * 6)  # q, k and v of half the width, o, MLP
    assert matrices == 120
    attention = 5 * 5 * 4 * 2  # q k^T and p v over half of 5 x 5 places: 2 operations x 25 / 2 x width 4, twice
    assert decoder.operations(5, 1) == 2 * 120 * 5 + attention == 1400
    assert decoder.operations(5, 3) == 3 * 1400
    tower = Tower(layers=2, width=4, inner=6, matrices=2, patches=9, seen=9)
    layer = 9 * (2 * (4 * 4 * 4 + 2 * 4 * 6) + 4 * 9 * 4)  # no mask: all of 9 x 9
    assert layer == 3312 and tower.operations(10) == 10 * 2 * 3312
    merged = replace(tower, patches=8, seen=8, merged=1).operations(1)
    assert merged == 8 * (224 + 4 * 8 * 4) + 2 * (224 + 4 * 2 * 4)


def test_costs_add_up():
    one, other = Cost(4, 7, 100, 9, 0, 0.5), Cost(2, 2, 50, 3, 3, 0.25)
    assert one + other == Cost(6, 9, 150, 12, 3, 0.75) and one + Cost() == one
    assert (one + replace(other, decoded=None)).decoded is None, "unknown in one part is unknown in all"
    assert add_costs([one, other]) == one + other and add_costs([one, None]) is None and add_costs([]) == Cost()
    assert replace(one, tflop=1 / 3e5).to_dict() == {**COST, "pixels": 100, "kept": 0, "tflop": 3.333e-06}
    answer = Answer("a", None, 9, 3)
    assert answer.to_dict()["cost"] is None and replace(answer, cost=one).to_dict()["cost"] == one.to_dict()


@pytest.mark.parametrize("selector", [None, "uniform", "random", "self"])
def test_every_mode_of_every_family(load, selector):
    fs = load(selector=selector, units_per_set=2)
    session = fs.open(tiny.frames(7), torch.arange(7.0))
    answer = session.ask(QUESTION_TEXT, max_new_tokens=3)
    encoded, query = session.encode(), fs.lm.prompter.query_ids(QUESTION_TEXT)
    count, height, width = encoded.tower_input
    assert count in (7, 8) and answer.cost.frames == 7 and answer.cost.decoded is None, "frames were given"
    assert answer.cost.pixels == count * height * width
    assert answer.cost.scored == (answer.num_visual_tokens if selector == "self" else 0)
    assert answer.cost.kept == answer.num_kept_tokens
    inputs = fs.lm.assemble(encoded, query, answer.selection, fs.positions)
    tokens = inputs["input_ids"].shape[1] + len(answer.ids) - 1
    config = fs.family.model_config
    decoder = Decoder.of(config.get_text_config())
    expected = Tower.of(config.vision_config, height, width).operations(encoded.num_units)
    expected += decoder.operations(tokens, decoder.layers)
    if selector == "self":
        for chosen in answer.selection.sets:
            units = (chosen[:: encoded.tokens_per_unit] // encoded.tokens_per_unit).tolist()
            size = len(encoded.layout(query, fs.lm.visual_id, units).ids)
            expected += decoder.operations(size, fs.scorer.layer)
    assert answer.cost.tflop == pytest.approx(expected / 1e12, rel=1e-9)


def test_the_order_and_the_door_do_not_change_it(load, tmp_path):
    """A later question, several at once, features kept or not, and a file: the same cost, as if asked alone."""
    fs = load(selector="self")
    session = fs.open(tiny.frames(7), torch.arange(7.0))
    first = session.ask(QUESTION_TEXT, max_new_tokens=1).cost
    assert session.ask(QUESTION_TEXT, max_new_tokens=1).cost == first
    assert [a.cost for a in session.ask_all([QUESTION_TEXT] * 2, max_new_tokens=1)] == [first] * 2
    session.save(tmp_path / "a.safetensors")
    assert fs.load_session(tmp_path / "a.safetensors").ask(QUESTION_TEXT, max_new_tokens=1).cost == first
    (across,) = fs.ask_all([(session, QUESTION_TEXT)], max_new_tokens=1)
    assert across.cost == first
    assert session.ask(QUESTION_TEXT, max_new_tokens=1, budget=2).cost.tflop < first.tflop
    shown_again = session.keeping("nothing").ask(QUESTION_TEXT, max_new_tokens=1).cost
    assert shown_again == first


@pytest.mark.parametrize("selector", [None, "self", "checkpoints/demo/selector"])
def test_it_is_what_is_planned(selector):
    """The estimate of `check`, for the text that it assumes, is that of an answer with one token."""
    plan = Plan(family_of(DEMO), Options(selector=selector, budget=20, units_per_set=4))
    clip = plan.clip(24)
    fs = FlexSelect.from_pretrained(plan.family, selector, budget=20, units_per_set=4, dtype="float32", device="cpu")
    prefix, query = torch.zeros(0, dtype=torch.long), torch.zeros(QUESTION, dtype=torch.long)
    tokens = clip.num_units * clip.grid[1] * clip.grid[2]
    encoded = EncodedVideo(prefix, torch.empty(tokens, 1), clip.grid, tower_input=clip.tower_input)
    selection = Selection(torch.zeros(tokens), torch.arange(20), fs.frame_sets(encoded)) if selector else None
    kept = 20 if selector else tokens
    cost = cost_of_selecting(fs.family, fs.scorer, encoded, query, selection)
    cost += cost_of_answering(fs.family, kept + QUESTION, kept, new=1)
    stages = operations(plan, clip)
    assert ("score" in stages) == (selector is not None)
    assert cost.tflop == pytest.approx(sum(stages.values()) / 1e12, rel=1e-9)


def test_of_two_looks_it_is_what_is_planned_too():
    """But for the text: a question of another length is asked, and delimiters of what was not kept are gone."""
    common, looks = {"budget": 20, "units_per_set": 4}, {"cost": 0.4, "first_look_shrink": 3.0}
    once, plan = (Plan(family_of(DEMO), Options(selector="self", **common, **how)) for how in ({}, looks))
    fs = FlexSelect.from_pretrained(plan.family, "self", dtype="float32", device="cpu", **common, **looks)
    frames, seconds = torch.zeros(48, 84, 84, 3, dtype=torch.uint8), torch.arange(48) / 2
    cost = fs.open(frames, seconds).ask(QUESTION_TEXT, max_new_tokens=1).cost
    clip = plan.clip(48, 84, 84)
    first, second = plan.looks(clip)
    assert cost.frames == first.num_units + second.pixels.shape[0] <= 0.4 * 48
    assert cost.scored == math.prod(first.grid) + math.prod(second.grid)
    assert first.pixels.shape[1:3] == (28, 28) and second.pixels.shape[1:3] == (84, 84)
    planned = operations(plan, clip)
    assert cost.tflop < sum(planned.values()) / 1e12 < sum(operations(once, clip).values()) / 1e12


def counted(work) -> tuple[dict[str, int], object]:
    """Operations that torch counts in each module, and what the work returns."""
    with FlopCounterMode(display=False) as counter:
        result = work()
    return {name: sum(kinds.values()) for name, kinds in counter.get_flop_counts().items()}, result


def test_torch_counts_the_same(load, model_folder):
    """Of the layers; a tiny tower's patch embedding and projection, which are left out, would outweigh them."""
    fs = load(attn_implementation="eager")
    frames = tiny.frames(6)
    modules, session = counted(lambda: fs.open(frames, torch.arange(6.0)))
    layers = sum(count for name, count in modules.items() if re.search(r"(blocks|layers?)\.\d+$", name))
    encoded = session.encode()
    tower = Tower.of(fs.family.model_config.vision_config, *encoded.tower_input[1:]).operations(encoded.num_units)
    # 1 %: windows that a small picture does not fill (Qwen2.5-VL), and the class token (InternVL)
    assert layers == pytest.approx(tower, rel=0.01)
    query = fs.lm.prompter.query_ids(QUESTION_TEXT)
    inputs = fs.lm.assemble(encoded, query, None, fs.positions)
    modules, _ = counted(lambda: fs.lm.next_token_logits(inputs))
    decoder, size, text = decoder_of(fs.family), inputs["input_ids"].shape[1], fs.family.model_config.get_text_config()
    expected = 1e12 * cost_of_answering(fs.family, size, encoded.num_tokens, new=1).tflop
    expected += (decoder.layers - len(decoder.recurrent)) * 2 * size**2 * decoder.attended  # eager: both halves
    expected += 2 * text.hidden_size * text.vocab_size  # logits of the last token
    # a recurrence is computed in chunks of 64 tokens here, which a short prompt does not fill; kernels waste less
    within = 0.5 if decoder.recurrent else 1e-3
    assert modules["Global"] == pytest.approx(expected, rel=within)


def test_it_takes_microseconds():
    """On the demo's model; a later question takes some 30 ms. Many units, each with a timestamp, take most."""
    family = family_of(DEMO)
    fs = FlexSelect.from_pretrained(family, "self", dtype="float32", device="cpu")
    around = torch.zeros(4, dtype=torch.long), torch.zeros(2, dtype=torch.long)
    encoded = EncodedVideo(
        around[0], torch.empty(512 * 9, 1), (512, 3, 3), delimiters=(around,) * 512, tower_input=(1024, 84, 84)
    )
    selection = Selection(torch.zeros(512 * 9), torch.arange(112), fs.frame_sets(encoded))

    def once() -> float:
        began = time.perf_counter()
        cost_of_selecting(family, fs.scorer, encoded, around[0], selection)
        cost_of_answering(family, 140, 112, 2)
        return time.perf_counter() - began

    assert min(once() for _ in range(20)) < 2e-4


def test_an_old_file_has_no_cost(load, tmp_path):
    fs = load(selector="self")
    session = fs.open(tiny.frames(7), torch.arange(7.0))
    older = fs.open_encoded(replace(session.encode(), tower_input=None))
    answer = older.ask(QUESTION_TEXT, max_new_tokens=1)
    assert answer.cost is None and answer.to_dict()["cost"] is None and answer.text


def row(number, **more):
    base = {"id": str(number), "video": f"{number}.mp4", "question": "Q?", "answer": "A", "error": None, "parsed": "A"}
    numbers = {"num_kept_tokens": 3, "num_visual_tokens": 9, "multiple_choice": False, "groups": {}}
    return {**base, **numbers, "correct": True, "cost": COST, **more}


def write_run(folder, rows):
    folder.mkdir()
    (folder / "predictions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    (folder / "results.json").write_text(json.dumps({"accuracy": 1.0, "interval": None, "errors": 0, "unparsed": 0}))
    return str(folder)


def test_means_and_their_words():
    mean = mean_cost([row(1), row(2, cost={**COST, "frames": 5, "tflop": 1.0}), row(3, cost=None)])
    assert mean == {**COST, "frames": 4.5, "tflop": 0.75, "questions": 2}
    words = "cost of a question: 4.5 frames (7 decoded), 8 megapixels, 9 tokens scored, 3 kept, 0.75 TFLOP"
    assert cost_line(mean) == words
    unknown = mean_cost([row(1), row(2, cost={**COST, "decoded": None, "scored": 0})])
    assert unknown["decoded"] is None and "decoded" not in cost_line(unknown)
    assert mean_cost([{"id": "1"}, row(2, cost="7"), row(3, cost={"frames": 1})]) is None, "earlier, or damaged"


def test_runs_are_compared_by_cost_too(tmp_path):
    cheap = write_run(tmp_path / "cheap", [row(i, cost={**COST, "frames": 2, "tflop": 0.0123456}) for i in range(3)])
    old = write_run(tmp_path / "old", [{k: v for k, v in row(i).items() if k != "cost"} for i in range(3)])
    dear = write_run(tmp_path / "dear", [row(i) for i in range(3)])
    lines = {line[:22].strip(): line[22:].split() for line in compare(cheap, dear).splitlines()}
    assert lines["frames a question"] == ["2", "4"] and lines["TFLOP a question"] == ["0.0123", "0.5"]
    assert lines["decoded a question"] == ["7", "7"] and lines["megapixels a question"] == ["8", "8"]
    assert lines["scored a question"] == ["9", "9"] and lines["kept a question"] == ["3", "3"]
    assert "TFLOP a question" in compare(cheap, old) and "–" in compare(cheap, old)
    assert "TFLOP" not in compare(old, old)
    cells = [line.split(" | ") for line in table([dear, cheap, old]).splitlines()]
    assert cells[0][3:10] == ["frames", "decoded", "megapixels", "scored", "kept", "TFLOP", "tokens shown"]
    known = [["4", "7", "8", "9", "3", "0.5", "3"], ["2", "7", "8", "9", "3", "0.0123", "3"]]
    assert [each[3:10] for each in cells[2:]] == [*known, [*"––––––", "3"]]
    assert len({len(re.findall(r"\|", line)) for line in table([dear, cheap, old]).splitlines()}) == 1


def test_a_report_of_old_and_damaged_rows(tmp_path):
    rows = [row(1, cost=None), row(2, cost={"frames": 1}), row(3, cost={**COST, "decoded": "7"})]
    rows = [{**each, "timings": {}, "options": []} for each in rows]
    write_report(tmp_path / "report.html", "some", rows, lambda row: None, None, {})
    page = (tmp_path / "report.html").read_text()
    assert page.count("4 frames, 8 megapixels, 9 tokens scored, 3 kept, 0.5 TFLOP") == 1
    assert page.count("TFLOP per question (mean): 4 frames, 8 megapixels, 9 tokens scored, 3 kept<") == 1
    write_report(tmp_path / "report.html", "some", rows[:2], lambda row: None, None, {})
    assert "TFLOP" not in (tmp_path / "report.html").read_text()


def test_a_later_part_adds_its_cost(load):
    """A request may carry more than its own video: what was spent before is in the answer."""
    fs = load(selector="self")
    (request,) = fs.open(tiny.frames(7), torch.arange(7.0)).requests([QUESTION_TEXT])
    before = Cost(frames=5, decoded=6, pixels=100, scored=8, tflop=1.0)
    alone, both = (fs.answer([one], 1)[0].cost for one in (request, replace(request, cost=request.cost + before)))
    assert both.to_dict() == (alone + before).to_dict() and both.kept == alone.kept, "but for rounding"


def test_a_run_writes_it(videos, tmp_path, capsys):
    """Rows, results and the report; the frames that decoding took are known for files."""
    words = ["--config", "configs/demo/self.yaml", "--data.annotations", str(videos / "annotations.jsonl")]
    words += ["--data.num_workers", "0", "--report", "--output_dir", str(tmp_path)]
    assert cli.main(["validate", *words]) == 0
    output = capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    for each in rows:
        cost, sampling = each["cost"], each["sampling"]
        assert cost["frames"] == sampling["frames"] <= cost["decoded"] and cost["kept"] == each["num_kept_tokens"]
        assert cost["scored"] == each["num_visual_tokens"] and cost["tflop"] > 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["cost"] == pytest.approx(mean_cost(rows))
    assert cost_line(results["cost"]) in output and cost_line(results["cost"]) in (tmp_path / "results.md").read_text()
    page = (tmp_path / "report.html").read_text()
    assert "TFLOP per question" in page and f"({rows[0]['cost']['decoded']} decoded)" in page
