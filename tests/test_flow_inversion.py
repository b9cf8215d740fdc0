"""Inversion of flows: Euler's step, its exact inverse, RF-Solver, and RF-Inversion."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import sdprobe
from sdprobe.sampling.invert import invert
from tests.families import FAMILIES

PICTURES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
NAMES = ("Stable Diffusion 3.5", "Flux.1 dev")


@cache
def model_of(family):
    return sdprobe.load(FAMILIES[family]())


def inverted_by(family, method, steps=5, **options):
    settings = {"guidance_scale": 3.0, "progress": False}
    return invert(
        model_of(family), PICTURES, ["a red star", "a ring"], steps=steps, method=method, **settings, **options
    )


def apart(inverted):
    """How far the latents of the reconstruction are from those of the pictures, at most, in their deviation."""
    latents = inverted.sample(progress=False).latents
    return float((latents - inverted.x0).abs().max() / inverted.x0.std())


@pytest.mark.parametrize("family", NAMES)
def test_a_fixed_point_is_exact_to_rounding(family):
    exact, plain = inverted_by(family, None), inverted_by(family, "euler")
    assert exact.method == "fixed-point"
    assert max(exact.residuals) < 1e-6
    assert apart(exact) < 2e-5 < 0.1 < apart(plain)
    assert exact.sample(progress=False).settings.scheduler == "FlowMatchEulerDiscreteScheduler"


@pytest.mark.parametrize("family", NAMES)
def test_the_second_order_shows_in_how_the_error_falls(family):
    """Twice the steps help RF-Solver more than Euler's method, and its error is the smaller one by far."""
    euler, solver = ([apart(inverted_by(family, m, steps=n)) for n in (5, 10)] for m in ("euler", "rf-solver"))
    assert solver[1] / solver[0] < euler[1] / euler[0] < 1
    assert solver[1] < euler[1] / 10


def test_rf_solver_is_the_taylor_expansion():
    """x + h v + h²/2 v′, with v′ from the velocities at the beginning and in the middle of the step."""
    kept = sdprobe.LatentRecorder(keep=("latents", "noise_pred"))
    inverted = inverted_by("Flux.1 dev", "rf-solver", steps=3)
    run = inverted.sample(hooks=[kept], progress=False)
    x, sigmas = inverted.latents, run.schedule.sigmas.tolist()
    for i in range(0, 6, 2):
        h = sigmas[i + 2] - sigmas[i]
        v, middle = run[kept].at(i)["noise_pred"], run[kept].at(i + 1)["noise_pred"]
        x = x + h * v + h**2 / 2 * (middle - v) / (h / 2)
        assert torch.allclose(run[kept].at(i + 1)["latents"], run[kept].at(i)["latents"] + h / 2 * v, atol=1e-5)
    assert torch.allclose(run.latents, x, atol=1e-5)


def test_rf_inversion_lies_between_plain_inversion_and_noise():
    model = model_of("Flux.1 dev")
    plain, none, full = (
        inverted_by("Flux.1 dev", "euler"),
        inverted_by("Flux.1 dev", "rf-inversion", gamma=0.0),
        inverted_by("Flux.1 dev", "rf-inversion", gamma=1.0, seed=7),
    )
    assert torch.equal(none.latents, plain.latents)
    assert torch.allclose(full.latents, model.noise_like(full.x0, 7), atol=1e-5)
    half = inverted_by("Flux.1 dev", "rf-inversion", until=1.0)
    free = inverted_by("Flux.1 dev", "rf-inversion", until=0.0)
    assert free.hooks == ()
    assert apart(half) < apart(inverted_by("Flux.1 dev", "rf-inversion", until=0.5)) < apart(free)
    assert apart(inverted_by("Flux.1 dev", "rf-inversion", until=1.0, eta=1.0)) < 1e-5


@pytest.mark.parametrize("method", ["fixed-point", "rf-solver", "rf-inversion"])
def test_in_a_stock_pipeline(method):
    pipe = FAMILIES["Stable Diffusion 3.5"]()
    pipe.set_progress_bar_config(disable=True)
    inverted = invert(pipe, PICTURES, "a star", steps=4, guidance_scale=3.0, method=method, progress=False)
    own = inverted.sample(progress=False)
    pipe.scheduler = inverted.scheduler
    with sdprobe.attach(pipe, inverted.hooks) as run:
        pipe(
            ["a star"] * 2,
            latents=inverted.latents,
            num_inference_steps=4,
            guidance_scale=3.0,
            height=16,
            width=16,
        )
    assert torch.equal(run.latents, own.latents)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_is_exact_to_that_rounding(dtype):
    model = sdprobe.load(FAMILIES["Flux.1 dev"]().to(dtype))
    inverted = invert(model, PICTURES, ["a red star", "a ring"], steps=5, guidance_scale=3.0, progress=False)
    latents = inverted.sample(progress=False).latents
    left = (latents - inverted.x0).float().square().mean().sqrt() / inverted.x0.float().square().mean().sqrt()
    assert float(left) < 1.5 * torch.finfo(dtype).eps


def test_a_share_of_steps_is_not_rounded_up_by_a_rounding_error():
    found = inverted_by("Flux.1 dev", "rf-inversion", steps=25, until=0.28)  # 0.28 · 25 is 7.000000000000001
    assert "steps=range(0, 7)" in repr(found.hooks[0])


def test_refused():
    flux = model_of("Flux.1 dev")
    for method, why in {
        "ddim": "this needs the noise levels of DDIM",
        "negative-prompt": "Flux is told the guidance scale as a number and reads no negative prompt",
        "null-text": "Flux has joint attention",
    }.items():
        with pytest.raises(ValueError, match=why):
            invert(flux, PICTURES, "a star", method=method, guidance_scale=3.0, progress=False)
    with pytest.raises(ValueError, match="gamma lies between 0 and 1, not at 2"):
        invert(flux, PICTURES, "a star", method="rf-inversion", gamma=2, progress=False)
