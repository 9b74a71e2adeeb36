"""Numbers of the published evaluation: sampling, resize, prompt, positions."""

import pickle

import pytest
import torch
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from flexselect import FlexSelect
from flexselect.families import Qwen25VL, family_of
from flexselect.structures.layout import lay_out
from tests import tiny
from tests.near import assert_near


@pytest.fixture
def family(checkpoint) -> Qwen25VL:
    return Qwen25VL(str(checkpoint), min_pixels=128 * 28 * 28, max_pixels=308 * 560)


@pytest.mark.parametrize(
    ("frames", "fps", "count", "first"),
    [
        (300, 30, 20, [0, 16, 31, 47, 63, 79, 94, 110]),
        (301, 29.97, 20, [0]),
        (45, 30, 4, [0, 15, 29, 44]),
        (20000, 25, 1024, [0]),
    ],
)
def test_sampling_table(family, frames, fps, count, first):
    indices = family.sample(frames, fps)
    assert len(indices) == count and indices[: len(first)] == first and indices[-1] == frames - 1


@pytest.mark.parametrize(("frames", "expected"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2])])
def test_clips_too_short_for_the_released_rule_give_all_their_frames(family, frames, expected):
    assert family.sample(frames, 30) == expected


def test_uniform_sampling_fills_max_frames(checkpoint):
    indices = Qwen25VL(str(checkpoint), fps=float("inf"), max_frames=8).sample(300, 30)
    assert indices == [0, 43, 85, 128, 171, 214, 256, 299]


@pytest.mark.parametrize(
    ("width", "height", "resized", "tokens"),
    [
        (1920, 1080, (308, 532), 209),
        (1280, 720, (308, 532), 209),
        (640, 352, (308, 560), 220),
        (640, 480, (336, 476), 204),
        (1280, 544, (252, 616), 198),
        (1080, 1080, (392, 392), 196),
        (720, 1280, (532, 308), 209),
        (320, 240, (280, 392), 140),
        (426, 240, (252, 420), 135),
    ],
)
def test_resize_table(family, width, height, resized, tokens):
    prompter = family.prompter()
    frames = prompter.resize(torch.zeros(2, height, width, 3, dtype=torch.uint8))
    assert tuple(frames.shape) == (2, *resized, 3)
    units, rows, columns = prompter.clip(frames).grid
    assert (units, rows * columns) == (1, tokens)


def test_odd_last_frame_is_shown_twice(family):
    clip = family.prompter().clip(tiny.frames(5, 56, 84))
    assert clip.grid == (3, 2, 3)
    assert torch.equal(clip.pixels[-1], clip.pixels[-2])


def test_pixel_values_in_parts_equal_the_processor_on_the_whole(family):
    prompter, frames = family.prompter(), tiny.frames(8, 56, 84)
    clip = prompter.clip(frames)
    parts = torch.cat([prompter.pixel_values(clip, 0, 3), prompter.pixel_values(clip, 3, 4)])
    processor = Qwen2VLVideoProcessor(do_resize=False, cap_pixels_per_frame=False)
    whole = processor(videos=[frames.permute(0, 3, 1, 2)], return_tensors="pt")
    assert_near(parts, whole["pixel_values_videos"])
    assert whole["video_grid_thw"].tolist() == [[4, 4, 6]]


def test_time_step_released_or_true(checkpoint):
    frames, seconds = tiny.frames(8, 56, 84), torch.arange(8) * 1.5
    assert Qwen25VL(str(checkpoint)).prompter().clip(frames, seconds).seconds_per_unit == 1.0
    assert Qwen25VL(str(checkpoint), time_step="true").prompter().clip(frames, seconds).seconds_per_unit == 3.0


def test_positions_of_a_long_video(checkpoint):
    lm = FlexSelect.from_pretrained(str(checkpoint), dtype="float32", device="cpu").lm
    layout = lay_out(torch.zeros(15), torch.zeros(20), range(512), 209, placeholder=5)
    where = lm.position_ids(layout, (512, 11, 19), seconds_per_unit=1.0)
    assert where.shape == (3, 15 + 512 * 209 + 20)
    assert where[:, 14].tolist() == [14, 14, 14]
    assert where[:, 15 + 209].tolist() == [17, 15, 15]  # two steps a unit
    assert where[:, -20].tolist() == [15 + 1022 + 1] * 3  # text goes on after the largest position, whichever axis
    layout = lay_out(torch.zeros(15), torch.zeros(1), range(2), 120, placeholder=5)
    tall = lm.position_ids(layout, (2, 30, 4), seconds_per_unit=1.0)
    assert tall[:, -1].tolist() == [15 + 29 + 1] * 3


def test_prompt_text(family):
    prompter = family.prompter()
    decode = prompter.tokenizer.decode
    assert decode(prompter.prefix_ids) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
    )
    assert decode(prompter.query_ids("Why?")) == "<|vision_end|>Why?<|im_end|>\n<|im_start|>assistant\n"
    assert prompter.decode(prompter.answer_ids("red")) == "red"


def test_published_layers_and_budget(checkpoint):
    family = Qwen25VL(str(checkpoint))
    assert (family.default_reference_layer, family.default_budget) == (2, 9)  # the checkpoint's own
    del family.config["flexselect"]
    for depth, layer in ((28, 20), (80, 60)):
        family.model_config.text_config.num_hidden_layers = depth
        assert family.default_reference_layer == layer


def test_an_old_config_keeps_the_sizes_at_the_top(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl", "num_hidden_layers": 28}')
    assert Qwen25VL(str(tmp_path)).num_layers == 28


def test_a_family_can_be_sent_to_a_worker(family):
    assert pickle.loads(pickle.dumps(family)).settings == family.settings


def test_family_is_found_from_the_config(checkpoint, tmp_path):
    assert isinstance(family_of(str(checkpoint), fps=1.0), Qwen25VL)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}')
    with pytest.raises(ValueError, match=r"no family knows.*'gpt2'.*Qwen25VL"):
        family_of(str(tmp_path))
    with pytest.raises(ValueError, match=r"not a Qwen2\.5-VL checkpoint"):
        Qwen25VL(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder with a checkpoint"):
        family_of(str(tmp_path / "nowhere"))


def test_prompt_from_tensors_names_a_mismatch(checkpoint):
    fs = FlexSelect.from_pretrained(str(checkpoint), dtype="float32", device="cpu")
    ids = torch.tensor([1, fs.lm.visual_id, fs.lm.visual_id, 2])
    with pytest.raises(ValueError, match=r"2 video placeholders \(id 5\) but the grid \(1, 2, 2\) needs one run of 4"):
        fs.prompt_from_tensors(
            input_ids=ids, pixel_values_videos=torch.zeros(16, 1176), video_grid_thw=torch.tensor([[1, 4, 4]])
        )
