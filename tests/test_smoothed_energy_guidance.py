"""`SmoothedEnergyGuidance`: away from self-attention of blurred queries, on grids of any shape."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import sdprobe
from sdprobe import SmoothedEnergyGuidance, only
from sdprobe.transform.guidances.smoothed_energy_guidance import SmoothQueries, blurred
from tests.families import FAMILIES
from tests.laws.strategies import run, same_run

few = settings(max_examples=3)


def plain_blur(x, sigma):
    """Place by place: the mean of the neighbours, mirrored at the edges, each weighted by a Gaussian of both steps."""
    h, w = x.shape
    reach_h, reach_w = (min(math.ceil(6 * sigma) // 2, size // 2) for size in (h, w))
    out, mirrored = torch.zeros_like(x), lambda place, size: size - 1 - abs(size - 1 - abs(place))
    for i in range(h):
        for j in range(w):
            steps = [(a, b) for a in range(-reach_h, reach_h + 1) for b in range(-reach_w, reach_w + 1)]
            weights = [math.exp(-(a * a + b * b) / (2 * sigma**2)) for a, b in steps]
            values = [x[mirrored(i + a, h), mirrored(j + b, w)] for a, b in steps]
            out[i, j] = sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
    return out


@few
@given(h=st.integers(1, 6), w=st.integers(1, 6), sigma=st.sampled_from([0.3, 1.0, 20.0]))
def test_the_blur_is_a_plain_one(h, w, sigma):
    x = torch.randn(1, 2, h, w, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(blurred(x, sigma)[0, 1], plain_blur(x[0, 1], sigma), rtol=1e-5, atol=1e-5)


class AtQuery(sdprobe.Transform):
    """The blur where the scores are made: it is the same, where nothing is between it and the projection."""

    kinds = ("self",)

    def __init__(self, sigma, modules):
        self.sigma, self.modules = sigma, modules

    def attention(self, attn, site):
        query = attn.query
        if self.sigma is None:
            return replace(attn, query=query.mean(2, keepdim=True).expand_as(query))
        rows = query.mT.flatten(1, 2).unflatten(-1, site.grid)
        smooth = blurred(rows, self.sigma).flatten(2).unflatten(1, (query.shape[1], -1)).mT
        return attn.with_query(smooth.contiguous())


class Away(sdprobe.Transform):
    def __init__(self, scale, *hooks):
        self.scale, self.hooks = scale, hooks

    def noise_pred(self, x, step):
        smoothed = step.predict(step.latents, *self.hooks, role="cond")
        return x + self.scale * (step.model_output[step.rows_of("cond")] - smoothed)


@pytest.mark.parametrize("sigma", [None, 0.8])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_it_is_the_paper_s_at_the_queries(tiny, sigma, guidance_scale):
    case = {"guidance_scale": guidance_scale, "height": 16, "width": 24, "prompt": ["a star", "a ring"]}
    ours = run(tiny, SmoothedEnergyGuidance(3.0, sigma, modules="*"), **case).latents
    expected = run(tiny, Away(3.0, AtQuery(sigma, ("*",))), **case).latents
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, run(tiny, **case).latents, rtol=1e-3, atol=1e-3)


class Queries(sdprobe.Transform):
    """What projections give in a call of the denoiser with other hooks."""

    modules = ("*.to_q",)

    def __init__(self, *hooks):
        self.hooks = hooks

    def start(self, run):
        self.seen = {}

    def activation(self, x, site):
        if site.further:
            self.seen[site.name] = x, site.image
        return x

    def noise_pred(self, x, step):
        step.predict(step.latents, *self.hooks, copy.copy(self), role="cond")  # after those of the call
        return x


@pytest.mark.parametrize(
    ("family", "site"),
    [
        ("Stable Diffusion 3.5", "transformer_blocks.0.attn.to_q"),
        ("Flux.1 dev", "single_transformer_blocks.0.attn.to_q"),
    ],
)
def test_in_joint_attention_the_text_stays(family, site):
    """In Flux's single blocks image and text are one sequence, text first."""
    plain, smooth = Queries(), Queries(SmoothQueries({site: None}, None))
    model = sdprobe.load(FAMILIES[family]())
    (x, image), (changed, _) = (
        run(model, own, steps=1, height=16, width=24)[own].seen[site] for own in (plain, smooth)
    )
    expected = x.clone()
    expected[:, image] = x[:, image].mean(1, keepdim=True)
    torch.testing.assert_close(changed, expected, rtol=1e-5, atol=1e-6)
    assert (image.start > 0) == family.startswith("Flux")


@few
@given(guidance_scale=st.sampled_from([1.0, 3.0]))
def test_scale_0_steps_and_rows(tiny, guidance_scale):
    case = {"prompt": ["a star", "a ring"], "guidance_scale": guidance_scale}
    plain = run(tiny, **case)
    assert same_run(run(tiny, SmoothedEnergyGuidance(0.0), **case), plain)
    by_step = run(tiny, SmoothedEnergyGuidance([0.0, 2.0]), **case)
    assert same_run(by_step, run(tiny, only(SmoothedEnergyGuidance(2.0), steps={1}), **case))
    part = run(tiny, only(SmoothedEnergyGuidance([0.0, 2.0]), rows=[1]), **case)
    assert torch.equal(part.latents[0], plain.latents[0])
    torch.testing.assert_close(part.latents[1], by_step.latents[1], rtol=1e-5, atol=1e-5)


def test_from_a_picture(tiny):
    picture = {"image": Image.new("RGB", (16, 16), (200, 40, 90)), "strength": 0.5, "steps": 4}
    assert not same_run(run(tiny, SmoothedEnergyGuidance(), **picture), run(tiny, **picture))


def test_errors(tiny):
    with pytest.raises(ValueError, match=r"'\*attn2' matches none of the model's self- and joint attention: down_b"):
        run(tiny, SmoothedEnergyGuidance(modules="*attn2"))
    with pytest.raises(ValueError, match="sigma is above 0, not 0"):
        SmoothedEnergyGuidance(sigma=0)
    assert SmoothedEnergyGuidance(sigma=math.inf).sigma is None
    assert sdprobe.to_config([SmoothedEnergyGuidance(sigma=math.inf)]) == [["smoothed-energy-guidance", {}]]
