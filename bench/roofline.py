"""Compute what the released models cost from their shapes; nothing here is measured.

    python -m bench.roofline        (in `make bench`)

See `flexselect.running.operations` for what is counted. The least time is the time of a card that does only these
operations at its best rate.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from bench.measure import write_result
from flexselect.running.operations import Decoder, Tower
from flexselect.scoring.frame_sets import frame_sets

RATE = 989e12  # operations per second, bfloat16 without sparsity: the data sheet of an H100 or H200
QUERY = 64  # text tokens after the video
FRAMES = (64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Model:
    """A published VideoLLM: its shapes, reference layer, budget, and tokens and frames per unit."""

    name: str
    llm: Decoder
    tower: Tower
    layer: int
    budget: int
    unit_tokens: int
    unit_frames: int


SMALL = Decoder(24, 896, 4864, 14, 2, 896)  # the 0.5 B selector
QWEN_7B = Decoder(28, 3584, 18944, 28, 4, 3584)
INTERN_8B = Decoder(32, 4096, 14336, 32, 8, 4096)
WINDOWS = (28 * 64 + 4 * 880) / 32  # windows of 64 patches in 28 of 32 layers, the whole unit in four
MODELS = (
    Model("Qwen2.5-VL-7B", QWEN_7B, Tower(32, 1280, 3420, 3, 880, WINDOWS), 20, 7040, 220, 2),
    Model("LLaVA-Video-7B", QWEN_7B, Tower(26, 1152, 4304, 2, 729, 729), 19, 6720, 210, 1),
    Model("InternVL2.5-8B", INTERN_8B, Tower(24, 1024, 4096, 2, 1025, 1025), 15, 8256, 258, 1),
)


def computed(model: Model, frames: int) -> dict:
    """Compute the operations of every stage at a number of frames."""
    units = frames // model.unit_frames
    tokens, kept = units * model.unit_tokens, min(model.budget, units * model.unit_tokens)
    sets = [len(tokens_of_set) + QUERY for tokens_of_set in frame_sets(units, model.unit_tokens, 64)]
    tower = model.tower.operations(units)
    scoring = sum(model.llm.operations(size, model.layer) for size in sets)
    lite = sum(SMALL.operations(size, SMALL.layers) for size in sets)
    answer, dense = (model.llm.operations(n + QUERY, model.llm.layers) for n in (kept, tokens))
    llm = {"dense": dense, "self": scoring + answer, "lite": lite + answer}
    return {
        "model": model.name,
        "frames": frames,
        "tokens": tokens,
        "tower": tower,
        "score_self": scoring,
        "score_lite": lite,
        "prefill_kept": answer,
        "prefill_dense": dense,
        "least_seconds": {mode: (tower + spent) / RATE for mode, spent in llm.items()},
        "dense_to": {mode: (tower + dense) / (tower + spent) for mode, spent in llm.items() if mode != "dense"},
        "cache_gb": {
            "dense": model.llm.cache_gb(tokens, model.llm.layers),
            "kept": model.llm.cache_gb(kept, model.llm.layers),
        },
        "scores_kv_gb": model.llm.cache_gb(sum(sets), model.layer + 1),
    }


def main() -> None:
    """Print one row per model and number of frames."""
    print(f"computed from shapes, in 10^12 operations; least seconds to the first token at {RATE / 1e12:.0f} TFLOP/s")
    stages = ("tower", "score_self", "score_lite", "prefill_kept", "prefill_dense")
    heads = (*stages, "s dense", "s self", "s lite", "dense/self", "dense/lite", "kv GB")
    print(f"{'model':16}{'frames':>7}{'tokens':>8}" + "".join(f"{head:>14}" for head in heads))
    rows = []
    for model in MODELS:
        for frames in FRAMES:
            row = computed(model, frames)
            shown = [f"{row[stage] / 1e12:14.0f}" for stage in stages]
            shown += [f"{s:14.2f}" for s in row["least_seconds"].values()]
            shown += [f"{ratio:14.1f}" for ratio in row["dense_to"].values()] + [f"{row['scores_kv_gb']:14.1f}"]
            print(f"{model.name:16}{frames:7}{row['tokens']:8}" + "".join(shown))
            rows.append(row)
    write_result("roofline", {"computed": "from shapes, not measured", "models": [asdict(m) for m in MODELS]}, rows)


if __name__ == "__main__":
    main()
