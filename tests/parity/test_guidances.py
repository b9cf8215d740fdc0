"""Guidances that diffusers has too, as a pipeline, a guider or an option of a scheduler, give what diffusers gives.

Its perturbed rows stand in one batch with the others, ours in a further call; its self-attention is another kernel. So
in single precision results agree to rounding; in double precision it is seen that nothing else is between them.
"""

from __future__ import annotations

from contextlib import contextmanager
from inspect import signature

import diffusers
import pytest
import torch
from diffusers import (
    ClassifierFreeGuidance,
    PerturbedAttentionGuidance,
    PixArtSigmaPAGPipeline,
    PixArtSigmaPipeline,
    StableDiffusion3PAGPipeline,
    StableDiffusionPAGImg2ImgPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionSAGPipeline,
    StableDiffusionXLPAGPipeline,
)
from PIL import Image

import sdprobe
from sdprobe import Guidance, RescaleGuidance, only
from sdprobe.testing.stock_call import RENAMED
from sdprobe.transform.guidances.dynamic_threshold import DynamicThreshold
from sdprobe.transform.guidances.perturbed_attention import PerturbedAttention
from sdprobe.transform.guidances.self_attention_guidance import SelfAttentionGuidance
from tests.families import pixart, stable_diffusion_3, stable_diffusion_xl
from tests.laws.strategies import run, within
from tests.parity.test_stable_diffusion import CASES
from tests.tiny import stable_diffusion

SETTINGS = {"prompt": "a red circle", "steps": 5, "seed": 3, "guidance_scale": 4.0}
ROUNDING = {"rtol": 1e-4, "atol": 1e-4}
MODELS = {
    "epsilon": stable_diffusion,
    "v": lambda: stable_diffusion("v_prediction"),
    "embedded": lambda: sdprobe.load().pipe,
}
THRESHOLDING = [
    ("DDPM", {}),
    ("DPMSolverMultistep", {"algorithm_type": "dpmsolver++"}),
    ("DPMSolverMultistep", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    ("DPMSolverSinglestep", {}),
    ("UniPCMultistep", {}),
    ("DEISMultistep", {}),
    ("SASolver", {}),
]


@contextmanager
def precise(pipe):
    """While this is open, the pipeline computes in double precision."""
    parts = (pipe.unet, pipe.vae, pipe.text_encoder)
    try:
        for part in parts:
            part.double()
        yield
    finally:
        for part in parts:
            part.float()


def theirs(kind, model, settings, scheduler=None, **extra):
    """Final latents of a pipeline of diffusers on the same parts."""
    changed = {"requires_safety_checker": False, **extra.pop("made_with", {})}
    pipe = kind(**model.pipe.components, **changed)
    pipe.scheduler = (scheduler or type(model.pipe.scheduler)).from_config(model.pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    given = {RENAMED.get(key, key): value for key, value in settings.items() if key != "seed"}
    if isinstance(given.get("prompt"), list) and "negative_prompt" in given:
        given["negative_prompt"] = [given["negative_prompt"]] * len(given["prompt"])
    generator = torch.Generator("cpu").manual_seed(settings["seed"])
    return pipe(**given, **extra, generator=generator, output_type="latent").images


def perturbed(model, settings, pag_applied_layers="mid", kind=StableDiffusionPAGPipeline, **extra):
    return theirs(kind, model, settings, made_with={"pag_applied_layers": pag_applied_layers}, **extra)


@pytest.fixture(params=MODELS)
def model(request):
    return sdprobe.load(MODELS[request.param]())


def assert_close(ours, expected, plain):
    """Equal up to rounding in single precision, and far from what it is without the guidance."""
    torch.testing.assert_close(ours, expected, **ROUNDING)
    assert (ours - plain).abs().max() > 1e-2


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize("case", CASES)
def test_perturbed_attention(tiny, guidance_scale, case):
    settings = SETTINGS | {"guidance_scale": guidance_scale} | CASES[case]
    ours = run(tiny, PerturbedAttention(3.0), **settings).latents
    assert_close(ours, perturbed(tiny, settings, pag_scale=3.0), run(tiny, **settings).latents)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize(
    ("make", "kind", "layers"),
    [
        (stable_diffusion_xl, StableDiffusionXLPAGPipeline, "mid"),
        (lambda: stable_diffusion_3(dual=False), StableDiffusion3PAGPipeline, "blocks.1"),
        (lambda: pixart(PixArtSigmaPipeline), PixArtSigmaPAGPipeline, "blocks.0"),
    ],
)
def test_perturbed_attention_of_other_families(make, kind, layers, guidance_scale):
    """The middle block of SD3's three is the second, and PixArt's one block is its middle."""
    model = sdprobe.load(make())
    parts = {name: part for name, part in model.pipe.components.items() if name in signature(kind).parameters}
    pipe = kind(**parts, pag_applied_layers=layers)
    pipe.set_progress_bar_config(disable=True)
    own = {"use_resolution_binning": False} if kind is PixArtSigmaPAGPipeline else {}
    settings = {"guidance_scale": guidance_scale, "height": 16, "width": 16}
    asked = {**settings, **own, "num_inference_steps": 3, "output_type": "latent"}
    expected = pipe("a star", generator=torch.Generator().manual_seed(3), pag_scale=2.0, **asked).images
    ours, plain = (
        run(model, *hooks, prompt="a star", steps=3, seed=3, **settings).latents
        for hooks in ([PerturbedAttention(2.0)], [])
    )
    assert_close(ours, expected, plain)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_perturbed_attention_in_double_precision(model, guidance_scale):
    settings = SETTINGS | {"guidance_scale": guidance_scale}
    with precise(model.pipe):
        ours = run(model, PerturbedAttention(3.0), **settings).latents
        plain = run(model, **settings).latents
        expected = perturbed(model, settings, pag_scale=3.0)
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)
    assert (ours - plain).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("layers", "modules"),
    [
        (["down", "mid"], ("down_blocks.*", "mid_block.*")),
        ("blocks.1", ("*_blocks.1.*",)),
        (["up_blocks.0.attentions.0"], "up_blocks.0.attentions.0.*"),
    ],
)
def test_perturbed_attention_of_other_layers(tiny, layers, modules):
    expected = perturbed(tiny, SETTINGS, layers, pag_scale=2.0)
    assert_close(
        run(tiny, PerturbedAttention(2.0, modules), **SETTINGS).latents, expected, run(tiny, **SETTINGS).latents
    )


def test_perturbed_attention_with_what_is_composed(tiny):
    """The pipeline's options for it are a function of the step, and another hook."""
    fading = PerturbedAttention(lambda step: max(3.0 - 0.004 * (1000 - step.timestep), 0))
    own, rescale = PerturbedAttention(3.0), RescaleGuidance(0.7)
    expected = perturbed(tiny, SETTINGS, pag_scale=3.0, pag_adaptive_scale=0.004)
    assert_close(run(tiny, fading, **SETTINGS).latents, expected, run(tiny, own, **SETTINGS).latents)
    expected = perturbed(tiny, SETTINGS, pag_scale=3.0, guidance_rescale=0.7)
    assert_close(run(tiny, own, rescale, **SETTINGS).latents, expected, run(tiny, own, **SETTINGS).latents)


@pytest.mark.parametrize("name", ["EulerDiscrete", "DPMSolverMultistep", "EulerAncestralDiscrete"])
def test_perturbed_attention_with_other_schedulers(tiny, name):
    kind = getattr(diffusers, f"{name}Scheduler")
    expected = perturbed(tiny, SETTINGS, pag_scale=3.0, scheduler=kind)
    ours = run(tiny, PerturbedAttention(3.0), scheduler=name, **SETTINGS).latents
    assert_close(ours, expected, run(tiny, scheduler=name, **SETTINGS).latents)


def test_perturbed_attention_from_a_picture(tiny):
    settings = SETTINGS | {"image": Image.new("RGB", (16, 16), (200, 40, 90)), "strength": 0.6}
    expected = perturbed(tiny, settings, kind=StableDiffusionPAGImg2ImgPipeline, pag_scale=3.0)
    assert_close(run(tiny, PerturbedAttention(3.0), **settings).latents, expected, run(tiny, **settings).latents)


def terms_of_noise(pipe):
    """Until removed: a network that answers with velocities is asked for noise."""
    alphas = pipe.scheduler.alphas_cumprod.double()

    def convert(unet, args, output):
        x, timestep = args[:2]
        signal, noise = alphas[int(timestep)] ** 0.5, (1 - alphas[int(timestep)]) ** 0.5
        velocity = output[0] if isinstance(output, tuple) else output.sample
        found = (signal * velocity + noise * x).to(x.dtype)
        return (found,) if isinstance(output, tuple) else type(output)(found)

    return pipe.unet.register_forward_hook(convert)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_self_attention_guidance(tiny, guidance_scale, case):
    settings = SETTINGS | {"guidance_scale": guidance_scale} | CASES[case]
    ours = run(tiny, SelfAttentionGuidance(0.75), **settings).latents
    expected = theirs(StableDiffusionSAGPipeline, tiny, settings, sag_scale=0.75)
    assert_close(ours, expected, run(tiny, **settings).latents)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_self_attention_guidance_in_double_precision(model, guidance_scale):
    """Whatever the network answers in, it is the noise that is guided: theirs is asked for noise, ours need not be."""
    settings = SETTINGS | {"guidance_scale": guidance_scale}
    velocity = model.pipe.scheduler.config.prediction_type == "v_prediction"
    with precise(model.pipe):
        ours = run(model, SelfAttentionGuidance(0.75), **settings).latents
        pipe = type(model.pipe)(**model.pipe.components, requires_safety_checker=False)
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type="epsilon")
        handle = terms_of_noise(model.pipe) if velocity else None
        expected = theirs(StableDiffusionSAGPipeline, sdprobe.load(pipe), settings, sag_scale=0.75)
        if handle is not None:
            handle.remove()
        plain = run(model, **settings).latents
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=3e-5)  # its scheduler's levels are of single precision
    assert (ours - plain).abs().max() > 0.1


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(("name", "options"), THRESHOLDING, ids=lambda value: str(value))
def test_thresholds_of_schedulers(name, options, prediction_type):
    model = sdprobe.load(stable_diffusion(prediction_type))
    kind = getattr(diffusers, f"{name}Scheduler")
    config = model.pipe.scheduler.config
    thresholding = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1e9}
    scheduler, own = kind.from_config(config, **options, **thresholding), kind.from_config(config, **options)
    expected = run(model, scheduler=scheduler, **SETTINGS).latents
    plain = run(model, scheduler=own, **SETTINGS).latents
    ours = run(model, DynamicThreshold(0.9), scheduler=own, **SETTINGS).latents
    assert_close(ours, expected, plain)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_thresholds_of_ddim_with_its_noise_found_anew(prediction_type):
    model = sdprobe.load(stable_diffusion(prediction_type))
    thresholding = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1e9}
    scheduler = type(model.pipe.scheduler).from_config(model.pipe.scheduler.config, **thresholding)
    scheduler.set_timesteps(SETTINGS["steps"])

    class Beside(sdprobe.Observer):
        """What diffusers' own step makes of the same noise, step by step."""

        def start(self, run):
            self.ours, self.theirs = [], []

        def latents(self, x, step):
            self.ours.append(x)

        def model_output(self, x, step):
            timestep = scheduler.timesteps[step.index]
            given = step.run.model.guide(x, step.rows, SETTINGS["guidance_scale"])
            made = scheduler.step(given, timestep, step.latents, use_clipped_model_output=True)
            self.theirs.append(made.prev_sample)

        def final_latents(self, x, run):
            self.ours.append(x)

    beside = Beside()
    both = run(model, DynamicThreshold(0.9), beside, **SETTINGS)[beside]
    torch.testing.assert_close(torch.stack(both.ours[1:]), torch.stack(both.theirs), **ROUNDING)


class Guided(sdprobe.Observer):
    """What the scheduler is given at each step, and what a guider of diffusers makes of the same predictions."""

    def __init__(self, guider):
        self.guider = guider

    def start(self, run):
        self.ours, self.theirs = [], []

    def noise_pred(self, x, step):
        predictions = [step.model_output[step.rows_of(role)] for role in ("cond", "uncond")]
        self.guider.set_state(step.index, step.total, torch.tensor(step.timestep))
        self.ours.append(x)
        self.theirs.append(self.guider.forward(*predictions).pred)


@pytest.mark.parametrize(("start", "stop"), [(0.0, 1.0), (0.0, 0.5), (0.2, 0.8), (0.5, 1.0)])
def test_guidance_in_an_interval(tiny, start, stop):
    steps = 10
    inside = range(int(start * steps), int(stop * steps))
    limited = within(Guidance(1.0), steps=set(range(steps)) - set(inside))
    guided = Guided(ClassifierFreeGuidance(guidance_scale=4.0, start=start, stop=stop))
    seen = run(tiny, limited, guided, **SETTINGS | {"steps": steps})[guided]
    for index, (ours, expected) in enumerate(zip(seen.ours, seen.theirs, strict=True)):
        if index in inside:
            assert torch.equal(ours, expected)
        else:  # uncond + 1 · (cond − uncond) is cond up to rounding
            torch.testing.assert_close(ours, expected)


def test_rescaled_guidance_in_an_interval(tiny):
    limited = only(Guidance(1.0), steps=range(3))
    guided = Guided(ClassifierFreeGuidance(guidance_scale=4.0, guidance_rescale=0.7, start=0.6))
    seen = run(tiny, limited, RescaleGuidance(0.7), guided, **SETTINGS)[guided]
    torch.testing.assert_close(torch.stack(seen.ours), torch.stack(seen.theirs))


def test_an_interval_of_noise_levels(tiny):
    """Kynkäänniemi et al. 2024, eq. 5 and 6: in terms of x0, guided for noise levels in (low, high] alone."""
    low, high, scale = 0.5, 5.0, 4.0

    class Denoised(sdprobe.Observer):
        def start(self, run):
            self.inside = []

        def noise_pred(self, x, step):
            cond, uncond = (step.denoised(step.model_output[step.rows_of(role)]) for role in ("cond", "uncond"))
            now = low < step.sigma <= high
            weight = scale if now else 1.0
            torch.testing.assert_close(step.denoised(x), weight * cond + (1 - weight) * uncond, rtol=1e-3, atol=1e-3)
            self.inside.append(now)

    denoised = Denoised()
    limited = only(Guidance(1.0), steps=lambda step: not low < step.sigma <= high)
    inside = run(tiny, limited, denoised, **SETTINGS | {"steps": 10})[denoised].inside
    assert not inside[0]
    assert any(inside)
    assert not inside[-1]


class Alone(sdprobe.Transform):
    """In the middle, every place attends to itself alone."""

    modules, kinds = ("mid_block.*",), ("self",)

    def attention(self, attn, site):
        return attn.with_probs(torch.eye(attn.key.shape[-2]).repeat(*attn.query.shape[:2], 1, 1))


class Perturbed(sdprobe.Transform):
    """Asks what perturbed self-attention says, and what a guider of diffusers makes of it; changes nothing."""

    def __init__(self, guider):
        self.guider = guider

    def start(self, run):
        self.expected = []

    def noise_pred(self, x, step):
        predictions = [step.model_output[step.rows_of(role)] for role in ("cond", "uncond")]
        self.guider.set_state(step.index, step.total, torch.tensor(step.timestep))
        self.expected.append(self.guider.forward(*predictions, step.predict(step.latents, Alone(), role="cond")).pred)
        return x


def test_the_guider_of_perturbed_attention(tiny):
    """Its three terms in its order, so to the last bit."""
    own_range = {"perturbed_guidance_start": 0.0, "perturbed_guidance_stop": 1.0}  # its first step it leaves out itself
    guider = PerturbedAttentionGuidance(4.0, perturbed_guidance_scale=3.0, perturbed_guidance_layers=[0], **own_range)
    asked, recorder = Perturbed(guider), sdprobe.LatentRecorder(keep=("noise_pred",))
    late = only(PerturbedAttention(3.0), steps=range(1, 5))
    seen = run(tiny, asked, late, recorder, **SETTINGS)
    assert torch.equal(torch.stack(seen[asked].expected), seen[recorder]["noise_pred"])
