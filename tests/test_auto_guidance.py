"""`AutoGuidance`: away from a weaker model's prediction, or from the model's own with dropout."""

from __future__ import annotations

import copy
import pickle
from functools import lru_cache

import pytest
import torch

import sdprobe
from sdprobe import AutoGuidance, SkipLayerGuidance, only
from sdprobe.testing import footprint
from tests.families import FAMILIES, stable_diffusion_xl
from tests.grid import attached
from tests.laws.strategies import run, same_run
from tests.tiny import stable_diffusion

SHOWN = ["Stable Diffusion 1", "Stable Diffusion XL", "Stable Diffusion 3.5", "Flux.1 dev", "PixArt-Σ"]


@lru_cache
def pair(family):
    """A model, and one that is another."""
    model, weaker = (sdprobe.load(FAMILIES[family]()) for _ in range(2))
    with torch.no_grad():
        for k, parameter in enumerate(weaker.denoiser.parameters()):
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(k)))
    run(weaker, steps=1, height=16, width=16)  # the first call of Flux's network sets an attribute of it
    return model, weaker


class Beside(sdprobe.Transform):
    """What the other network says of the arguments that the run's own was given last; changes nothing."""

    def __init__(self, network, told):
        self.network, self.told = network, told

    def start(self, run):
        self.cond, self.weak = [], []

    def model_output(self, x, step):
        args, kwargs = self.told[-1]
        found = self.network(*args, **kwargs)
        found = found[0] if isinstance(found, tuple) else found.sample
        if found.ndim == 3:  # Flux: the four places of a patch are packed
            h, w = (size // 2 for size in x.shape[-2:])
            found = found.reshape(-1, h, w, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)
        self.weak.append(found[:, : x.shape[1]])
        self.cond.append(x)
        return x


@pytest.mark.parametrize("family", SHOWN)
@pytest.mark.parametrize("way", [sdprobe.sample, attached], ids=["sample", "attach"])
def test_the_weaker_model_is_given_the_same(family, way):
    model, weaker = pair(family)
    before, told = footprint(weaker.pipe), []
    beside, recorder = Beside(weaker.denoiser, told), sdprobe.LatentRecorder(keep=("noise_pred",))
    settings = {"steps": 2, "guidance_scale": 1.0, "seed": 0, "height": 16, "width": 24, "progress": False}
    hooks = [beside, AutoGuidance(3.0, weaker), recorder]
    hear = model.denoiser.register_forward_pre_hook(lambda _, *given: told.append(given), with_kwargs=True)
    try:
        seen = way(model, ["a star", "a ring"], hooks=hooks, **settings)
    finally:
        hear.remove()
    for cond, weak, found in zip(seen[beside].cond, seen[beside].weak, seen[recorder]["noise_pred"], strict=True):
        assert not torch.allclose(cond, weak, atol=1e-3)
        torch.testing.assert_close(found, weak + 3.0 * (cond - weak), rtol=1e-4, atol=1e-4)
    assert footprint(weaker.pipe) == before


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("scheduler", ["EulerDiscrete", "HeunDiscrete"])
def test_in_the_scale_of_the_scheduler_and_with_guidance(guidance_scale, scheduler):
    """The model itself as its own weaker one is no guidance; with other weights it is one."""
    model, weaker = pair("Stable Diffusion 1")
    case = {"guidance_scale": guidance_scale, "scheduler": scheduler, "prompt": ["a star", "a ring"]}
    twin = sdprobe.load(stable_diffusion())
    plain = run(model, **case).latents
    torch.testing.assert_close(run(model, AutoGuidance(3.0, twin), **case).latents, plain, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(run(model, AutoGuidance(3.0, weaker), **case).latents, plain, rtol=1e-2, atol=1e-2)


def test_limited_to_a_picture_and_to_steps():
    model, weaker = pair("Stable Diffusion 1")
    case = {"prompt": ["a star", "a ring"]}
    for hook in (AutoGuidance(2.0, weaker), AutoGuidance(2.0, dropout=0.2)):
        plain, whole, part = (run(model, *own, **case) for own in ([], [hook], [only(hook, rows=[1])]))
        assert torch.equal(part.latents[0], plain.latents[0])
        torch.testing.assert_close(part.latents[1], whole.latents[1], rtol=1e-4, atol=1e-4)
        assert not torch.equal(part.latents[1], plain.latents[1])
        hook.scale = lambda step: 1.0 + (step.index == 1)
        by_step = run(model, hook, **case)
        hook.scale = 2.0
        assert same_run(by_step, run(model, only(hook, steps={1}), **case))


def test_a_pickle_holds_no_model():
    model, weaker = pair("Stable Diffusion 1")
    hook = AutoGuidance(2.0, weaker)
    kept = pickle.loads(pickle.dumps(run(model, hook)))
    assert torch.equal(kept.latents, run(model, hook).latents)
    with pytest.raises(ValueError, match="a pickle holds no model: give this hook its weaker model again, StableDiff"):
        run(model, pickle.loads(pickle.dumps(hook)))


def test_a_deep_copy_has_the_same_weaker_model():
    model, weaker = pair("Stable Diffusion 1")
    hook = AutoGuidance([2.0, 1.5], weaker)
    copied = copy.deepcopy(hook)
    assert copied.weaker is weaker
    assert same_run(run(model, copied), run(model, hook))


def test_dropout_repeats_and_is_that_of_its_seed(tiny):
    state = torch.random.get_rng_state()
    one, again, other = (run(tiny, AutoGuidance(modules="*", dropout=0.2, seed=seed)) for seed in (0, 0, 1))
    assert same_run(one, again)
    assert not same_run(one, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_all_dropped_is_skip_layer_guidance(tiny):
    """Whose scale is how far it goes beyond the prediction."""
    assert same_run(run(tiny, AutoGuidance(3.0, dropout=1)), run(tiny, SkipLayerGuidance(2.0)))
    assert same_run(run(tiny, AutoGuidance(1.0)), run(tiny))


def test_errors(tiny):
    weaker = sdprobe.load(stable_diffusion("v_prediction"))
    with pytest.raises(ValueError, match="its prediction type is v_prediction, and that of the run's model epsilon"):
        run(tiny, AutoGuidance(weaker=weaker))
    with pytest.raises(
        ValueError, match="its family is StableDiffusionXL, and that of the run's model StableDiffusion"
    ):
        run(tiny, AutoGuidance(weaker=sdprobe.load(stable_diffusion_xl())))
    with pytest.raises(ValueError, match="the weaker model is the run's own"):
        run(tiny, AutoGuidance(weaker=tiny))
    with pytest.raises(ValueError, match="with a weaker model there is no dropout"):
        AutoGuidance(weaker=tiny, dropout=0.1)
    with pytest.raises(ValueError, match="dropout is above 0 and up to 1, not 0"):
        AutoGuidance(dropout=0)
    with pytest.raises(TypeError, match=r"weaker is the result of sdprobe\.load, not 'sd-tiny'"):
        AutoGuidance(weaker="sd-tiny")
    with pytest.raises(ValueError, match="'mid' matches none of the model's blocks"):
        run(tiny, AutoGuidance(modules="mid"))
