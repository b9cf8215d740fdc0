"""Which latent frame a frame of a video was decoded from."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdprobe.plot.frame_groups import between_frames, frame_groups, shown_frames


@given(t=st.integers(2, 12), each=st.integers(1, 8))
def test_a_causal_autoencoder_makes_the_first_frame_alone(t, each):
    groups = frame_groups(1 + each * (t - 1), t, causal=None if each % 2 == 0 else True)
    assert groups.count(0) == 1
    assert all(groups.count(own) == each for own in range(1, t))
    assert groups == sorted(groups)


@pytest.mark.parametrize(
    ("frames", "of", "each"),
    [(81, 21, 4), (49, 13, 4), (161, 21, 8), (129, 33, 4)],
    ids=["Wan", "CogVideoX", "LTX", "HunyuanVideo"],
)
def test_the_numbers_of_the_models(frames, of, each):
    assert frame_groups(frames, of) == [0] + [1 + k // each for k in range(frames - 1)]


@given(t=st.integers(1, 9), each=st.integers(1, 6))
def test_groups_of_equal_size(t, each):
    groups = frame_groups(t * each, t, causal=None if each % 2 == 0 else False)
    assert groups == [own for own in range(t) for _ in range(each)]
    assert [groups[frame] for frame in shown_frames(groups)] == list(range(t))


@given(t=st.integers(1, 6), each=st.integers(1, 5), seed=st.integers(0, 99))
def test_between_the_middles_a_map_is_interpolated(t, each, seed):
    values = torch.rand(t, 2, 3, generator=torch.Generator().manual_seed(seed))
    groups = frame_groups(1 + each * (t - 1), t, causal=True) if t > 1 else [0] * each
    found = between_frames(values, groups)
    assert torch.equal(found[0], values[0])
    assert torch.equal(between_frames(values, list(range(t))), values)
    assert found.min() >= values.min() - 1e-6
    assert found.max() <= values.max() + 1e-6
    for own in range(t):
        if groups.count(own) % 2:  # then the middle is a frame
            middle = groups.index(own) + groups.count(own) // 2
            assert torch.allclose(found[middle], values[own], atol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match="a map of 4 frames is no map of a video of 3"):
        frame_groups(3, 4)
    with pytest.raises(ValueError, match=r"makes 1 \+ r × 2 frames of 3 latent frames, with a whole r, not 8"):
        frame_groups(8, 3, causal=True)
