"""Everything that is done on a GPU, on one that is not there: see tests/dry_gpu.py."""

from unittest.mock import patch

import pytest
import torch

from datamodules.needle_clips import NeedleClips
from flexselect import FlexSelect, LiteSelector
from flexselect.analysis.needle_recall import clip_states, measure_layers
from flexselect.attention.windows import batched_windows
from flexselect.contracts import TrainingClip
from flexselect.engine.clock import Clock
from flexselect.families import family_of
from flexselect.loading.weights import LoadOptions
from flexselect.running import greedy
from flexselect.scoring.lite import LiteScorer
from flexselect.scoring.prefix_cache import PrefixCache
from flexselect.selectors.lite_selector import selector_config
from flexselect.structures.prompt import VideoPrompt
from flexselect.training.losses import LOSSES
from lightning_modules.selector_training import SelectorTraining
from tests import tiny
from tests.dry_gpu import DryGPU, DryTensor
from tests.fixtures import in_two_families
from tests.near import assert_near

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a real GPU is here: see docs/first_gpu_run.md")

QUESTIONS = ("Which shape is red?", "Why?")
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
LOGITS = "flexselect.attention.probe.logits"  # of the probe
ANGLES = {f"{family}RotaryEmbedding.forward" for family in ("Qwen2_5_VL", "Qwen2", "Llama", "Qwen3VLText", "Glm4vText")}
RECURRENCE = {
    f"transformers.models.qwen3_5.modeling_qwen3_5.torch_{way}_gated_delta_rule" for way in ("chunk", "recurrent")
}

# How often one question may wait for a GPU, and copy to or from it or between two: as often as measured, no more.
# transformers 5.17 waits once more per token of InternVL, and copies twice more between two GPUs, than 5.24.
# "later" is one more question with kept states, "token" each new token but the first.
SYNCS = {
    "Qwen25VL": {"encode": 10, "score": 2, "answer": 8, "later": 1, "token": 3},
    "LlavaVideo": {"encode": 0, "score": 2, "answer": 8, "later": 1, "token": 3},
    "InternVL": {"encode": 0, "score": 4, "answer": 10, "later": 3, "token": 5},
    "Qwen3VL": {"encode": 10, "score": 6, "answer": 12, "later": 1, "token": 3},
    "Qwen35": {"encode": 10, "score": 3, "answer": 8, "later": 2, "token": 3},
    "Glm4v": {"encode": 7, "score": 2, "answer": 8, "later": 1, "token": 3},
    "MiniCPMV": {"encode": 7, "score": 3, "answer": 8, "later": 2, "token": 3},
}
COPIES = {
    "Qwen25VL": {"encode": 11, "score": 8, "answer": 19, "later": 12},
    "LlavaVideo": {"encode": 1, "score": 10, "answer": 19, "later": 14},
    "InternVL": {"encode": 4, "score": 10, "answer": 18, "later": 14},
    "Qwen3VL": {"encode": 7, "score": 9, "answer": 20, "later": 12},
    "Qwen35": {"encode": 7, "score": 8, "answer": 15, "later": 10},
    "Glm4v": {"encode": 7, "score": 8, "answer": 19, "later": 12},
    "MiniCPMV": {"encode": 10, "score": 8, "answer": 15, "later": 10},
}
COPIES_OF_TWO = {
    "Qwen25VL": {"encode": 14, "score": 17, "answer": 32},
    "LlavaVideo": {"encode": 3, "score": 23, "answer": 36},
    "InternVL": {"encode": 7, "score": 22, "answer": 34},
    "Qwen3VL": {"encode": 10, "score": 18, "answer": 33},
    "Qwen35": {"encode": 10, "score": 17, "answer": 28},
    "Glm4v": {"encode": 10, "score": 17, "answer": 32},
    "MiniCPMV": {"encode": 13, "score": 20, "answer": 30},
}
FLOAT32 = {"encode": ANGLES, "answer": ANGLES | RECURRENCE}
FLOAT32 |= dict.fromkeys(("score", "later"), {LOGITS} | ANGLES | RECURRENCE)


def read(folder, dtype="float32", **options):
    options = {"selector": "self", "budget": 6, "units_per_set": 2, "dtype": dtype, **options}
    return FlexSelect.from_pretrained(str(folder), **options)


def opened(fs, **options):
    return fs.open(tiny.frames(8, 56, 84), range(8), **options)


@pytest.fixture(scope="module")
def selector(model_folder, tmp_path_factory):
    """A random selector of the family; None if it has none."""
    family = family_of(str(model_folder))
    if family.selector_inputs is None:
        return None
    model = LiteSelector(selector_config(family, SIZES | {"intermediate_size": 96}))
    tiny.randomise(model)
    folder = tmp_path_factory.mktemp("selector")
    model.save_pretrained(folder)
    return str(folder)


def values(tensor):
    return tensor.held if isinstance(tensor, DryTensor) else tensor


def assert_same(on_gpu, on_cpu):
    """The same operations on the same processor, but attention in another layout of memory."""
    for one, other in zip(on_gpu, on_cpu, strict=True):
        assert one.text == other.text
        if other.selection is not None:
            assert torch.equal(values(one.selection.kept), other.selection.kept)
            assert_near(values(one.selection.scores), other.selection.scores)


def asked(session):
    return [session.ask(QUESTIONS[0], 3), *session.ask_all(QUESTIONS, 2)]


@in_two_families
def test_one_gpu(model_folder):
    cpu = read(model_folder, device="cpu")
    expected = asked(opened(cpu))
    with DryGPU() as gpu:
        fs = read(model_folder, device="cuda")
        assert set(gpu.live) == {"cuda:0"} and isinstance(next(fs.lm.model.parameters()), DryTensor)
        assert_same(asked(opened(fs)), expected)
        assert_same(asked(opened(fs, keep="scores_kv", keep_on="cpu")), expected)
        dense = opened(fs.with_scorer(None)).ask(QUESTIONS[0], 1)
    assert dense.text == opened(cpu.with_scorer(None)).ask(QUESTIONS[0], 1).text


def two_gpus(fs):
    """Embeddings and the first two layers on one GPU, all else on the other."""
    inside = fs.lm.model.model
    places = {f"model.{name}": 1 for name, _ in inside.named_children() if name != "language_model"}
    places |= {f"model.{name}": 1 for name, _ in inside.named_parameters(recurse=False)}
    places |= {f"model.language_model.{name}": 1 for name, _ in fs.lm.decoder.named_children() if name != "layers"}
    places |= {f"model.language_model.layers.{i}": i // 2 for i in range(4)}
    return places | {"model.language_model.embed_tokens": 0, "lm_head": 1}


@in_two_families
def test_two_gpus(model_folder, monkeypatch):
    """With accelerate's own hooks."""
    cpu = read(model_folder, device="cpu")
    expected = asked(opened(cpu))
    with DryGPU(2) as gpu:
        fs = read(model_folder, device_map=two_gpus(cpu))
        assert set(gpu.live) == {"cuda:0", "cuda:1"} == set(map(str, fs.gpus))
        for keep in ("features", "scores_kv"):
            with gpu.stage(keep):
                session = opened(fs, keep=keep)
            assert_same(asked(session), expected)
        with gpu.stage("question"):
            session.select(QUESTIONS[0])
        copied = [line for *_, line in gpu.stages["question"].copies]
        assert copied and not any("prefix_cache" in line for line in copied), "they stay on the GPU of their layer"
        move = PrefixCache.to_layers
        monkeypatch.setattr(PrefixCache, "to_layers", lambda part, devices: move(part, [devices[0]] * len(devices)))
        with pytest.raises(RuntimeError, match=r"tensors on \['cuda:0', 'cuda:1'\]"):
            session.select(QUESTIONS[0])


@in_two_families
def test_a_selector_on_another_gpu(model_folder, selector):
    if selector is None:
        pytest.skip("no selectors of this family")
    cpu = read(model_folder, device="cpu", selector=selector)
    expected = asked(opened(cpu))
    with DryGPU(2) as gpu:
        fs = read(model_folder, device="cuda:1", device_map={"": 0}, selector=selector)
        assert (str(fs.lm.device), str(fs.scorer.device)) == ("cuda:0", "cuda:1")
        assert set(map(str, fs.gpus)) == {"cuda:0", "cuda:1"} and gpu.live["cuda:1"] > 0
        for keep in ("features", "scores_kv"):
            assert_same(asked(opened(fs, keep=keep)), expected)


def test_the_clock_waits_for_all_gpus(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    with Clock([torch.device("cuda", 0), torch.device("cuda", 1)])("score"):
        pass
    assert set(waited) == {torch.device("cuda", 0), torch.device("cuda", 1)}


def answer_by_stages(gpu, fs, new_tokens=1):
    with gpu.stage("encode"):
        session = opened(fs, keep="features")
    with gpu.stage("score"):
        requests = session.requests([QUESTIONS[0]])
    with gpu.stage("answer"):
        fs.answer(requests, new_tokens)


def faults(stages, family, copies):
    """What a question may not do: wait or copy too often, mask where causal would do, compute in float32 needlessly."""
    found = []
    for name, stage in stages.items():
        found += [f"{name} waits at {line}" for line in stage.syncs[SYNCS[family][name] :]]
        found += [f"{name} waits for all work at {line}" for line in stage.pauses if "clock.py" not in line]
        found += [f"{name} copies at {line}" for *_, line in stage.copies[copies[family].get(name, 99) :]]
        found += [f"{name} has a mask at {call.line}" for call in stage.attention if call.mask is not None]
        found += [f"{name} has {call.dtype} at {call.line}" for call in stage.attention if call.dtype != torch.bfloat16]
        found += [f"{name} may plan at {call.line}" for call in stage.attention if call.cudnn]
        found += [f"{name} has float32 in {where}" for where in set(stage.float32) - FLOAT32[name]]
    return found


@in_two_families
def test_what_a_question_waits_for_and_computes(model_folder):
    """In bfloat16, as on a GPU."""
    with DryGPU() as gpu:
        fs = read(model_folder, "bfloat16", device="cuda")
        answer_by_stages(gpu, fs)
        stages, family = dict(gpu.stages), type(fs.family).__name__
        assert not faults(stages, family, COPIES) and all(stage.attention for stage in stages.values())
        session = opened(fs, keep="scores_kv")
        session.select(QUESTIONS[0])
        with gpu.stage("later"):
            session.select(QUESTIONS[1])
        later = gpu.stages["later"]
        assert len(later.syncs) <= SYNCS[family]["later"] and len(later.copies) <= COPIES[family]["later"], later
        waits = [len(gpu.stages["answer"].syncs)]
        for count in (2, 5):
            with gpu.stage(f"{count} tokens"):
                fs.answer(session.requests([QUESTIONS[0]]), count)
            waits.append(len(gpu.stages[f"{count} tokens"].syncs))
        assert waits[2] - waits[1] <= 3 * SYNCS[family]["token"], "of three more tokens"
        with gpu.stage("longer"):
            fs.open(tiny.frames(32, 56, 84), range(32)).encode()
    assert len(gpu.stages["longer"].syncs) <= SYNCS[family]["encode"], "not one more per unit"


@in_two_families
def test_what_a_question_copies_between_two_gpus(model_folder):
    places = two_gpus(read(model_folder, device="cpu"))
    with DryGPU(2) as gpu:
        fs = read(model_folder, "bfloat16", device_map=places)
        answer_by_stages(gpu, fs)
    assert not faults(gpu.stages, type(fs.family).__name__, COPIES_OF_TWO)


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (lambda scores: [float(score) for score in scores], "waits at"),
        (lambda scores: torch.cuda.synchronize(), "waits for all work"),
        (lambda scores: [scores.cpu() for _ in range(9)], "copies at"),
        (lambda scores: scores[:, None] @ scores[None], "has float32 in"),
        (lambda scores: attended(scores.bfloat16(), torch.ones(1, 1, device="cuda", dtype=torch.bool)), "has a mask"),
        (lambda scores: attended(scores, None), "has torch.float32"),
    ],
)
def test_canary_a_fault_in_scoring_is_seen(checkpoint, monkeypatch, fault, seen):
    real = FlexSelect.select_encoded

    def faulty(self, *args):
        selections = real(self, *args)
        fault(selections[0].scores)
        return selections

    monkeypatch.setattr(FlexSelect, "select_encoded", faulty)
    with DryGPU() as gpu:
        fs = read(checkpoint, "bfloat16", device="cuda")
        answer_by_stages(gpu, fs)
    assert any(
        line.startswith("score ") and seen in line for line in faults(gpu.stages, type(fs.family).__name__, COPIES)
    )


def attended(scores, mask):
    one = scores[:1, None, None, None]
    return torch.nn.functional.scaled_dot_product_attention(one, one, one, mask)


def test_cudnn_where_it_is_wanted(model_folder):
    """For the tower and answering; scoring has another length for each question."""
    with DryGPU() as gpu:
        fs = read(model_folder, "bfloat16", device="cuda", attention_kernels="cudnn")
        answer_by_stages(gpu, fs, 2)
    assert {name: {call.cudnn for call in stage.attention} for name, stage in gpu.stages.items()} == {
        "encode": {True},
        "score": {False},
        "answer": {True},
    }


@in_two_families
def test_padding_attends_to_something(model_folder):
    """Some kernels return NaN for a row that attends to nothing."""
    with DryGPU() as gpu, gpu.stage("batch"):
        opened(read(model_folder, device="cuda")).ask_all(QUESTIONS, 2)
    batched = [call for call in gpu.stages["batch"].attention if call.query[0] == 2 and call.mask is not None]
    assert batched and not any(call.blind for call in batched)
    with DryGPU() as gpu, gpu.stage("canary"), patch.object(greedy, "PADDED", "sdpa"):
        opened(read(model_folder, device="cuda")).ask_all(QUESTIONS, 2)
    assert any(call.blind for call in gpu.stages["canary"].attention)


@in_two_families
def test_locate(model_folder):
    """Every layer scored at once, and hidden states of every layer, over two GPUs."""
    family = family_of(str(model_folder))
    (clip,) = NeedleClips(family, clips=1, units=4).predict_dataloader()
    cpu = read(model_folder, device="cpu")
    expected = measure_layers(cpu.lm, clip)
    with DryGPU(2):
        fs = read(model_folder, device_map=two_gpus(cpu))
        measures = measure_layers(fs.lm, clip)
        states, _ = clip_states(fs.lm, clip)
    assert_near(values(measures), expected)
    assert states.isfinite().all()


@in_two_families
@pytest.mark.parametrize("gpus", [1, 2])
def test_a_training_step(model_folder, selector, gpus):
    """Tower, teacher, student and loss under bf16-mixed; scores stay float32. The teacher may be spread over GPUs."""
    if selector is None:
        pytest.skip("no selectors of this family")
    family = family_of(str(model_folder))
    module = SelectorTraining(family, start=None, sizes=SIZES | {"intermediate_size": 96}, dtype="bfloat16")
    place = {"device": "cuda"} if gpus == 1 else {"device_map": two_gpus(read(model_folder, device="cpu"))}
    with DryGPU(gpus) as gpu:
        lm = family.load(LoadOptions(**place))
        module.to("cuda:0")
        module._student = LiteScorer(lm, module.selector, "max", alignment="exact")
        clip = lm.prompter.clip(lm.prompter.resize(tiny.frames(4, 56, 84)))
        prompts = [VideoPrompt(clip, lm.prompter.prefix_ids, lm.prompter.query_ids(text)) for text in QUESTIONS]
        clips = [TrainingClip(str(i), prompt=prompt) for i, prompt in enumerate(prompts)]
        with gpu.stage("step"), torch.autocast("cuda", torch.bfloat16):
            teacher, student = module.scores(clips)
            losses = [LOSSES["silog"](one, other) for one, other in zip(student, teacher)]
    assert all(loss.requires_grad and str(loss.device) == "cuda:0" for loss in losses)
    assert {scores.dtype for scores in (*teacher, *student)} == {torch.float32}
    assert {call.dtype for call in gpu.stages["step"].attention} == {torch.bfloat16}
    assert set(gpu.stages["step"].float32) <= {LOGITS} | ANGLES | RECURRENCE


def test_canary_two_devices():
    with DryGPU(2) as gpu:
        one, other = torch.ones(2, device="cuda:0"), torch.ones(2, device="cuda:1")
        with pytest.raises(RuntimeError, match=r"tensors on \['cuda:0', 'cuda:1'\] at "):
            one + other
        with pytest.raises(RuntimeError, match="tensors on cpu and cuda:0"):
            one * torch.ones(2)
        with pytest.raises(TypeError, match="can't convert"):
            one.numpy()
        with pytest.raises(RuntimeError, match="tensors on cpu and cuda:0"):
            one[torch.tensor([0])] = torch.ones(1)
        assert one[torch.tensor([0])].device == one.device, "indices from the CPU are allowed"
        assert (one * torch.tensor(3.0)).device == one.device, "a number from the CPU is allowed"
        del one, other
    assert gpu.live == {"cuda:0": 0, "cuda:1": 0} and gpu._now.peak == {"cuda:0": 16, "cuda:1": 8}


def test_canary_a_wait_a_copy_a_mask_and_float32():
    with DryGPU() as gpu, gpu.stage("all"):
        numbers = torch.arange(4).to("cuda")
        assert numbers[numbers > 1].tolist() == [2, 3] and bool((numbers == numbers).all())
        q = torch.ones(1, 1, 4, 8, device="cuda", dtype=torch.bfloat16)
        torch.nn.functional.scaled_dot_product_attention(q, q, q, torch.ones(4, 4, device="cuda", dtype=torch.bool))
        q[0, 0].float() @ q[0, 0].float().T
    stage = gpu.stages["all"]
    assert len(stage.syncs) == 3 and len(stage.copies) == 1
    assert [call.mask for call in stage.attention] == [(4, 4)] and sum(stage.float32.values()) == 1


def test_windows_are_computed_once_a_forward_pass():
    """All layers of a pass get the same boundaries."""
    with DryGPU() as gpu:
        q = torch.randn(1, 2, 12, 8, device="cuda")
        cuts = torch.tensor([0, 4, 8, 10, 12], device="cuda", dtype=torch.int32)
        with gpu.stage("first"):
            batched_windows(torch.nn.Module(), q, q, q, cu_seq_lens_q=cuts)
        with gpu.stage("later"):
            batched_windows(torch.nn.Module(), q, q, q, cu_seq_lens_q=cuts)
    assert (len(gpu.stages["first"].syncs), len(gpu.stages["later"].syncs)) == (1, 0)
