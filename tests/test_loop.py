"""The loop's settings: what they do, and which are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sdprobe
from tests.laws.strategies import affine, run, same_run


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be 1 or more, not 0"),
        ({"height": 20}, "multiples of 8, not 20"),
        ({"images_per_prompt": 0}, "images_per_prompt must be 1"),
        ({"seed": [1, 2]}, "2 seeds for 1 images"),
        ({"scheduler": "Eular"}, "'Eular' does not fit this pipeline; those that do: DDIMScheduler"),
        ({"latents": torch.zeros(1, 4, 4, 4)}, r"\(1, 4, 8, 8\), not \(1, 4, 4, 4\)"),
        ({"negative_prompt": ["a", "b"]}, "2 negative prompts for 1 prompts"),
        ({"steps": 2.5}, "steps is a whole number, not 2.5"),
        ({"steps": 2.0}, "steps is a whole number, not 2.0: write 2"),
        ({"width": 64.0}, "width is a whole number, not 64.0: write 64"),
        ({"height": 64.0}, "height is a whole number, not 64.0: write 64"),
        ({"images_per_prompt": 1.0}, "images_per_prompt is a whole number, not 1.0: write 1"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a finite number, not nan"),
        ({"guidance_scale": float("inf")}, "guidance_scale must be a finite number, not inf"),
        ({"latents": torch.full((1, 4, 8, 8), torch.nan)}, "latents must be finite: 256 of its 256 numbers are NaN"),
        ({"image": torch.zeros(1, 3, 16, 16), "strength": float("nan")}, "strength must be a finite number, not nan"),
        ({"seed": -1}, r"from 0 to 2\*\*64 - 1, not -1; torch takes it for 18446744073709551615"),
        ({"seed": 2**64}, r"from 0 to 2\*\*64 - 1, not 18446744073709551616"),
        ({"seed": torch.tensor(3.0)}, "seed is a whole number, not tensor"),
        ({"seed": 3.0}, "seed is a whole number, not 3.0"),
        ({"seed": "one"}, "seed is a whole number, not 'o'"),
        ({"strength": 0.5}, "no image is given"),
        ({"image": torch.zeros(3, 3, 16, 16)}, "3 pictures to start from for 1 prompts"),
        ({"image": torch.zeros(1, 3, 16, 16), "latents": torch.zeros(1, 4, 8, 8)}, "give one of them"),
        ({"image": torch.zeros(1, 3, 16, 16), "strength": 0.0}, "strength 0.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(tiny, settings, message):
    with pytest.raises(ValueError, match=message):
        run(tiny, **settings)


def test_a_setting_of_another_kind_is_refused(tiny):
    with pytest.raises(TypeError, match="guidance_scale is a number, not '7'"):
        run(tiny, guidance_scale="7")
    with pytest.raises(TypeError, match=r"latents are a tensor .*, not list"):
        run(tiny, latents=[0.0])


@pytest.mark.parametrize("seed", [torch.tensor(3), np.int64(3), np.array(3), np.uint8(3)])
def test_a_seed_may_be_a_whole_number_of_numpy_or_torch(tiny, seed):
    own = run(tiny, seed=seed)
    assert same_run(own, run(tiny, seed=3))
    assert type(own.seed) is int
    latents = torch.ones(1, 4, 8, 8)
    assert torch.equal(sdprobe.add_noise(tiny, latents, 0, seed=seed), sdprobe.add_noise(tiny, latents, 0, seed=3))


@pytest.mark.parametrize("seeds", [torch.tensor([3, 4]), np.array([3, 4]), (np.int64(3), torch.tensor(4))])
def test_seeds_may_be_an_array(tiny, seeds):
    own = run(tiny, seed=seeds, images_per_prompt=2)
    assert same_run(own, run(tiny, seed=[3, 4], images_per_prompt=2))
    assert own.seed == (3, 4)


@pytest.mark.parametrize("seed", [2**63, 2**64 - 1])
def test_every_seed_that_torch_takes(tiny, seed):
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    assert same_run(run(tiny, seed=seed), run(tiny, latents=noise))


def test_a_prompt_is_text(tiny):
    with pytest.raises(TypeError, match="prompt is a text or a list of texts"):
        run(tiny, prompt=[1])


@pytest.mark.parametrize("name", ["ddim", "DDIM", "DDIMScheduler"])
def test_schedulers_go_by_name(tiny, name):
    assert same_run(run(tiny, scheduler=name), run(tiny))


def test_guidance_of_one_and_below_is_none(tiny):
    rows = []

    class Rows(sdprobe.Observer):
        def model_output(self, x, step):
            rows.append((x.shape[0], {row.role for row in step.rows}))

    for scale in (0.0, 1.0, 1.5):
        run(tiny, Rows(), guidance_scale=scale, steps=1)
    assert rows == [(1, {"cond"}), (1, {"cond"}), (2, {"cond", "uncond"})]


def test_guidance_is_the_formula(tiny):
    class Keep(sdprobe.Observer):
        def start(self, run):
            self.kept = []

        def model_output(self, x, step):
            self.kept.append(x)

        def noise_pred(self, x, step):
            self.kept.append(x)

    keep = Keep()
    result = run(tiny, keep, guidance_scale=3.0, steps=1, images_per_prompt=2)
    output, guided = result[keep].kept
    uncond, cond = output[:2], output[2:]
    assert torch.equal(guided, uncond + 3.0 * (cond - uncond))


def test_the_progress_bar_can_be_turned_off(tiny, capsys):
    sdprobe.sample(tiny, "a star", steps=2, progress=False)
    assert capsys.readouterr().err == ""
    sdprobe.sample(tiny, "a star", steps=2)
    assert "2/2" in capsys.readouterr().err


def test_gradients_reach_the_latents_and_stop_there(tiny):
    """A transform that needs gradients finds the step's latents as a leaf under what the denoiser returns."""

    class Gradient(sdprobe.Transform):
        needs_grad = True

        def start(self, run):
            self.norms = []

        def noise_pred(self, x, step):
            (gradient,) = torch.autograd.grad(step.denoised(x).square().sum(), step.latents)
            self.norms.append(gradient.norm().item())
            return x

    hook = Gradient()
    before = [p.requires_grad for p in tiny.denoiser.parameters()]
    result = run(tiny, hook, steps=3)
    assert len(result[hook].norms) == 3
    assert min(result[hook].norms) > 0
    assert not result.latents.requires_grad
    assert [p.requires_grad for p in tiny.denoiser.parameters()] == before
    assert all(p.grad is None for p in tiny.denoiser.parameters())


def test_every_point_has_its_say(tiny):
    plain = run(tiny)
    for point in ("token_embeds", "prompt_embeds", "latents", "attention", "activation", "model_output", "noise_pred"):
        assert not same_run(run(tiny, affine(point, 2.0, 0.25)), plain), point


def test_final_latents_and_image_are_what_is_returned(tiny):
    plain = run(tiny)
    doubled = run(tiny, affine("final_latents", 2.0, 0.0))
    assert torch.equal(doubled.latents, plain.latents * 2)
    black = run(tiny, affine("image", 0.0, 0.0))
    assert torch.equal(black.latents, plain.latents)
    assert black.images[0].getextrema() == ((0, 0),) * 3


def test_the_step_knows_the_latents_as_they_enter_and_as_they_go_on(tiny):
    class Both(sdprobe.Transform):
        def start(self, run):
            self.entering, self.going_on = [], []

        def latents(self, x, step):
            self.entering.append(torch.equal(step.latents, x))
            return x * 2

        def noise_pred(self, x, step):
            self.going_on.append(step.latents)
            return x

    both, entered = Both(), sdprobe.LatentRecorder()
    result = run(tiny, both, entered)
    assert result[both].entering == [True, True]
    assert all(torch.equal(a, b) for a, b in zip(result[both].going_on, result[entered]["latents"], strict=True))


def test_numbers_of_numpy_are_numbers(tiny):
    assert same_run(run(tiny, seed=np.int64(3), steps=np.int32(2)), run(tiny, seed=3, steps=2))
    assert same_run(run(tiny, seed=np.array([3])), run(tiny, seed=[3]))
