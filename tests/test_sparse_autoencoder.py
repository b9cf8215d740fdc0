"""`SparseAutoencoder`: the equations of encode and decode, their gradients, and shapes that do not fit."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdprobe.sae.activation_function import JumpReLU, ReLU, TopK
from sdprobe.sae.sparse_autoencoder import SparseAutoencoder

WIDTH, FEATURES = 5, 12


def made(activation=None, seed=0, **changes):
    """A sparse autoencoder of random weights."""
    random = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (WIDTH, FEATURES), "b_enc": (FEATURES,), "W_dec": (FEATURES, WIDTH), "b_dec": (WIDTH,)}
    drawn = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    return SparseAutoencoder(**(drawn | {"activation": activation or TopK(3)} | changes))


def vectors(*shape, seed=1):
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed))


activations = st.sampled_from([ReLU(), TopK(1), TopK(4), JumpReLU(torch.linspace(-1, 2, FEATURES))])


@given(activation=activations, seed=st.integers(0, 50), centred=st.booleans())
def test_it_computes_what_it_says(activation, seed, centred):
    sae, x = made(activation, seed, apply_b_dec_to_input=centred), vectors(2, 3, seed=seed)
    pre = (x - sae.b_dec * centred) @ sae.W_enc + sae.b_enc
    assert torch.equal(sae.encode(x), activation(pre))
    assert torch.equal(sae(x), activation(pre) @ sae.W_dec + sae.b_dec)


@given(k=st.integers(1, FEATURES), seed=st.integers(0, 50))
def test_topk_keeps_the_largest_and_nothing_below_nought(k, seed):
    x = torch.randn(20, FEATURES, generator=torch.Generator().manual_seed(seed))
    kept, lowest = TopK(k)(x), x.sort(descending=True).values[:, k - 1 : k]
    assert torch.equal(kept, torch.where(x >= lowest, x, 0).relu())


def test_jumprelu_is_relu_where_the_threshold_is_nought():
    x = torch.randn(20, FEATURES)
    assert torch.equal(JumpReLU(torch.zeros(FEATURES))(x), ReLU()(x))
    assert torch.equal(JumpReLU(torch.full((FEATURES,), -9.0))(x), ReLU()(x))
    assert JumpReLU(torch.full((FEATURES,), 0.7))(x).count_nonzero() == (x > 0.7).sum()


@pytest.mark.parametrize("activation", [ReLU(), TopK(3), JumpReLU(torch.full((FEATURES,), 0.1))])
def test_its_gradients_are_those_of_finite_differences(activation):
    sae, x = made(activation).to(dtype=torch.float64), vectors(4).double().requires_grad_()
    assert torch.autograd.gradcheck(sae, x)


def test_the_fraction_of_variance_unexplained():
    x = vectors(50)
    assert made(b_dec=x.mean(0), W_dec=torch.zeros(FEATURES, WIDTH)).fvu(x) == pytest.approx(1, abs=1e-5)
    exact = SparseAutoencoder(
        torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)], 1),
        torch.zeros(2 * WIDTH),
        torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)]),
        torch.zeros(WIDTH),
        ReLU(),
    )
    assert torch.equal(exact(x), x)
    assert exact.fvu(x) == 0


def test_to_another_dtype_takes_the_threshold_along():
    sae = made(JumpReLU(torch.zeros(FEATURES))).to(dtype=torch.float64)
    assert sae.encode(vectors(2)).dtype == sae.activation.threshold.dtype == torch.float64


def test_it_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        made().W_enc = torch.zeros(WIDTH, FEATURES)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"W_enc": torch.zeros(3)}, r"W_enc is \[width, features\], not \[3\]"),
        ({"b_enc": torch.zeros(5)}, r"= \[5, 12\], so b_enc must be \[12\], not \[5\]"),
        ({"W_dec": torch.zeros(5, 12)}, r"W_dec must be \[12, 5\], not \[5, 12\]: is it transposed"),
        ({"b_dec": torch.zeros(12)}, r"b_dec must be \[5\], not \[12\]"),
        ({"activation": JumpReLU(torch.zeros(5))}, r"threshold must be \[12\], not \[5\]"),
        ({"activation": TopK(13)}, r"TopK\(13\) keeps more features than the 12 there are"),
        ({"b_dec": torch.zeros(5).half()}, "one floating dtype .* b_dec float16"),
    ],
)
def test_what_does_not_fit_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        made(**changes)


def test_vectors_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"reads vectors of width 5, and these are \[2, 4\]"):
        made().encode(torch.zeros(2, 4))


@pytest.mark.parametrize("k", [0, -1, 2.0, True])
def test_k_is_a_whole_number(k):
    with pytest.raises(ValueError, match="k is a whole number from 1 on"):
        TopK(k)
