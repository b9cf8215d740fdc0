"""`Statistics`: the numbers are those of the tensors."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe import LatentRecorder, Statistics
from tests.laws.strategies import affine, run


class Outputs(sdprobe.Observer):
    def start(self, run):
        self.values = []

    def noise_pred(self, x, step):
        self.values.append((step.model_output[step.rows_of("cond")], step.model_output[step.rows_of("uncond")]))


def test_the_numbers_are_those_of_the_tensors(tiny):
    recorder, statistics = LatentRecorder(keep=("latents", "noise_pred", "denoised")), Statistics()
    result = run(tiny, recorder, statistics, steps=4, prompt=["a star", "a ring"], images_per_prompt=2)
    assert result[statistics].indices == [0, 1, 2, 3]
    for name in recorder.keep:
        flat = result[recorder][name].flatten(2).double()
        mean, std, norm = result[statistics][name]
        assert torch.allclose(mean.double(), flat.mean(2), atol=1e-6)
        assert torch.allclose(std.double(), flat.std(2), rtol=1e-5)
        assert torch.allclose(norm.double(), flat.square().sum(2).sqrt(), rtol=1e-5)


def test_the_cosine_is_that_of_each_image_with_and_without_its_prompt(tiny):
    """Rows are told apart by their labels: images of several prompts, several images of each."""
    outputs, statistics = Outputs(), Statistics()
    result = run(tiny, outputs, statistics, steps=3, prompt=["a star", "a ring"], images_per_prompt=2)
    for (cond, uncond), cosine in zip(result[outputs].values, result[statistics].cosine, strict=True):
        for i in range(4):
            a, b = cond[i].flatten().double(), uncond[i].flatten().double()
            assert torch.isclose(cosine[i].double(), a @ b / (a.norm() * b.norm()), atol=1e-6)


def test_the_prompt_of_nothing_makes_no_difference(tiny):
    statistics = Statistics()
    cosine = run(tiny, statistics, prompt="", guidance_scale=4.0)[statistics].cosine
    assert torch.allclose(cosine, torch.ones_like(cosine), atol=1e-5)


def test_what_transforms_made_is_measured(tiny):
    statistics = Statistics()
    flat = run(tiny, affine("model_output", 0.0, 0.5), statistics)[statistics]["noise_pred"]
    assert torch.equal(flat.mean, torch.full_like(flat.mean, 0.5))
    assert torch.equal(flat.std, torch.zeros_like(flat.std))


def test_without_guidance_there_is_nothing_to_compare(tiny):
    statistics = Statistics()
    result = run(tiny, statistics, guidance_scale=1.0, images_per_prompt=2)[statistics]
    assert result.cosine.shape == (2, 2)
    assert result.cosine.isnan().all()


def test_the_figure_shows_them(tiny):
    statistics = Statistics()
    own = run(tiny, statistics, steps=3)[statistics]
    mean, std, norm, cosine = own.plot().axes
    assert mean.lines[0].get_ydata().tolist() == own["latents"].mean.mean(1).tolist()
    assert std.lines[2].get_ydata().tolist() == own["denoised"].std.mean(1).tolist()
    assert norm.lines[1].get_ydata().tolist() == own["noise_pred"].norm.mean(1).tolist()
    assert cosine.lines[0].get_ydata().tolist() == own.cosine.mean(1).tolist()


def test_errors(tiny):
    statistics = Statistics()
    with pytest.raises(KeyError, match="'x0' is not measured; what is: latents, noise_pred, denoised"):
        run(tiny, statistics)[statistics]["x0"]
