"""`PerturbedAttention`: away from self-attention that is the identity, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import sdprobe
from sdprobe import AttentionMaps, Guidance, LatentRecorder, LossGuidance, SelfAttentionMaps, only
from sdprobe.testing import footprint
from sdprobe.transform.guidances.perturbed_attention import PerturbedAttention
from sdprobe.transform.guidances.self_attention_guidance import SelfAttentionGuidance
from tests.laws.strategies import affine, run, same_run

scales = st.floats(-2, 8).map(lambda scale: round(scale, 2))
cases = st.fixed_dictionaries(
    {
        "scheduler": st.sampled_from(["DDIM", "EulerDiscrete", "HeunDiscrete", "DDPM", "UniPCMultistep"]),
        "guidance_scale": st.sampled_from([1.0, 3.0]),
        "images_per_prompt": st.integers(1, 2),
        "prompt": st.sampled_from(["a star", ["a star", "a ring"]]),
        "width": st.sampled_from([16, 24]),
        "height": st.just(16),
    }
)


few = settings(max_examples=3)


class Asked(sdprobe.Transform):
    """The guided noise as yet, and what the denoiser says: as it is, and with its values passed through."""

    kinds = ("self",)

    def __init__(self, modules):
        self.modules = modules

    def start(self, run):
        self.on, self.seen = False, []

    def attention(self, attn, site):
        return replace(attn, kernel=lambda own: own.value) if self.on else attn

    def noise_pred(self, x, step):
        self.on = True
        perturbed = step.predict(step.latents, role="cond")
        self.on = False
        self.seen.append((x, step.model_output[step.rows_of("cond")], perturbed))
        return x


@pytest.mark.parametrize("which", ["tiny", "tiny_v"])
@settings(max_examples=6)
@given(scale=scales.filter(bool), case=cases, modules=st.sampled_from([("mid_block.*",), ("*",)]))
def test_it_is_its_formula(request, which, scale, case, modules):
    model = request.getfixturevalue(which)
    asked, recorder = Asked(modules), LatentRecorder(keep=("noise_pred",))
    seen = run(model, asked, PerturbedAttention(scale, modules), recorder, **case)
    for (x, cond, perturbed), guided in zip(seen[asked].seen, seen[recorder]["noise_pred"], strict=True):
        assert torch.equal(guided, x + scale * (cond - perturbed))
        assert not torch.equal(cond, perturbed)


def calls(model, *hooks, **case):
    """How often the denoiser is called in a run."""
    counted = []
    handle = model.pipe.unet.register_forward_hook(lambda *_: counted.append(1))
    try:
        run(model, *hooks, **case)
    finally:
        handle.remove()
    return len(counted)


@pytest.mark.parametrize("kind", [PerturbedAttention, SelfAttentionGuidance])
@few
@given(case=cases)
def test_scale_0_is_the_identity_and_asks_nothing(tiny, kind, case):
    assert same_run(run(tiny, kind(0.0), **case), run(tiny, **case))
    plain = calls(tiny, **case)
    assert calls(tiny, kind(0.0), **case) == plain
    assert calls(tiny, kind(1.0), **case) == 2 * plain
    one = kind(lambda step: float(step.index == 1))
    assert calls(tiny, one, **case) == calls(tiny, only(kind(1.0), steps={1}), **case) == plain + 1
    assert same_run(run(tiny, one, **case), run(tiny, only(kind(1.0), steps={1}), **case))


class Guided(sdprobe.Observer):
    """The first guided noise: later ones are of other latents."""

    def start(self, run):
        self.first = None

    def noise_pred(self, x, step):
        self.first = x if self.first is None else self.first


@few
@given(a=scales, b=scales, case=cases)
def test_two_at_once_are_their_sum(tiny, a, b, case):
    def change(*hooks):
        guided = Guided()
        return run(tiny, *hooks, guided, **case | {"steps": 1})[guided].first - plain

    plain = torch.zeros(())
    plain = change()
    one, close = change(PerturbedAttention(a)), {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(
        change(PerturbedAttention(a), PerturbedAttention(b)), change(PerturbedAttention(a + b)), **close
    )
    for other in (PerturbedAttention(b, "up_blocks.*"), SelfAttentionGuidance(b)):
        torch.testing.assert_close(change(PerturbedAttention(a), other), one + change(other), **close)
        torch.testing.assert_close(change(other, PerturbedAttention(a)), one + change(other), **close)


@pytest.mark.parametrize("kind", [PerturbedAttention, SelfAttentionGuidance])
@few
@given(case=cases)
def test_observers_see_the_run_s_own_calls_alone(tiny, kind, case):
    maps, around, seen = AttentionMaps(), SelfAttentionMaps(), Guided()
    given_ = kind(1.0)
    watched = run(tiny, maps, given_, around, seen, **case)
    assert same_run(watched, run(tiny, given_, **case))
    assert len(set(watched.coverage.seen.values())) == 1
    counted = sum(watched[maps].sums.counts.values())
    assert counted * 2 == sum(watched.coverage.seen.values())  # half of the sites are cross
    maps, first = AttentionMaps(), case | {"prompt": "a star"}
    early = only(maps, steps={0})
    runs = [run(tiny, *hooks, early, **first) for hooks in ((kind(1.0),), ())]
    assert torch.equal(*(own[maps].heat_map("star").values for own in runs))


@pytest.mark.parametrize("kind", [PerturbedAttention, SelfAttentionGuidance])
@few
@given(point=st.sampled_from(["latents", "attention", "model_output", "activation"]))
def test_what_others_change_is_what_is_guided(tiny, kind, point):
    """At another point, it does not matter which of the two is written first."""
    other = affine(point, 0.9, 0.25)
    assert same_run(run(tiny, other, kind(2.0)), run(tiny, kind(2.0), other))
    assert not same_run(run(tiny, kind(2.0)), run(tiny, kind(2.0), other))


def test_another_scale_of_classifier_free_guidance_comes_first(tiny):
    both = run(tiny, Guidance(6.0), PerturbedAttention(2.0), guidance_scale=3.0)
    assert same_run(both, run(tiny, PerturbedAttention(2.0), guidance_scale=6.0))


@pytest.mark.parametrize("kind", [PerturbedAttention, SelfAttentionGuidance])
def test_from_a_picture(tiny, kind):
    picture = {"image": Image.new("RGB", (16, 16), (200, 40, 90)), "strength": 0.5, "steps": 6}
    assert calls(tiny, kind(1.0), **picture) == 6
    assert not same_run(run(tiny, kind(1.0), **picture), run(tiny, **picture))


@pytest.mark.parametrize("kind", [PerturbedAttention, SelfAttentionGuidance])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_a_loss_is_differentiated_through_it(tiny, kind, guidance_scale):
    """The slope of the loss along its gradient with respect to the latents is that gradient's length."""

    def loss(x0):
        return x0.square().mean((1, 2, 3))

    class Slope(sdprobe.Transform):
        needs_grad = True

        def noise_pred(self, x, step):
            (self.gradient,) = torch.autograd.grad(loss(step.denoised(x)).sum(), step.latents, retain_graph=True)
            return x

    slope, watched = Slope(), LossGuidance(loss, 0, space="latent", through="model")
    guided = kind(1.0)
    given_ = {"steps": 1, "guidance_scale": guidance_scale}
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    found = run(tiny, guided, slope, latents=start, **given_)[slope].gradient
    seen = run(tiny, guided, watched, latents=start, **given_)[watched]
    torch.testing.assert_close(seen.norms[0, 0], found.norm(), rtol=1e-4, atol=0)
    way = 1e-2 * found / found.norm()
    ends = [float(run(tiny, guided, watched, latents=start + s * way, **given_)[watched].losses) for s in (-1, 1)]
    assert (ends[1] - ends[0]) / 2e-2 == pytest.approx(float(found.norm()), rel=2e-2)


@pytest.mark.parametrize("kind", [PerturbedAttention, SelfAttentionGuidance])
def test_the_model_stays_as_it_was(tiny, kind):
    class Bad(sdprobe.Transform):
        def activation(self, x, site):
            self.calls += 1
            if self.calls == 2:  # in the further call of the first step
                raise ZeroDivisionError
            return x

        def start(self, run):
            self.calls = 0

        modules = ("mid_block.resnets.0",)

    before = footprint(tiny.pipe)
    hook = kind(1.0)
    with pytest.raises(ZeroDivisionError):
        run(tiny, hook, Bad())
    assert footprint(tiny.pipe) == before
    after = run(tiny, hook)
    assert same_run(after, run(tiny, hook))
    assert footprint(tiny.pipe) == before


@pytest.mark.parametrize("kind", [PerturbedAttention, SelfAttentionGuidance])
def test_errors(tiny, kind):
    with pytest.raises(ValueError, match="'middle' matches no attention site of this model; nearest"):
        run(tiny, kind(1.0, modules="middle"))
    with pytest.raises(ValueError, match=r"of kind self, joint at .*attn2, which this model has not"):
        run(tiny, kind(1.0, modules="*attn2"))
    with pytest.raises(ValueError, match="3 scales for 2 calls of the denoiser"):
        run(tiny, kind([1.0, 2.0, 3.0]))
    assert repr(kind(2.0, modules="up_blocks.*")) == f"{kind.__name__}(scale=2.0, modules=('up_blocks.*',))"


@pytest.mark.parametrize("kind", [PerturbedAttention, SelfAttentionGuidance])
@pytest.mark.parametrize("role", ["cond", "uncond"])
def test_limited_to_one_of_two_pictures(tiny, kind, role):
    settings = {"prompt": ["a star", "a ring"], "guidance_scale": 3.0 if role == "uncond" else 1.0}
    plain, whole, part = (run(tiny, *own, **settings) for own in ([], [kind(2.0)], [only(kind(2.0), rows=[1])]))
    assert torch.equal(part.latents[0], plain.latents[0])
    torch.testing.assert_close(part.latents[1], whole.latents[1], rtol=1e-4, atol=1e-4)
    assert not torch.equal(part.latents[1], plain.latents[1])
