"""`LossGuidance`: it is the loop written out by hand, it lowers the loss, and at scale 0 it is nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, LMSDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import sdprobe
from sdprobe import LossGuidance, losses
from sdprobe.testing import footprint
from tests.laws.strategies import run, same_run
from tests.tiny import stable_diffusion

SCHEDULERS = [
    "LMSDiscrete",
    "DDIM",
    "DDPM",
    "EulerDiscrete",
    "HeunDiscrete",
    "PNDM",
    "DPMSolverMultistep",
    "UniPCMultistep",
]
ways = st.sampled_from([(through, apply) for through in ("x0", "model") for apply in ("noise", "sample")])


def blue(pictures):
    return (pictures[:, 2] - 0.9).abs().mean((1, 2))


def by_hand(pipe, prompt, seed, steps, guidance, scale, every):
    """The classic loop: guidance, x0, decode, loss, gradient with the noise held, shift, scheduler step."""
    scheduler = LMSDiscreteScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(steps)
    cond, uncond = pipe.encode_prompt(prompt, "cpu", 1, True)
    embeds = torch.cat([uncond, cond])
    generator = torch.Generator("cpu").manual_seed(seed)
    x = torch.randn(1, 4, 8, 8, generator=generator) * scheduler.init_noise_sigma
    for i, timestep in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[i]
        with torch.no_grad():
            rows = scheduler.scale_model_input(torch.cat([x] * 2), timestep)
            unconditional, conditional = pipe.unet(rows, timestep, encoder_hidden_states=embeds).sample.chunk(2)
        noise = unconditional + guidance * (conditional - unconditional)
        if i % every == 0:
            x = x.detach().requires_grad_()
            x0 = x - sigma * noise
            pictures = pipe.vae.decode(x0 / pipe.vae.config.scaling_factor).sample / 2 + 0.5
            gradient = torch.autograd.grad((pictures[:, 2] - 0.9).abs().mean() * scale, x)[0]
            x = x.detach() - gradient * sigma**2
        x = scheduler.step(noise, timestep, x).prev_sample
    return x


def test_it_is_the_classic_loop(tiny):
    guidance = LossGuidance(blue, 200, every=5, apply="sample")
    guided = run(tiny, guidance, scheduler="LMSDiscrete", steps=50, guidance_scale=8.0, seed=3)
    expected = by_hand(tiny.pipe, "a red circle", 3, 50, 8.0, 200, 5)
    plain = by_hand(tiny.pipe, "a red circle", 3, 50, 8.0, 0, 5)
    assert guided[guidance].indices == list(range(0, 50, 5))
    torch.testing.assert_close(guided.latents, expected, rtol=1e-4, atol=1e-4)
    assert (expected - plain).abs().max() > 1  # it moved far


@settings(max_examples=8)
@given(
    way=ways,
    scheduler=st.sampled_from(SCHEDULERS),
    guidance_scale=st.sampled_from([1.0, 3.0]),
    space=st.sampled_from(["image", "latent"]),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("which", ["tiny", "tiny_v"])
def test_scale_0_is_the_identity(request, which, way, scheduler, guidance_scale, space, seed):
    model = request.getfixturevalue(which)
    given_ = {"scheduler": scheduler, "guidance_scale": guidance_scale, "seed": seed, "steps": 5}
    watching = LossGuidance(lambda x: x.square().mean((1, 2, 3)), 0, space=space, through=way[0], apply=way[1])
    watched = run(model, watching, **given_)
    assert same_run(watched, run(model, **given_))
    assert watched[watching].losses.isfinite().all()
    assert not watched[watching].changes.any()


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_both_ways_move_predicted_x0_by_the_same_and_only_one_moves_the_noise(scheduler, prediction_type):
    if (scheduler, prediction_type) == ("PNDM", "sample"):
        pytest.skip("a scheduler that knows no such prediction")
    model = sdprobe.load(stable_diffusion(prediction_type))
    seen: dict[str, list[torch.Tensor]] = {}

    class Look(sdprobe.Observer):
        def __init__(self, name):
            self.name = name

        def noise_pred(self, x, step):
            self.noise, self.step = x, step

        def sample(self, x, step):
            x0 = step.to_denoised(self.noise, x)
            seen.setdefault(self.name, []).append(torch.stack([x0, (x - step.signal * x0) / step.noise]))

    shared = {"scheduler": scheduler, "steps": 5, "prompt": ["a star", "a ring"], "guidance_scale": 1.0}
    for apply in ("noise", "sample"):
        run(model, LossGuidance(blue, 3, stop=1, apply=apply), Look(apply), **shared)
    run(model, Look("plain"), **shared)
    noise, sample, plain = (seen[name][0] for name in ("noise", "sample", "plain"))
    scale = (noise - plain).abs().amax()
    torch.testing.assert_close(noise[0] - plain[0], sample[0] - plain[0], rtol=1e-2, atol=float(1e-3 * scale))
    torch.testing.assert_close(sample[1], plain[1], rtol=1e-3, atol=1e-3)
    assert not torch.equal(noise[1], plain[1])


EVERY = sorted(kind.__name__.removesuffix("Scheduler") for kind in DDIMScheduler().compatibles)


@pytest.mark.parametrize("which", ["tiny", "tiny_v"])
@pytest.mark.parametrize("scheduler", EVERY)
def test_under_every_scheduler_each_push_lowers_the_loss(request, which, scheduler):
    """With guidance and without, from noise and from a picture, for each image of a batch."""
    model = request.getfixturevalue(which)

    class After(sdprobe.Observer):
        def start(self, run):
            self.losses = []

        def noise_pred(self, x, step):
            self.losses.append(step.denoised(x).square().mean((1, 2, 3)))

    def short(step):  # a hundredth of a standard deviation of x0 at most, at any noise
        return 0.01 / max(step.noise, 1)

    guidance = LossGuidance(lambda x0: x0.square().mean((1, 2, 3)), short, space="latent", normalize=True)
    after = After()
    from_a_picture = {"image": Image.new("RGB", (16, 16), (200, 40, 90)), "strength": 0.5}
    start = {} if scheduler == "EDMEuler" else from_a_picture  # whose add_noise fails in diffusers
    for case in ({"guidance_scale": 1.0}, {"guidance_scale": 3.0, **start}):
        guided = run(model, guidance, after, scheduler=scheduler, steps=4, prompt=["a star", "a ring"], **case)
        before = guided[guidance].losses
        assert len(before) >= 2
        assert (torch.stack(guided[after].losses)[guided[guidance].indices] < before).all()


def test_through_the_model_it_is_the_whole_derivative(tiny):
    """The gradient is that of the loss as a function of x_t, by finite differences."""
    model = sdprobe.load(stable_diffusion())
    model.pipe.unet.double(), model.pipe.vae.double(), model.pipe.text_encoder.double()
    guidance = LossGuidance(blue, 0, through="model", stop=1, space="latent")
    guidance.loss = lambda x0: x0.square().mean((1, 2, 3))

    class Kept(sdprobe.Observer):
        def start(self, run):
            self.x = []

        def latents(self, x, step):
            self.x.append(x.clone())

    kept = Kept()
    start = torch.randn(1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    base = run(model, guidance, kept, latents=start)
    x, norm = base[kept].x[0], base[guidance].norms[0, 0]
    step = 1e-3
    slopes = []
    for k in range(3):  # three directions cannot exceed the norm, and one along the gradient would reach it
        way = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(k))
        way = way / way.norm()
        up, down = (run(model, guidance, latents=start + s * way)[guidance].losses[0, 0] for s in (step, -step))
        slopes.append((way, float(up - down) / (2 * step)))
    assert all(abs(slope) <= float(norm) * 1.01 for _, slope in slopes)
    gradient = _gradient(model, guidance, start)
    for way, slope in slopes:
        assert slope == pytest.approx(float((gradient * way).sum()), rel=2e-2, abs=1e-5)


def _gradient(model, guidance, start):
    found = []

    class Gradient(sdprobe.Transform):
        needs_grad = True

        def noise_pred(self, x, step):
            if step.index == 0:
                loss = guidance.loss(step.denoised(x)).sum()
                found.append(torch.autograd.grad(loss, step.latents, retain_graph=True)[0])
            return x

    run(model, Gradient(), latents=start)
    return found[0]


def test_checkpointing_changes_no_gradient(tiny):
    runs = []
    for checkpoint in (True, False):
        guidance = LossGuidance(blue, 5, through="model", checkpoint=checkpoint)
        guided = run(tiny, guidance, steps=3)
        runs.append((guided.latents, guided[guidance].norms))
    assert torch.allclose(runs[0][0], runs[1][0], rtol=1e-5, atol=1e-6)
    assert torch.allclose(runs[0][1], runs[1][1], rtol=1e-5)


def test_with_a_transform_inside_the_denoiser_the_gradient_sees_it(tiny):
    class Even(sdprobe.Transform):
        kinds = ("cross",)

        def attention(self, attn, site):
            return attn.with_probs(torch.full_like(attn.probs(), 1 / attn.key.shape[-2]))

    norms = []
    for checkpoint in (True, False):
        guidance = LossGuidance(blue, 5, through="model", checkpoint=checkpoint)
        norms.append(run(tiny, guidance, Even(), steps=3)[guidance].norms)
    assert torch.equal(*norms)


@settings(max_examples=3)
@given(seed=st.integers(0, 50), way=st.sampled_from([("x0", "noise"), ("x0", "sample"), ("model", "sample")]))
def test_a_larger_scale_lowers_the_loss(embedded, seed, way):
    """Over a sensible range of scales, on average over a few images, the loss only falls."""
    through, apply = way
    ends = []
    for scale in (0, 1, 4, 16) if through == "x0" else (0, 10, 40, 160):
        guidance = LossGuidance(blue, scale, through=through, apply=apply)
        seeds = [seed + k for k in range(3)]
        guided = run(embedded, guidance, images_per_prompt=3, seed=seeds, steps=6, prompt="a red circle")
        ends.append(float(blue(embedded.picture_of(guided.latents)).mean().detach()))
    assert ends == sorted(ends, reverse=True)
    assert ends[-1] < 0.8 * ends[0]


@settings(max_examples=2)
@given(seed=st.integers(0, 50))
def test_two_guidances_at_once_reach_a_lower_sum_than_either(embedded, seed):
    left = torch.zeros(64, 64)
    left[:, :32] = 1
    one, other = losses.colour("blue", left), losses.colour("yellow", 1 - left)
    hooks = [LossGuidance(loss, 30, start=1, clip=0.1, apply="sample") for loss in (one, other)]
    ends = []
    for chosen in (hooks[:1], hooks[1:], hooks):
        guided = run(
            embedded, *chosen, prompt="a red circle", images_per_prompt=3, steps=8, seed=[seed, seed + 1, seed + 2]
        )
        ends.append(float((one + other)(embedded.picture_of(guided.latents)).mean().detach()))
    assert ends[2] < min(ends[:2])


def test_images_of_a_batch_are_guided_each_by_itself(tiny):
    together = run(tiny, LossGuidance(blue, 5), prompt=["a star", "a ring"], seed=[1, 2])
    apart = [run(tiny, LossGuidance(blue, 5), prompt=text, seed=k) for text, k in (("a star", 1), ("a ring", 2))]
    torch.testing.assert_close(together.latents, torch.cat([own.latents for own in apart]), rtol=1e-4, atol=1e-4)


def test_from_a_picture(tiny):
    picture = Image.fromarray(np.full((16, 16, 3), 200, np.uint8))
    guidance = LossGuidance(blue, 20)
    guided = run(tiny, guidance, image=picture, strength=0.5, steps=6)
    plain = run(tiny, image=picture, strength=0.5, steps=6)
    assert guided[guidance].indices == [0, 1, 2]
    assert blue(tiny.picture_of(guided.latents)) < blue(tiny.picture_of(plain.latents))


def test_the_loss_may_look_at_the_step(tiny):
    asked = []

    def late(pictures, step):
        asked.append(step.index)
        return blue(pictures) * step.index

    guidance = LossGuidance(late, 1, start=1, stop=5, every=2)
    guided = run(tiny, guidance, steps=6)
    assert asked == guided[guidance].indices == [1, 3]
    assert len(guided[guidance].plot().axes) == 3


@given(scale=st.floats(1e-3, 10), weight=st.floats(1e-3, 1e3))
def test_normalized_scales_do_not_depend_on_the_loss(tiny, scale, weight):
    guidance = LossGuidance(lambda x: weight * blue(x), scale, normalize=True)
    guided = run(tiny, guidance, prompt=["a star", "a ring"])
    assert torch.allclose(guided[guidance].changes, torch.tensor(float(scale)), rtol=1e-3)


def test_clip_is_the_most_a_step_changes(tiny):
    free, held = LossGuidance(blue, 500), LossGuidance(blue, 500, clip=0.1)
    before = run(tiny, free)[free].changes
    after = run(tiny, held)[held].changes
    assert before[0] > 0.1
    assert torch.allclose(after[0], before[0].clamp_max(0.1))
    assert (after <= 0.1 * (1 + 1e-5)).all()


@pytest.mark.parametrize("through", ["x0", "model"])
def test_a_gradient_that_is_no_number_stops_or_is_skipped(tiny, through):
    def bad(pictures, step):
        poison = torch.tensor([float("nan") if step.index == 1 else 1.0, 1.0])
        return blue(pictures) * poison

    prompts = ["a star", "a ring"]
    before = footprint(tiny.pipe)
    with pytest.raises(FloatingPointError, match=r"at step 1 of 3, the gradient in LossGuidance\(.*image 0"):
        run(tiny, LossGuidance(bad, 5, through=through), prompt=prompts, steps=3)
    assert footprint(tiny.pipe) == before
    lenient = LossGuidance(bad, 5, through=through, bad="skip")
    guided = run(tiny, lenient, prompt=prompts, steps=3)
    assert guided[lenient].skipped == [(1, 0)]
    assert guided.latents.isfinite().all()
    assert torch.equal(guided[lenient].changes == 0, torch.tensor([[False, False], [True, False], [False, False]]))


def test_an_exploding_gradient_stops(tiny):
    with pytest.raises(FloatingPointError, match="would change the noise by"):
        run(tiny, LossGuidance(blue, 1e9))
    loose = LossGuidance(blue, 1e9, clip=1.0)
    assert run(tiny, loose)[loose].skipped == []


def test_the_model_stays_as_it_was(tiny):
    tiny.pipe.unet.train()
    tiny.pipe.vae.decoder.requires_grad_(False)
    before = footprint(tiny.pipe)
    flags = [getattr(m, "gradient_checkpointing", None) for m in tiny.pipe.unet.modules()]
    try:
        run(tiny, LossGuidance(blue, 1, through="model"))
        with pytest.raises(ZeroDivisionError):
            run(tiny, LossGuidance(lambda x: 1 / 0, 1, through="model"))
        assert footprint(tiny.pipe) == before
        assert [getattr(m, "gradient_checkpointing", None) for m in tiny.pipe.unet.modules()] == flags
    finally:
        tiny.pipe.unet.eval()
        tiny.pipe.vae.decoder.requires_grad_(True)


def test_what_is_no_loss_is_refused(tiny):
    with pytest.raises(ValueError, match="through is 'x0' or 'model', not 'unet'"):
        LossGuidance(blue, 1, through="unet")
    with pytest.raises(TypeError, match="a loss is a function"):
        LossGuidance("blue", 1)
    with pytest.raises(ValueError, match=r"one number for each of the 2 images, \[2\]; this gave .* \(\)"):
        run(tiny, LossGuidance(lambda x: x.mean(), 1), prompt=["a star", "a ring"])
    with pytest.raises(ValueError, match="has no gradient"):
        run(tiny, LossGuidance(lambda x: x.detach().mean((1, 2, 3)), 1))
