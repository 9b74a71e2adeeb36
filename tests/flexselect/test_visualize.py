import numpy as np
import torch

from flexselect import Selection
from flexselect.visualize import kept_tokens, light, lit_tokens


def selection(kept, total):
    return Selection(torch.rand(total), torch.tensor(kept), [torch.arange(total)])


def test_kept_tokens_are_lit_where_they_lie():
    lit = lit_tokens((2, 2, 3), selection([0, 5, 9], 12))
    assert lit.shape == (2, 2, 3)
    assert [tuple(place) for place in np.argwhere(lit)] == [(0, 0, 0), (0, 1, 2), (1, 1, 0)]
    frame = light(np.full((56, 84, 3), 200, np.uint8), lit[0])
    bright = frame[..., 0] == 200
    assert bright[:28, :28].all() and bright[28:, 56:].all()
    assert bright.sum() == 2 * 28 * 28 and (frame[~bright] == 60).all()


def test_a_picture_is_written(tmp_path):
    frames = torch.randint(0, 255, (6, 56, 84, 3), dtype=torch.uint8)
    kept_tokens(tmp_path / "kept.png", frames, (3, 2, 3), selection([0, 5, 9], 18), "Which?")
    assert (tmp_path / "kept.png").stat().st_size > 5000
