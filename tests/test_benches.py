"""Programs that measure: those that are quick run, and what is computed is what a counter counts."""

import json
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaModel

import bench.measure
from bench import (
    benchmark,
    cost,
    gpu,
    kernels,
    long_videos,
    look_twice,
    loss,
    moments,
    near,
    near_accuracy,
    probe,
    roofline,
    scaling,
    selection,
    serving,
    session,
    tower,
)
from bench import ways as bench_ways
from datamodules.announced_needles import write_announced_videos
from flexselect.attention import probe as probe_of_layers
from flexselect.storage.json_lines import read_json_lines


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(bench.measure, "RESULTS", tmp_path)
    return tmp_path


def test_operations_of_a_decoder_are_those_that_torch_counts():
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaModel(LlamaConfig(**sizes, num_hidden_layers=3, vocab_size=32, attn_implementation="eager"))
    tokens, counter = 50, FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(inputs_embeds=torch.randn(1, tokens, 64))
    shapes = roofline.Decoder(layers=3, width=64, inner=96, heads=4, kv_heads=2, attended=64)
    unmasked = shapes.operations(tokens, 3) + 3 * 2 * tokens**2 * 64  # eager attention computes both halves
    rotations = 2 * tokens * (64 // 4 // 2)  # of RoPE: positions times frequencies
    assert counter.get_total_flops() == pytest.approx(unmasked + rotations, rel=1e-3)


def test_the_roofline_is_written_and_says_that_it_is_computed(results, capsys):
    roofline.main()
    written = json.loads((results / "roofline.json").read_text())
    assert written["computed"] == "from shapes, not measured" and "computed" in capsys.readouterr().out
    qwen = next(row for row in written["rows"] if row["model"] == "Qwen2.5-VL-7B" and row["frames"] == 1024)
    assert qwen["tokens"] == 112_640 and qwen["dense_to"]["lite"] > qwen["dense_to"]["self"] > 2


def test_the_kernels_are_timed_on_small_shapes(results, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kernels", "--tiny", "--device", "cpu"])
    kernels.main()
    shown = capsys.readouterr().out
    assert all(shown.count(f"{shape[0]} ") >= 2 for shape in kernels.SHAPES) and not list(results.iterdir())
    assert "flash first: 0 NaN" in shown, "on a CPU"


def test_the_gpu_measurement_runs_on_small_shapes(results, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu", "--tiny", "--device=cpu", "--frames=2", "--models=InternVL2.5-8B"])
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    gpu.main()
    shown = capsys.readouterr().out
    assert [shown.count(mode) for mode in ("dense", "self", "lite")] == [1, 1, 1] and not list(results.iterdir())


def run_small(module, monkeypatch, *words, **constants):
    """Run a bench with other constants, in this process."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *words])
    for name, value in constants.items():
        monkeypatch.setattr(module, name, value)
    module.main()


@pytest.mark.slow
def test_selection_is_measured_beside_the_plain_version(results, monkeypatch):
    monkeypatch.setattr(probe_of_layers, "visual_attention", probe_of_layers.visual_attention)  # the bench replaces it
    words = ("--tokens", "880", "--batches", "880")
    run_small(selection, monkeypatch, *words, BUDGET=64, UNITS_PER_SET=2, ROUNDS=1, TOGETHER={"one set": 1})
    written = json.loads((results / "selection.json").read_text())
    (row,), (batch,) = written["rows"], written["batches"]
    assert batch["seconds"] > 0 and batch["together"] == "one set" and "extra_mb" in batch
    assert row["same_kept"] == 1.0 and set(row["scoring_mb"]) == {"ours", "straightforward"}


@pytest.mark.slow
def test_small_runs_of_the_other_benches(results, monkeypatch, capsys):
    run_small(tower, monkeypatch, UNITS=2, ROWS=8, COLUMNS=8, TIMES=1, WIDTHS=tower.WIDTHS[:1])
    run_small(probe, monkeypatch, KEYS=(256,))
    run_small(loss, monkeypatch, TOKENS=(256,))
    written = {name: json.loads((results / f"{name}.json").read_text())["rows"] for name in ("tower", "probe", "loss")}
    assert written["tower"][0]["difference"] < 1e-5 and written["probe"][0]["probe_s"] > 0
    assert written["loss"][0]["difference"] < 1e-4
    assert capsys.readouterr().out.count("\n") == 7


@pytest.mark.slow
def test_small_runs_of_the_benches_of_whole_questions(results, monkeypatch, capsys):
    run_small(scaling, monkeypatch, FRAMES=(64,), ROUNDS=1)
    run_small(session, monkeypatch, DEMO_UNITS=64, UNITS=16, UNITS_PER_SET=8)
    run_small(benchmark, monkeypatch, VIDEOS=1, PATCHES=64, TIMES=1)
    run_small(moments, monkeypatch, "--videos", "1", "--patches", "64")
    assert len(list(results.iterdir())) == 4 and "training-free" in capsys.readouterr().out


@pytest.mark.slow
def test_small_runs_of_the_benches_of_cheap_frames(results, monkeypatch, tmp_path):
    for module in (near, long_videos):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    run_small(near, monkeypatch, SMALL=[(1, (72, 128), 60, "h264", 4)], CACHE=tmp_path / "cache")
    ways = {row["way"]: row for row in json.loads((results / "near_1_72_h264_60.json").read_text())["rows"]}
    assert ways["default"]["decoded"] <= ways["exact"]["decoded"] and ways["exact"]["moved_max_s"] == 0
    run_small(near_accuracy, monkeypatch, "--videos", "1", "--frames", "32", KEYS=(2,), PATCHES=16, TOLERANCES=(0.5,))
    rows = json.loads((results / "near_accuracy.json").read_text())["rows"]
    assert [row["tolerance"] for row in rows] == ["exact", "0.5 s", "default"] and rows[0]["right"] > 0


@pytest.mark.slow
def test_serving_measures_both_ways(results, capsys):
    serving.main(["--units", "4", "--questions", "2", "--families", "qwen2_5_vl"])
    written = json.loads((results / "serving.json").read_text())
    rows = written["rows"] if "rows" in written else written["results"]
    assert [row["selector"] for row in rows] == ["self", "lite"] and "ratio" in capsys.readouterr().out
    assert all(row["endpoint"] > 0 and row["answering"] > 0 for row in rows)


class Sent:
    """Takes what a process would send."""

    def send(self, value):
        self.value = value


def test_ways_to_ask_have_costs_and_a_front(tmp_path):
    """Two looks at 40 seconds by the demo's model, which need not be right: what they take is what they may."""
    annotations = write_announced_videos(tmp_path, 1, 40, 2, 4, seed=1, false=1, key_distance=16)
    results = {}
    for way in (look_twice.ways(40)[0], look_twice.ways(40)[1]):
        sent = Sent()
        bench_ways._asked(way, annotations, "checkpoints/demo/video_llm", 2, sent)
        results[way.name] = sent.value
    full, twice = results.values()
    assert full["frames"] == full["decoded"] == 80 and len(full["right"]) == len(twice["right"]) == 4
    row = bench_ways.line("two looks 0.22", [twice], [full])
    assert row["frames"] <= look_twice.COST + 1 / 40 and row["decoded"] < 0.5 and row["tflop"] < 0.5
    names = [way.name for way in cost.ways(1000, "a")]
    assert len(set(names)) == len(names) and {"lite 0.5", "two looks 0.22", "random 0.1", "dense 0.05"} <= set(names)


@pytest.mark.parametrize(
    ("name", "seconds", "announced"),
    [("hard", 1 / 3, 6), ("first", 1.5, 9), ("count", 1.5, 9), ("unannounced", 1.5, 1.5)],
)
def test_tasks_of_two_looks(name, seconds, announced, tmp_path):
    rows = read_json_lines(bench_ways.TASKS[name].write(str(tmp_path), 120, 3, 3, seed=1, false=1))[0]
    spans = [pair for row in rows for pair in zip(row["moments"], row["announced"])]
    assert len(rows) == 3 and (len(spans) == {"first": 6}.get(name, 3) or name == "count")
    for moment, dot in spans:
        assert moment[1] - moment[0] == pytest.approx(seconds) and dot[1] - dot[0] == pytest.approx(announced)


def test_the_front_is_what_no_row_beats():
    rows = [{"accuracy": a, "tflop": t} for a, t in ((0.5, 1.0), (0.9, 2.0), (0.9, 3.0), (0.4, 1.5), (1.0, 9.0))]
    assert cost.front(rows) == [True, True, False, False, True]
