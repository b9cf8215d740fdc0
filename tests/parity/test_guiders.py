"""The guiders of diffusers, on the same predictions, and its hooks in the same denoiser, step by step.

Equal to the last bit where nothing else is said.
"""

from __future__ import annotations

import math
import zlib

import diffusers.guiders as guiders
import pytest
import torch
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer
from diffusers.hooks import HookRegistry, LayerSkipConfig
from diffusers.hooks.layer_skip import TransformerBlockSkipHook, _apply_layer_skip_hook
from diffusers.hooks.smoothed_energy_guidance_utils import SmoothedEnergyGuidanceHook

import sdprobe
from tests.families import flux, pixart, stable_diffusion_3, stable_diffusion_xl
from tests.laws.strategies import run
from tests.parity.test_guidances import Guided
from tests.tiny import stable_diffusion

SETTINGS = {"steps": 3, "seed": 3, "guidance_scale": 4.0, "height": 16, "width": 16, "prompt": ["a star", "a ring"]}
FAMILIES = {
    "SD": stable_diffusion,
    "SDXL": stable_diffusion_xl,
    "SD3": stable_diffusion_3,
    "Flux": flux,
    "PixArt": pixart,
}


@pytest.fixture(scope="module", params=["SD", "SD3"])
def model(request):
    return sdprobe.load(FAMILIES[request.param]())


class Packed(guiders.MagnitudeAwareGuidance):
    """Its norms are over two axes at most, as packed latents have them."""

    def forward(self, cond, uncond):
        found = super().forward(cond.flatten(2), uncond.flatten(2))
        found.pred = found.pred.reshape(cond.shape)
        return found


PAIRS = {
    "zero star": (sdprobe.ZeroStarGuidance(zero_steps=1), guiders.ClassifierFreeZeroStarGuidance(4.0)),
    "zero star, scale 7": (
        sdprobe.ZeroStarGuidance(7.0, zero_steps=0),
        guiders.ClassifierFreeZeroStarGuidance(7.0, zero_init_steps=0),
    ),
    "zero star, scale 1": (
        sdprobe.ZeroStarGuidance(1.0, zero_steps=2),
        guiders.ClassifierFreeZeroStarGuidance(1.0, zero_init_steps=2),
    ),
    "tangential": (sdprobe.TangentialGuidance(), guiders.TangentialClassifierFreeGuidance(4.0)),
    "magnitude": (sdprobe.MagnitudeAwareGuidance(), Packed(4.0)),
    "magnitude, alpha 2": (sdprobe.MagnitudeAwareGuidance(9.0, alpha=2.0), Packed(9.0, alpha=2.0)),
}


@pytest.mark.parametrize("case", PAIRS)
def test_two_predictions(model, case):
    ours, guider = PAIRS[case]
    guided = Guided(guider)
    seen = run(model, ours, guided, **SETTINGS | {"width": 24})[guided]
    assert torch.equal(torch.stack(seen.ours), torch.stack(seen.theirs))


class GuidedWithMomentum(Guided):
    """In a space, whose buffer is new in every run."""

    def __init__(self, guider, space):
        super().__init__(guider)
        self.space = space

    def start(self, run):
        super().start(run)
        momentum = self.guider.adaptive_projected_guidance_momentum
        self.guider.momentum_buffer = None if momentum is None else MomentumBuffer(momentum)

    def noise_pred(self, x, step):
        given = [step.model_output[step.rows_of(role)] for role in ("cond", "uncond")]
        if self.space == "x0":
            x, *given = map(step.denoised, [x, *given])
        self.ours.append(x)
        self.theirs.append(self.guider.forward(*given).pred)


@pytest.mark.parametrize("space", ["output", "x0"])
@pytest.mark.parametrize(("momentum", "norm", "eta"), [(-0.5, 2.0, 0.0), (0.0, 2.0, 0.3), (-0.75, 0.0, 1.0)])
def test_adaptive_projected_guidance(model, space, momentum, norm, eta):
    """In x0 the guided prediction is found from the output again, so it is equal up to rounding."""
    guider = guiders.AdaptiveProjectedGuidance(
        6.0 - 1,
        adaptive_projected_guidance_momentum=momentum or None,
        adaptive_projected_guidance_rescale=norm,
        eta=eta,
        use_original_formulation=True,
    )
    ours = sdprobe.AdaptiveProjectedGuidance(6.0, momentum=momentum, norm=norm, eta=eta, space=space)
    guided = GuidedWithMomentum(guider, space)
    for _ in range(2):  # nothing is left of an earlier run
        seen = run(model, ours, guided, **SETTINGS)[guided]
        found, expected = torch.stack(seen.ours), torch.stack(seen.theirs)
        if space == "output":
            assert torch.equal(found, expected)
        else:
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("scales", "parallel"), [((10.0, 5.0), 1.0), ((9.0, 1.0), 1.0), ((5.0, 3.0), 0.5), ((5.0, 3.0), (0.2, 0.7))]
)
def test_frequency_decoupled_guidance(model, scales, parallel):
    """A level of scale 1 diffusers takes from another level, so ours is asked for what the scale is nearly."""
    weights = list(parallel) if isinstance(parallel, tuple) else parallel
    near = [scale + 1e-6 * (scale == 1) for scale in scales]
    guider = guiders.FrequencyDecoupledGuidance(near, parallel_weights=weights)
    guided = Guided(guider)
    seen = run(model, sdprobe.FrequencyDecoupledGuidance(scales, parallel=parallel), guided, **SETTINGS)[guided]
    torch.testing.assert_close(torch.stack(seen.ours), torch.stack(seen.theirs), rtol=1e-4, atol=1e-4)


class Hooked(sdprobe.Transform):
    """Asks what the denoiser says with hooks of diffusers in it, and what a guider makes of it; changes nothing."""

    def __init__(self, guider, put):
        self.guider, self.put = guider, put

    def start(self, run):
        self.expected = []

    def noise_pred(self, x, step):
        denoiser = step.run.model.denoiser
        self.put(denoiser, step)
        try:
            changed = step.predict(step.latents, role="cond")
        finally:
            HookRegistry.check_if_exists_or_initialize(denoiser).remove_hook("theirs", recurse=True)
            for module in [own for own in denoiser.modules() if hasattr(own, "_diffusers_hook")]:
                del module._diffusers_hook
        cond = step.model_output[step.rows_of("cond")]
        assert not torch.equal(changed, cond)
        told = [cond, step.model_output[step.rows_of("uncond")] if "uncond" in step.run.roles else None, changed]
        self.expected.append(self.guider.forward(*told).pred)
        return x


def compared(family, guider, put, ours, **settings):
    """The guided noise of each step, as diffusers makes it, and ours."""
    asked, recorder = Hooked(guider, put), sdprobe.LatentRecorder(keep=("noise_pred",))
    seen = run(sdprobe.load(FAMILIES[family]()), asked, ours, recorder, **SETTINGS | settings)
    return torch.stack(seen[asked].expected), seen[recorder]["noise_pred"]


BLOCKS = [
    ("SD", "mid_block.attentions.0.transformer_blocks", [0]),
    ("SDXL", "mid_block.attentions.0.transformer_blocks", [0, 1]),
    ("SD3", "transformer_blocks", [1]),
    ("Flux", "single_transformer_blocks", [0]),
    ("PixArt", "transformer_blocks", [0]),
]


@pytest.mark.parametrize(("family", "where", "numbers"), [own for own in BLOCKS if own[0] not in ("SD3", "Flux")])
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_skip_layer_guidance(family, where, numbers, guidance_scale):
    guider = guiders.SkipLayerGuidance(
        0.0 if guidance_scale == 1 else guidance_scale,
        skip_layer_guidance_scale=2.8,
        skip_layer_guidance_layers=numbers,
        use_original_formulation=guidance_scale == 1,
    )
    config = LayerSkipConfig(numbers, where)
    put = lambda denoiser, step: _apply_layer_skip_hook(denoiser, config, "theirs")  # noqa: E731
    expected, found = compared(family, guider, put, sdprobe.SkipLayerGuidance(2.8), guidance_scale=guidance_scale)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("blocks", [[0], [1], [0, 2]])
def test_skip_layer_guidance_of_stable_diffusion_3(blocks):
    """Its pipeline has it as an option; the hook of diffusers gives the two streams of such a block in wrong order."""
    pipe = stable_diffusion_3()
    pipe.set_progress_bar_config(disable=True)
    settings = {"prompt": "a star", "guidance_scale": 4.0, "height": 16, "width": 24}
    option = {"skip_guidance_layers": blocks, "skip_layer_guidance_start": 0.2, "skip_layer_guidance_stop": 0.8}
    asked = {**settings, **option, "num_inference_steps": 5, "skip_layer_guidance_scale": 2.8, "output_type": "latent"}
    expected = pipe(**asked, generator=torch.Generator().manual_seed(3)).images
    slg = sdprobe.SkipLayerGuidance(2.8, modules=[f"transformer_blocks.{number}" for number in blocks])
    ours = run(sdprobe.load(pipe), sdprobe.only(slg, steps={2, 3}), steps=5, seed=3, **settings).latents
    assert torch.equal(ours, expected)


def their_blur(where, numbers, sigma):
    """Their hook: below its threshold it takes the mean, so for a blur the threshold is put below sigma."""

    def put(denoiser, step):
        for number in numbers:
            for name, module in denoiser.get_submodule(f"{where}.{number}").named_modules():
                if name in ("attn1.to_q", "attn.to_q"):
                    hook = SmoothedEnergyGuidanceHook(sigma or 1.0, 9999.9 if sigma is None else -1.0)
                    HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, "theirs")

    return put


@pytest.mark.parametrize("sigma", [None, 1.0])
@pytest.mark.parametrize(("family", "where", "numbers"), [*BLOCKS[:3], ("Flux", "transformer_blocks", [0]), BLOCKS[4]])
def test_smoothed_energy_guidance(family, where, numbers, sigma):
    """Their kernel is of two dimensions, and ours is one of each, so it is the same up to rounding."""
    guider = guiders.SmoothedEnergyGuidance(
        0.0 if family == "Flux" else 4.0,
        seg_guidance_scale=3.0,
        seg_guidance_layers=numbers,
        use_original_formulation=family == "Flux",
    )
    ours = sdprobe.SmoothedEnergyGuidance(3.0, sigma, modules=[f"{where}.{number}.*" for number in numbers])
    expected, found = compared(family, guider, their_blur(where, numbers, sigma), ours)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


class TwoGiven(guiders.AutoGuidance):
    """Its weak prediction is the last of those given."""

    def forward(self, cond, uncond, weak):
        return super().forward(cond, weak)


@pytest.mark.parametrize("family", ["SD", "PixArt"])
@pytest.mark.parametrize("dropout", [1.0, 0.3])
def test_auto_guidance(family, dropout):
    """Their hook of a block uses torch's own generator, which is set here as ours is. It is equal up to rounding."""
    (where,) = (where for own, where, _ in BLOCKS if own == family)
    guider = TwoGiven(2.5, auto_guidance_layers=[0], dropout=dropout)

    def put(denoiser, step):
        block = denoiser.get_submodule(f"{where}.0")
        HookRegistry.check_if_exists_or_initialize(block).register_hook(TransformerBlockSkipHook(dropout), "theirs")
        torch.manual_seed(zlib.crc32(f"7 {where}.0 hidden 0 {step.index}".encode()))

    ours = sdprobe.AutoGuidance(2.5, dropout=dropout, seed=7)
    with torch.random.fork_rng():
        expected, found = compared(family, guider, put, ours, guidance_scale=1.0, prompt="a star")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_hook_of_diffusers_swaps_the_streams_of_a_block():
    """If this fails, it does not any more, and Stable Diffusion 3 and Flux can be tested with the other families."""
    block = stable_diffusion_3().transformer.transformer_blocks[0]
    image, text = torch.zeros(1, 4, 16), torch.ones(1, 3, 16)
    registry = HookRegistry.check_if_exists_or_initialize(block)
    registry.register_hook(TransformerBlockSkipHook(1.0), "theirs")
    given = block(hidden_states=image, encoder_hidden_states=text, temb=None)
    assert given[0] is image  # where the block itself gives text, image


def test_the_guider_of_diffusers_swaps_the_cases_of_sigma():
    """If this fails, it does not any more, and the docstring of SmoothedEnergyGuidance is to be corrected."""
    given = torch.arange(32.0).reshape(1, 16, 2)
    below = SmoothedEnergyGuidanceHook(1.0).post_forward(None, given.clone())
    assert torch.equal(below, given.mean(1, keepdim=True).expand_as(given))
    above = SmoothedEnergyGuidanceHook(1e4).post_forward(None, given.clone())
    assert not torch.allclose(above, below)
    with pytest.raises(OverflowError):
        SmoothedEnergyGuidanceHook(math.inf).post_forward(None, given.clone())
