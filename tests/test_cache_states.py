"""Caches of diffusers: in a run they act as in the stock pipeline, and other calls of the denoiser pass them by."""

from __future__ import annotations

import pytest
import torch
from diffusers import hooks as of_diffusers

import sdprobe
from sdprobe.testing import footprint
from tests.caches import MAKERS, WITHOUT_CONTEXT, WORK, attached, cached, denoiser, run, stock
from tests.tiny import stable_diffusion

UNET_BROADCAST = ("Stable Diffusion", "PyramidAttentionBroadcast")
IDLE = ("TextKVCache", "SeaCache")
"""In the families here: one is for another model, the other needs the step in its cache context."""

EACH = pytest.mark.parametrize(("family", "cache"), WORK, ids=map("-".join, WORK))


class Asks(sdprobe.Observer):
    """Asks the denoiser again at every point where it can, with other latents and rows, and ignores what it says."""

    def latents(self, x, step):
        step.predict(x + 1, role="cond")

    def model_output(self, x, step):
        step.predict(step.latents)

    def noise_pred(self, x, step):
        step.predict(step.latents, role="cond")


class Squares(sdprobe.Transform):
    """The gradient of the summed squares of the noise prediction with respect to the latents, at every step."""

    needs_grad = True

    def start(self, run):
        self.gradients = []

    def noise_pred(self, x, step):
        x.square().sum().backward()  # unlike `torch.autograd.grad`, it also follows what came from earlier steps
        self.gradients.append(step.latents.grad.clone())
        return x


class Moved(sdprobe.Transform):
    """Adds to the latents at one step, and keeps the summed squares of its noise prediction."""

    def __init__(self, index, by):
        self.index, self.by = index, by

    def latents(self, x, step):
        return x + self.by if step.index == self.index else x

    def noise_pred(self, x, step):
        if step.index == self.index:
            self.value = x.square().sum().item()
        return x


@EACH
def test_latents_are_those_of_the_stock_pipeline(family, cache):
    told = stock(cached(family, cache))
    assert torch.equal(told, stock(MAKERS[family]())) == (cache in IDLE)
    pipe = cached(family, cache)
    assert torch.equal(run(pipe).latents, told)
    assert torch.equal(run(pipe).latents, told)  # a run leaves no state
    assert torch.equal(attached(cached(family, cache))[0], told)


@EACH
def test_further_calls_of_the_denoiser_change_nothing(family, cache):
    told = stock(cached(family, cache))
    pipe = cached(family, cache)
    assert torch.equal(run(pipe, Asks()).latents, told)
    assert torch.equal(run(pipe).latents, told)
    assert torch.equal(attached(cached(family, cache), Asks())[0], told)


@EACH
def test_a_further_call_is_computed_in_full(family, cache):
    class Asks(sdprobe.Observer):
        def start(self, run):
            self.path, self.found = [], []

        def latents(self, x, step):
            self.path.append(x.clone())
            self.found.append(step.predict(x))

    class Follows(sdprobe.Transform):
        """Takes the latents of another run, at every step."""

        def __init__(self, path):
            self.path = path

        def start(self, run):
            self.found = []

        def latents(self, x, step):
            return self.path[step.index]

        def model_output(self, x, step):
            self.found.append(x)
            return x

    asks = Asks()
    asked = run(cached(family, cache), asks)[asks]
    follows = Follows(asked.path)
    for own, full in zip(asked.found, run(MAKERS[family](), follows)[follows].found, strict=True):
        assert torch.equal(own, full)


@pytest.mark.parametrize(("family", "cache"), WITHOUT_CONTEXT, ids=map("-".join, WITHOUT_CONTEXT))
def test_a_cache_that_the_stock_pipeline_cannot_run(family, cache):
    for way in (stock, run, attached):
        with pytest.raises(ValueError, match="No cache context is set"):
            way(cached(family, cache))


def test_a_run_begins_afresh_after_one_that_was_broken_off():
    class Breaks(sdprobe.Observer):
        def noise_pred(self, x, step):
            if step.index == 2:
                raise KeyboardInterrupt

    told = stock(cached(*UNET_BROADCAST))
    pipe = cached(*UNET_BROADCAST)
    stock(pipe)  # the pipeline itself resets no cache that was applied to its U-Net
    before = footprint(pipe)
    with pytest.raises(KeyboardInterrupt):
        run(pipe, Breaks())
    assert footprint(pipe) == before
    assert torch.equal(run(pipe).latents, told)
    assert torch.equal(stock(pipe), told)


GRADIENTS = [pair for pair in WORK if pair != ("PixArt", "FasterCache") and pair[1] != "TaylorSeerCache, lite"]


@pytest.mark.parametrize(("family", "cache"), GRADIENTS, ids=map("-".join, GRADIENTS))
def test_gradients_are_those_of_what_a_step_computes(family, cache):
    """What a cache keeps of earlier steps is constant in them; held against differences of the run itself."""
    pipe = cached(family, cache, torch.float64)
    squares = Squares()
    told = run(pipe, squares)
    torch.testing.assert_close(told.latents, run(pipe).latents)  # kernels with gradients may be others
    for index in (1, 3):
        gradient = told[squares].gradients[index]
        by = 1e-5 * torch.randn(gradient.shape, generator=torch.Generator().manual_seed(1), dtype=gradient.dtype)
        ahead, back = (run(pipe, hook)[hook].value for hook in (Moved(index, by), Moved(index, -by)))
        assert (ahead - back) / 2 == pytest.approx(float((gradient * by).sum()), rel=1e-3)
    attached_squares = Squares()
    _, own = attached(cached(family, cache, torch.float64), attached_squares)
    for a, b in zip(own[attached_squares].gradients, told[squares].gradients, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("cache", ["FirstBlockCache", "PyramidAttentionBroadcast", "MagCache", "TaylorSeerCache"])
def test_blocks_are_not_computed_again_for_gradients(cache):
    """Gradient checkpointing would be steps of their own to a cache."""
    losses = (
        sdprobe.LossGuidance(lambda image: image.mean((1, 2, 3)), 2.0, through="model", checkpoint=checkpoint)
        for checkpoint in (True, False)
    )
    one, other = (run(cached("Flux", cache), loss).latents for loss in losses)
    assert torch.equal(one, other)


def test_gradients_through_unconditional_rows_that_are_made_up():
    for way in (run, attached):
        with pytest.raises(ValueError, match="FasterCache leaves the unconditional rows out of some steps"):
            way(cached("PixArt", "FasterCache"), Squares())


def test_concepts_are_learned_past_a_cache(tiny):
    picture = sdprobe.sample(tiny, "a red circle", steps=1, seed=0, progress=False).images[0]
    plain, pipe = (make() for make in (stable_diffusion, lambda: cached(*UNET_BROADCAST)))
    learned = [
        sdprobe.learn_concept(own, picture, "<new>", init_word="circle", steps=3, batch=1, progress=False)
        for own in (plain, pipe)
    ]
    assert learned[0].losses == learned[1].losses


def test_a_cache_reads_the_timestep_of_the_users_pipeline():
    pipe = MAKERS["Flux"]()
    read = []

    def now():
        read.append(float(pipe.current_timestep))
        return pipe.current_timestep

    config = of_diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=now
    )
    denoiser(pipe).enable_cache(config)
    before = dict(vars(pipe))
    run(pipe)
    assert vars(pipe) == before
    shown, read = read, []
    stock(pipe)
    assert read == shown
    assert len(set(read)) > 1


def test_a_run_with_a_cache_is_resumed_from_its_beginning_only():
    pipe = cached("Flux", "FirstBlockCache")
    own = run(pipe, sdprobe.Checkpoints())
    assert torch.equal(sdprobe.resume(own, step=0, progress=False).latents, own.latents)
    with pytest.raises(ValueError, match="what it had kept before step 2 is gone"):
        sdprobe.resume(own, step=2, progress=False)
    denoiser(pipe).disable_cache()
    sdprobe.resume(own, step=2, progress=False)
