"""Fixed-point iteration: each step to noise is the inverse of the sampler's step."""

from __future__ import annotations

import warnings

import diffusers
import pytest
import torch
from PIL import Image

import sdprobe
from sdprobe.sampling.invert import invert
from sdprobe.shapes import scene
from tests.tiny import stable_diffusion

PICTURE = Image.radial_gradient("L").resize((16, 16)).convert("RGB")


def quietly(*args, **settings):
    """Invert, whether the iteration converges or not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return invert(*args, progress=False, **settings)


def test_iterations_converge_to_the_exact_inverse():
    """The default is one iteration; with more, each step of DDIM leads back to the latents that it came from."""
    pipe = stable_diffusion()
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(0.02)  # what it predicts changes little with the latents
    one, plain = (invert(pipe, PICTURE, "a star", steps=4, progress=False, **o) for o in ({"iterations": 1}, {}))
    assert torch.equal(one.latents, plain.latents)
    assert one.residuals == ()
    many = invert(pipe, PICTURE, "a star", steps=4, iterations=20, progress=False)
    assert max(many.residuals) < 1e-6
    apart = [float((own.sample(progress=False).latents - own.x0).abs().max()) for own in (plain, many)]
    assert apart[1] < 1e-4 < apart[0]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_exact_inverse_of_what_a_network_may_predict(prediction):
    """Also from a level without signal, which epsilon does not have."""
    pipe, silent = stable_diffusion(prediction_type=prediction), prediction != "epsilon"
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(0.02)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing", rescale_betas_zero_snr=silent, set_alpha_to_one=False
    )
    # Between levels of little noise, predicted x0 converges slowly: by 1 - σ/σ' in each iteration.
    one, many = (quietly(pipe, PICTURE, "a star", steps=4, iterations=count) for count in (1, 300))
    end = many.run.schedule.signal[-1]
    assert (end == 0) == silent
    apart = [float((own.sample(progress=False).latents - own.x0).abs().max() / own.x0.std()) for own in (one, many)]
    assert apart[1] < 1e-4 < apart[0]
    assert max(many.residuals) < 2e-6


def test_in_half_precision_it_goes_on_to_the_rounding():
    model, own = sdprobe.load(dtype=torch.bfloat16), scene(900)
    inverted = quietly(model, own.image, own.caption, steps=10, iterations=30)
    assert float(inverted.psnr(inverted.sample(progress=False))) > 30  # dB
    assert max(inverted.residuals) < torch.finfo(torch.bfloat16).eps


def test_a_hook_that_the_iterations_bypass_is_told(tiny):
    away = sdprobe.only(sdprobe.SkipLayerGuidance(2.0), steps=range(4))
    with pytest.warns(UserWarning, match=r"acts at 'noise_pred', once in each step of the inversion, and not in the"):
        invert(tiny, PICTURE, "a star", steps=2, iterations=2, hooks=[away], progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        invert(tiny, PICTURE, "a star", steps=2, hooks=[away], progress=False)


def test_an_iteration_that_does_not_converge_says_so(embedded):
    with pytest.warns(UserWarning, match=r"has not converged in \d of 3 steps: after 2 iterations, the last one still"):
        inverted = invert(embedded, scene(900).image, "a star", steps=3, iterations=2, progress=False)
    assert max(inverted.residuals) > 1e-4
