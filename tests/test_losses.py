"""The losses: each is least where it should be, and one number for each picture with a gradient."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdprobe
from sdprobe import losses
from sdprobe.shapes import Object, render


def picture(seed: int = 0, count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def drawn(shape: str, colour: str) -> np.ndarray:
    return render([Object(shape, colour, (32, 32), 15)]).image


@pytest.fixture(scope="module")
def every(embedded_features):
    mask = torch.zeros(64, 64)
    mask[:20] = 1
    return [
        losses.blue(),
        losses.colour("green"),
        losses.colour((0.1, 0.2, 0.3), mask),
        losses.brightness(0.3),
        losses.symmetry("up-down"),
        losses.total_variation(),
        losses.match(picture(5), mask),
        losses.inside(mask, losses.blue()),
        losses.clip_text("a red circle"),
        losses.clip_image(drawn("ring", "blue")),
        losses.log_probability(lambda x: x.flatten(1)[:, :4], 1),
        losses.style(drawn("ring", "blue"), embedded_features),
        losses.perceptual(picture(7), embedded_features),
        losses.blue() + 0.5 * losses.brightness(0.2),
    ]


@pytest.fixture(scope="module")
def embedded_features():
    return losses.encoder_features(sdprobe.load())


def test_each_picture_has_its_own_number(every):
    both = picture(1, 2)
    for loss in every:
        together = loss(both)
        assert together.shape == (2,), loss
        apart = torch.cat([loss(both[:1]), loss(both[1:])])
        torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-6, msg=repr(loss))


def test_a_step_down_the_gradient_lowers_each(every):
    # On pure noise, far from what it was trained on, a network's slopes change within a hair's breadth.
    star = torch.from_numpy(drawn("star", "green").copy()).permute(2, 0, 1)[None] / 255 + 0.02 * picture(2)
    for loss in every:
        x = star.clone().clamp(0, 1).requires_grad_()
        before = loss(x)
        (gradient,) = torch.autograd.grad(before.sum(), x)
        # Short enough for the straight line to hold.
        after = loss((x - 1e-3 * gradient / gradient.abs().amax()).detach().clamp(0, 1))
        assert after < before, loss


def test_each_is_least_where_it_should_be(embedded_features):
    own = picture(3)
    even = (own + own.flip(-1)) / 2
    flat = torch.full_like(own, 0.25)
    for loss, least in (
        (losses.symmetry(), even),
        (losses.total_variation(), flat),
        (losses.colour((0.25, 0.25, 0.25)), flat),
        (losses.brightness(0.25), flat),
        (losses.blue(0.25), flat),
        (losses.match(own), own),
        (losses.clip_image(own), own),
        (losses.style(own, embedded_features), own),
        (losses.perceptual(own, embedded_features), own),
    ):
        assert loss(least).item() == pytest.approx(0, abs=1e-6), loss
        assert loss(picture(4)) > 1e-4, loss


def test_style_is_blind_to_place_and_perception_is_not(embedded_features):
    """A mosaic and the same mosaic shifted by whole tiles are of one style."""
    tile = torch.nn.functional.interpolate(picture(6)[..., :4, :4], size=32, mode="bilinear").repeat(1, 1, 2, 2)
    shifted, other = tile.roll((16, 16), (2, 3)), picture(8)
    style, perceptual = losses.style(tile, embedded_features), losses.perceptual(tile, embedded_features)
    assert style(shifted) < 0.1 * style(other)
    assert style(shifted) / style(other) < 0.2 * perceptual(shifted) / perceptual(other)


@settings(max_examples=10)
@given(shape=st.sampled_from(["circle", "square", "star"]), colour=st.sampled_from(["red", "blue", "green"]))
def test_clip_losses_prefer_what_they_name(shape, colour):
    pictures = [drawn(s, c) for s in ("circle", "square", "star") for c in ("red", "blue", "green")]
    tensors = torch.stack([torch.from_numpy(own.copy()) for own in pictures]).permute(0, 3, 1, 2) / 255
    wanted = ["circle", "square", "star"].index(shape) * 3 + ["red", "blue", "green"].index(colour)
    assert losses.clip_text(f"a {colour} {shape}")(tensors).argmin() == wanted
    assert losses.clip_image(pictures[wanted])(tensors).argmin() == wanted


def test_sums_and_weights():
    own, one, other = picture(9), losses.blue(), losses.brightness(0.1)
    torch.testing.assert_close((2 * (one + other * 3))(own), 2 * (one(own) + 3 * other(own)))
    assert repr(2 * (one + other * 3)) == "2 * (blue() + 3 * brightness(0.1))"


def test_inside_asks_only_the_mask_to_change():
    mask = torch.zeros(64, 64)
    mask[:, :24] = 1
    whole, x = losses.clip_text("a red circle"), picture(2).requires_grad_()
    held = losses.inside(mask, whole)
    assert torch.equal(held(x), whole(x))
    all_over, here = (torch.autograd.grad(loss(x).sum(), x)[0] for loss in (whole, held))
    torch.testing.assert_close(here, all_over * mask)
    assert all_over[..., 40:].any()


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="'mauve' is no colour known here; known: red"):
        losses.colour("mauve")
    with pytest.raises(ValueError, match=r"three numbers in \[0, 1\]"):
        losses.colour((0, 0, 255))
    with pytest.raises(ValueError, match="'left-right' or 'up-down', not 'diagonal'"):
        losses.symmetry("diagonal")
    with pytest.raises(ValueError, match="a mask has the picture's size, 64×64"):
        losses.match(picture(), torch.ones(32, 32))(picture())


def zeros(pictures):
    """A classifier that knows nothing."""
    return pictures.new_zeros(len(pictures), 3)


def test_a_loss_can_be_pickled(embedded):
    """So that what a run was guided by can be kept: what comes back says and prints the same."""
    picture, mask = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.eye(64)
    features = losses.encoder_features(embedded)
    made = [
        *(losses.blue(), losses.blue(0.5), losses.colour("red", mask), losses.colour((0.0, 0.5, 1.0))),
        *(losses.brightness(0.5), losses.symmetry("up-down"), losses.total_variation(), losses.match(picture, mask)),
        *(losses.inside(mask, losses.blue()), losses.clip_text("a red circle"), losses.clip_image(picture)),
        *(losses.log_probability(zeros, 1), losses.style(picture, features), losses.perceptual(picture, features)),
        losses.blue() + 2 * losses.total_variation(),
    ]
    assert {own.name.partition("(")[0] for own in made} >= set(losses.__all__) - {"Loss", "encoder_features"}
    for own in made:
        again = pickle.loads(pickle.dumps(own))
        assert repr(again) == repr(own)
        assert torch.equal(again(picture.flip(-1)), own(picture.flip(-1)))
