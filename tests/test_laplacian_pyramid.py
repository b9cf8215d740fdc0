"""`laplacian_pyramid`: what is taken apart is put together again, and is what a plain pyramid is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdprobe.transform.guidances.laplacian_pyramid import from_pyramid, laplacian_pyramid


def noise(h, w, seed=0):
    return torch.randn(2, 3, h, w, generator=torch.Generator().manual_seed(seed))


@given(h=st.integers(12, 33), w=st.integers(12, 33), levels=st.integers(1, 3))
def test_its_levels_are_the_picture(h, w, levels):
    x = noise(h, w)
    pyramid = laplacian_pyramid(x, levels)
    assert len(pyramid) == levels
    torch.testing.assert_close(from_pyramid(pyramid, h, w), x, rtol=1e-5, atol=1e-5)


def plain(x):
    """The finest level of one channel, place by place: what is left of it after a blur on half as fine a grid."""
    weights = [1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16]

    def blurred(x):
        (h, w), out = x.shape, torch.zeros_like(x)
        inside = lambda place, size: size - 1 - abs(size - 1 - abs(place))  # noqa: E731  mirrored at the edges
        for i in range(h):
            for j in range(w):
                for a, of_row in enumerate(weights, start=-2):
                    for b, of_column in enumerate(weights, start=-2):
                        out[i, j] += of_row * of_column * x[inside(i + a, h), inside(j + b, w)]
        return out

    coarse = blurred(x).unflatten(0, (-1, 2)).unflatten(-1, (-1, 2)).mean((1, 3))
    h, w = x.shape
    fine = torch.zeros_like(x)
    for i in range(h):
        for j in range(w):
            for a, of_row in ((i // 2, 0.75), (i // 2 + (1 if i % 2 else -1), 0.25)):
                for b, of_column in ((j // 2, 0.75), (j // 2 + (1 if j % 2 else -1), 0.25)):
                    fine[i, j] += of_row * of_column * coarse[min(max(a, 0), h // 2 - 1), min(max(b, 0), w // 2 - 1)]
    return [x - blurred(fine), coarse]


@pytest.mark.parametrize("size", [(8, 8), (6, 10)])
def test_it_is_a_plain_pyramid(size):
    x = noise(*size).double()
    ours, expected = laplacian_pyramid(x, 2), plain(x[1, 2])
    for level, own in zip(ours, expected, strict=True):
        torch.testing.assert_close(level[1, 2], own, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("size", "levels"), [((16, 16), 2), ((16, 16), 3), ((12, 16), 3), ((32, 24), 2), ((17, 31), 1)]
)
def test_it_is_that_of_kornia(size, levels):
    """Where that does not lengthen the sides to a power of two."""
    from kornia.geometry.transform import build_laplacian_pyramid

    both = (pyramid(noise(*size), levels) for pyramid in (laplacian_pyramid, build_laplacian_pyramid))
    for ours, theirs in zip(*both, strict=True):
        torch.testing.assert_close(ours, theirs[..., : ours.shape[-2], : ours.shape[-1]], rtol=1e-6, atol=1e-6)


def test_too_many_levels_are_refused():
    with pytest.raises(ValueError, match="latents of 8×12 have no 3 levels"):
        laplacian_pyramid(noise(8, 12), 3)
