"""What a transform asks gradients for is a leaf, and the gradient is the slope of the real computation."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe import AddVector, LatentRecorder, ReplaceToken, attach
from sdprobe.testing import footprint
from tests import families
from tests.laws.strategies import run, same_run
from tests.tiny import stable_diffusion

MAKES = [stable_diffusion, families.stable_diffusion_xl, families.stable_diffusion_3, families.flux, families.pixart]
SETTINGS = {"height": 16, "width": 16, "steps": 2, "seed": 0, "progress": False}
EVERY = ("latents", "prompt_embeds", "token_embeds")


class Slopes(sdprobe.Transform):
    """The slope of the mean square of the model's output, for every leaf; it changes nothing."""

    def __init__(self, needs_grad=EVERY):
        self.needs_grad = needs_grad

    def start(self, run):
        self.slopes, self.losses, self.leaves = [], [], []

    def model_output(self, x, step):
        loss = x.square().mean()
        found = torch.autograd.grad(loss, list(step.leaves.values()))
        self.slopes.append(dict(zip(step.leaves, found, strict=True)))
        self.losses.append(loss.item())
        self.leaves.append({name: leaf.detach() for name, leaf in step.leaves.items()})
        return x


@pytest.mark.parametrize("make", MAKES)
def test_every_leaf_has_a_gradient_and_nothing_moves(make):
    model = sdprobe.load(make())
    plain, before = sdprobe.sample(model, "a red circle", **SETTINGS), footprint(model.pipe)
    slopes = Slopes()
    result = sdprobe.sample(model, "a red circle", hooks=[slopes], **SETTINGS)
    assert same_run(result, plain)
    assert footprint(model.pipe) == before
    for found in result[slopes].slopes:
        assert set(EVERY) <= set(found)
        assert all(slope.isfinite().all() for slope in found.values())
        assert all(found[name].any() for name in EVERY)


@pytest.mark.parametrize("make", MAKES)
def test_the_slope_along_a_word_is_that_of_moving_the_word(make):
    """By central differences in double precision, through text encoder and denoiser, in the first step."""
    model = sdprobe.load(make(), dtype=torch.float64)
    settings = SETTINGS | {"steps": 1, "guidance_scale": 1.0}
    encoder = model.first_shown
    slopes = Slopes()
    result = sdprobe.sample(model, "a red circle", hooks=[slopes], **settings)
    name = "token_embeds" + encoder.removeprefix("text_encoder")
    leaf, slope = result[slopes].leaves[0][name], result[slopes].slopes[0][name]
    position = model.read("a red circle", encoder).positions("circle")[0]
    towards = torch.randn(leaf.shape[-1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t5 = "t5" in getattr(model.pipe, encoder).config.model_type  # its norms compute in single precision
    step, losses = 3e-3 if t5 else 1e-5, []
    for sign in (1, -1):
        moved = AddVector("circle", {encoder: sign * step * towards})
        losses.append(
            sdprobe.sample(model, "a red circle", hooks=[moved, again := Slopes()], **settings)[again].losses[0]
        )
    found = (losses[0] - losses[1]) / (2 * step)
    assert found == pytest.approx(float(slope[0, position] @ towards), rel=2e-3 if t5 else 1e-4, abs=1e-12)


def test_the_prompt_embeds_are_those_that_the_denoiser_is_told(tiny):
    slopes, swap = Slopes(("prompt_embeds",)), ReplaceToken("circle", with_="star")
    result = run(tiny, slopes, swap)
    written = run(tiny, again := Slopes(("prompt_embeds",)), prompt="a red star")
    for a, b in zip(result[slopes].slopes, written[again].slopes, strict=True):
        assert torch.equal(a["prompt_embeds"], b["prompt_embeds"])
    leaf = result[slopes].leaves[0]["prompt_embeds"]
    assert len(leaf) == 2  # unconditional and conditional rows
    assert torch.equal(leaf[1], tiny.encoded(["a red star"])["encoder_hidden_states"][0])


def test_only_what_is_named_is_a_leaf(tiny):
    for names in (("latents",), ("prompt_embeds",), ("token_embeds",)):
        slopes = Slopes(names)
        found = run(tiny, slopes, LatentRecorder())[slopes].slopes[0]
        assert {name.removeprefix("negative_") for name in found} == set(names)
    usual = Slopes(needs_grad=True)
    assert list(run(tiny, usual)[usual].slopes[0]) == ["latents"]


@pytest.mark.parametrize("asked", ["prompt_embeds", ("image",), ("latents", "text")])
def test_what_is_no_leaf_is_refused(tiny, asked):
    with pytest.raises(ValueError, match="needs_grad is True, False, or a tuple of leaves among 'latents'"):
        run(tiny, Slopes(asked))


@pytest.mark.parametrize("make", MAKES)
def test_attached_the_slopes_are_the_same(make):
    pipe, names = make(), ("latents", "prompt_embeds")
    pipe.set_progress_bar_config(disable=True)
    slopes = Slopes(names)
    sampled = sdprobe.sample(pipe, "a red circle", hooks=[slopes], **SETTINGS)
    generator = torch.Generator().manual_seed(0)
    own = {"use_resolution_binning": False} if make is families.pixart else {}
    with attach(pipe, [slopes]) as run_:
        pipe("a red circle", num_inference_steps=2, height=16, width=16, generator=generator, **own)
    for ours, theirs in zip(sampled[slopes].slopes, run_[slopes].slopes, strict=True):
        assert set(ours) == set(theirs) == set(names)
        assert all(torch.equal(ours[name], theirs[name]) for name in names)
    with pytest.raises(ValueError, match="token_embeds is no leaf in it"), attach(pipe, [Slopes(EVERY)]):
        pipe("a red circle", num_inference_steps=2)
