"""`SelfAttentionGuidance`: away from x0 blurred where self-attention is high.

What it shares with `PerturbedAttention` is tested there.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import sdprobe
from sdprobe.transform.guidances.perturbed_attention import PerturbedAttention
from sdprobe.transform.guidances.self_attention_guidance import SelfAttentionGuidance, _blurred
from tests.laws.strategies import run, same_run
from tests.test_perturbed_attention import cases
from tests.tiny import stable_diffusion

PREDICTIONS = ("epsilon", "v_prediction", "sample")


class Look(sdprobe.Observer):
    """The run's own self-attention in the middle, and every step with its guided noise."""

    modules, kinds = ("mid_block.*",), ("self",)

    def start(self, run):
        self.maps, self.steps, self.guided = [], [], []

    def attention(self, attn, site):
        self.maps.append((attn.probs().mean(1), site.grid))

    def noise_pred(self, x, step):
        self.steps.append(step)
        self.guided.append(x)


@pytest.fixture(scope="module")
def precise():
    """Models in double precision, by prediction type, and what their network was given and answered."""
    models = {kind: sdprobe.load(stable_diffusion(kind)) for kind in PREDICTIONS}
    seen = []
    for model in models.values():
        for part in (model.pipe.unet, model.pipe.vae, model.pipe.text_encoder):
            part.double()
        model.pipe.unet.register_forward_hook(lambda _, args, output: seen.append((args[0], output[0])))
    return models, seen


def steps_of(precise, kind, hook, case):
    """For each step: the step, its guided noise, its self-attention; the own call's answer; the further call."""
    assume((kind, case["scheduler"]) != ("sample", "HeunDiscrete"))  # which knows no such prediction
    models, seen = precise
    seen.clear()
    look = Look()
    looked = run(models[kind], hook, look, **case)[look]
    for step, x, heat, (_, own), (given_, answer) in zip(
        looked.steps, looked.guided, looked.maps, seen[::2], seen[1::2], strict=True
    ):
        scale = (step.sigma**2 + 1) ** 0.5 if step.signal == 1 else 1  # such schedulers ask for a scale of their own
        yield step, x, heat, own, given_ * scale, answer


@pytest.mark.parametrize("kind", PREDICTIONS)
@settings(max_examples=5)
@given(case=cases, scale=st.floats(0.1, 2))
def test_it_is_the_noise_that_is_guided(precise, kind, case, scale):
    """ε + scale · (ε' − ε̂), where ε̂ is what the network finds in the degraded latents."""
    for step, x, _, own, degraded, answer in steps_of(precise, kind, SelfAttentionGuidance(scale), case):

        def noise(output, latents, step=step):
            return (latents - step.signal * step.to_denoised(output, latents)) / step.noise

        role = "uncond" if case["guidance_scale"] > 1 else "cond"
        guided = step.run.model.guide(own, step.rows, case["guidance_scale"])
        change = noise(x, step.latents) - noise(guided, step.latents)
        apart = noise(own[step.rows_of(role)], step.latents) - noise(answer, degraded)
        torch.testing.assert_close(change, scale * apart, rtol=1e-4, atol=1e-5)
        assert apart.any()


@pytest.mark.parametrize("kind", PREDICTIONS)
@settings(max_examples=5)
@given(case=cases, sigma=st.sampled_from([0.5, 1.0, 1.5]))
def test_x0_is_blurred_where_self_attention_is_above_its_mean(precise, kind, case, sigma):
    for step, _, (heat, grid), own, degraded, _ in steps_of(precise, kind, SelfAttentionGuidance(1.0, sigma), case):
        rows = step.rows_of("uncond" if case["guidance_scale"] > 1 else "cond")
        x0 = step.denoised(own[rows])
        given_ = heat[rows].sum(1)
        mask = (given_ > given_.mean(1, keepdim=True)).double().unflatten(1, grid)
        mask = mask.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]  # the middle is half as wide and high
        expected = step.latents + step.signal * mask * (_blurred(x0, sigma) - x0)
        torch.testing.assert_close(degraded, expected, rtol=1e-5, atol=1e-5)
        assert 0 < mask.mean() < 1


def test_the_blur_is_gaussian():
    dot = torch.zeros(1, 2, 15, 17, dtype=torch.float64)
    dot[0, 1, 7, 8] = 1
    rows, columns = torch.arange(15.0) - 7, torch.arange(17.0) - 8
    bell = torch.exp(-(rows[:, None] ** 2 + columns**2) / (2 * 1.2**2))
    blurred = _blurred(dot, 1.2)
    torch.testing.assert_close(blurred[0, 1], (bell / bell.sum()).double(), rtol=0, atol=1e-5)
    assert not blurred[0, 0].any()
    torch.testing.assert_close(_blurred(torch.ones(1, 4, 9, 9), 2.0), torch.ones(1, 4, 9, 9))
    ramp = torch.arange(9.0).expand(1, 1, 9, 9)
    torch.testing.assert_close(_blurred(ramp, 1.0), _blurred(ramp.flip(-1), 1.0).flip(-1))


class Again(sdprobe.Transform):
    """Asks the denoiser of other latents, and changes nothing."""

    def __init__(self, point, role):
        self.point, self.role = point, role


@pytest.mark.parametrize("point", ["latents", "model_output", "noise_pred"])
@pytest.mark.parametrize("role", [None, "cond", "uncond"])
@pytest.mark.parametrize("first", [True, False])
def test_the_attention_is_of_the_run_s_own_call(tiny, point, role, first):
    def act(self, x, step):
        step.predict(-3 * step.latents.flip(-1), role=role)
        return x

    again = type("Again", (Again,), {point: act})(point, role)
    own = SelfAttentionGuidance(1.0, modules="*attn1")  # at every site, so that a heat of another call shows
    assert same_run(run(tiny, *((again, own) if first else (own, again))), run(tiny, own))


def test_of_several_sites_it_is_the_mean(tiny):
    one = run(tiny, SelfAttentionGuidance(1.0, modules="mid_block.*"))
    several = run(tiny, SelfAttentionGuidance(1.0, modules=("mid_block.*", "up_blocks.*")))
    assert not same_run(one, several)
    assert same_run(several, run(tiny, SelfAttentionGuidance(1.0, modules=("up_blocks.*", "mid_block.*"))))


def test_with_perturbed_attention_either_may_be_first(tiny):
    one, other = SelfAttentionGuidance(1.0), PerturbedAttention(1.0)
    torch.testing.assert_close(run(tiny, one, other).latents, run(tiny, other, one).latents, rtol=1e-4, atol=1e-4)


def test_errors(tiny):
    with pytest.raises(ValueError, match="sigma is above 0, not 0"):
        SelfAttentionGuidance(sigma=0)
    with pytest.raises(ValueError, match="a blur of sigma 3 reaches 12 positions beyond the edges of 8×8 latents"):
        run(tiny, SelfAttentionGuidance(sigma=3))
