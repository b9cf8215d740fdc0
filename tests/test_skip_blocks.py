"""Blocks that are skipped, or drop part of what they give, in every family, and the guidance away from them."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

import sdprobe
from sdprobe import SkipLayerGuidance, only
from sdprobe.testing import footprint
from sdprobe.transform.guidances.skip_blocks import SkipBlocks, blocks_of
from tests.families import FAMILIES
from tests.laws.strategies import run, same_run

MIDDLE = {
    "Stable Diffusion XL": tuple(f"mid_block.attentions.0.transformer_blocks.{k}" for k in (0, 1)),
    "Stable Diffusion 3.5": ("transformer_blocks.1",),
    "Flux.1 dev": ("single_transformer_blocks.0",),
    "PixArt-Σ": ("transformer_blocks.0",),
}


@lru_cache
def model_of(family):
    return sdprobe.load(FAMILIES[family]())


class Asked(sdprobe.Transform):
    """What blocks take and give, in a call in which they are skipped."""

    sides = ("input", "output")

    def __init__(self, blocks, *hooks):
        self.modules, self.hooks = blocks, hooks

    def start(self, run):
        self.seen = {}

    def noise_pred(self, x, step):
        step.predict(step.latents, *self.hooks, See(self.modules, self.seen), role="cond")
        return x


class See(sdprobe.Transform):
    sides = ("input", "output")

    def __init__(self, modules, seen):
        self.modules, self.seen = modules, seen

    def activation(self, x, site):
        self.seen[site.name, site.stream, site.side] = x
        return x


@pytest.mark.parametrize("family", MIDDLE)
def test_a_skipped_block_gives_what_it_was_given(family):
    model = model_of(family)
    blocks = MIDDLE[family]
    asked = Asked(blocks, SkipBlocks(blocks))
    seen = run(model, asked, steps=1, height=16, width=24)[asked].seen
    given = {key: x for key, x in seen.items() if key[2] == "output"}
    assert given
    for (name, stream, _), x in given.items():
        assert torch.equal(x, seen[name, stream, "input"])


@pytest.mark.parametrize("family", MIDDLE)
def test_the_middle_is_found(family):
    class Middle(sdprobe.Observer):
        def start(self, run):
            self.blocks = blocks_of(run, None)

        def noise_pred(self, x, step): ...

    middle = Middle()
    assert run(model_of(family), middle, steps=1, height=16, width=16)[middle].blocks == MIDDLE[family]


def test_dropout_drops_a_share_and_keeps_the_mean(tiny):
    """The same for every image, and another for every step, block and seed."""
    (block,) = ("mid_block.attentions.0.transformer_blocks.0",)
    shares = []
    for seed in (0, 1):
        asked = Asked((block,), SkipBlocks([block], 0.3, seed))
        seen = run(tiny, asked, steps=1, images_per_prompt=2)[asked].seen
        x = seen[block, "hidden", "output"]
        assert torch.equal(x[0] == 0, x[1] == 0)
        assert 0.2 < (x == 0).float().mean() < 0.4
        shares.append(x == 0)
    assert not torch.equal(*shares)


def test_it_is_its_formula(tiny):
    class Away(sdprobe.Transform):
        def noise_pred(self, x, step):
            skipped = step.predict(step.latents, SkipBlocks(["up_blocks.1.attentions.0.transformer_blocks.0"]))
            return x + 2.5 * (step.model_output - skipped)[step.rows_of("cond")]

    ours = SkipLayerGuidance(2.5, modules="up_blocks.1.attentions.0.*")
    both = [run(tiny, hook, prompt=["a star", "a ring"], width=24, height=16) for hook in (ours, Away())]
    torch.testing.assert_close(both[0].latents, both[1].latents, rtol=1e-4, atol=1e-4)
    assert not same_run(both[0], run(tiny, prompt=["a star", "a ring"], width=24, height=16))


def test_scale_0_steps_and_rows(tiny):
    case = {"prompt": ["a star", "a ring"], "guidance_scale": 1.0}
    plain = run(tiny, **case)
    assert same_run(run(tiny, SkipLayerGuidance(0.0), **case), plain)
    by_step = run(tiny, SkipLayerGuidance([0.0, 2.0]), **case)
    assert same_run(by_step, run(tiny, only(SkipLayerGuidance(2.0), steps={1}), **case))
    part = run(tiny, only(SkipLayerGuidance([0.0, 2.0]), rows=[1]), **case)
    assert torch.equal(part.latents[0], plain.latents[0])
    torch.testing.assert_close(part.latents[1], by_step.latents[1], rtol=1e-5, atol=1e-5)


def test_observers_see_the_run_s_own_calls_alone(tiny):
    keep, before = sdprobe.Activations("mid_block.attentions.0.transformer_blocks.0"), footprint(tiny.pipe)
    seen, plain = (run(tiny, *hooks, keep, steps=1)[keep].record for hooks in ([SkipLayerGuidance()], []))
    assert torch.equal(seen.at(0, seen.keys[0]), plain.at(0, plain.keys[0]))
    assert footprint(tiny.pipe) == before


@pytest.mark.parametrize(
    "hook",
    [
        SkipLayerGuidance(20.0, "*"),
        sdprobe.SmoothedEnergyGuidance(20.0, None, "*"),
        sdprobe.AutoGuidance(20.0, modules="*"),
    ],
    ids=["skip", "smooth", "auto"],
)
def test_a_loss_is_differentiated_through_it(tiny, hook):
    """Blocks that are computed again, to save memory, would be computed without the hooks of the further call."""

    def loss(x0):
        return x0.square().mean((1, 2, 3))

    found = []
    for checkpoint in (False, True):
        watched = sdprobe.LossGuidance(loss, 0, space="latent", through="model", checkpoint=checkpoint)
        found.append(run(tiny, hook, watched, steps=2)[watched].norms)
    plain = sdprobe.LossGuidance(loss, 0, space="latent", through="model")
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=0)
    assert not torch.allclose(found[0], run(tiny, plain, steps=2)[plain].norms, rtol=1e-3)


def test_errors(tiny):
    with pytest.raises(ValueError, match=r"'transformer_blocks\.7' matches none of the model's blocks: down_blocks\.0"):
        run(tiny, SkipLayerGuidance(modules="transformer_blocks.7"))
    assert repr(SkipLayerGuidance(1.0, "up_blocks.*")) == "SkipLayerGuidance(scale=1.0, modules=('up_blocks.*',))"
