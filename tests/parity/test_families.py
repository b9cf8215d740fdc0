"""Every family is diffusers' own pipeline, bit for bit, with no hooks and with every observer."""

from __future__ import annotations

import math
from inspect import signature
from typing import Any

import diffusers
import pytest
import torch
from diffusers import LCMScheduler, PixArtAlphaPipeline, PixArtSigmaPipeline
from torch import Tensor

import sdprobe
from sdprobe.core.hook import POINTS
from sdprobe.testing import footprint
from sdprobe.testing.stock_call import call_stock, made_of, stock_arguments
from tests.families import ALL, ASKED, FAMILIES, OLDER, flux, pixart, stable_diffusion_3, stable_diffusion_xl
from tests.grid import NEWER, SHOWN
from tests.parity.stock import observers

CASES: dict[str, dict[str, Any]] = {
    "guidance": {},
    "no guidance": {"guidance_scale": 1.0},
    "two prompts": {"prompt": ["a red circle", "a checkered star of blue"]},
    "two images per prompt": {"images_per_prompt": 2},
    "non-square": {"height": 16, "width": 32},
    "negative prompt": {"negative_prompt": "a green square"},
}
USUAL = {"prompt": "a red circle", "steps": 2, "guidance_scale": 4.0, "seed": 5, "height": 16, "width": 16}
BLOCK = {"unet": "mid_block*", "transformer": "*blocks.0*", "Lumina2": "layers.0*", "ZImage": "layers.0*"}


class Seen(sdprobe.Observer):
    """The decoded tensor."""

    def start(self, run):
        self.image_ = None

    def image(self, x, run):
        self.image_ = x.clone()


class Everywhere(sdprobe.Observer):
    """How often each point is passed, and what it is told of rows and encoders."""

    strict = False  # where attention is linear, there is nothing to see

    def __init__(self, block: str) -> None:
        self.modules = (block,)

    def start(self, run):
        self.passed = dict.fromkeys(POINTS, 0)
        self.encoders: list[tuple[str, str, str]] = []
        self.shapes: dict[str, torch.Size] = {}
        self.rows = ()

    def _at(self, point: str, x: Any) -> None:
        self.passed[point] += 1
        if isinstance(x, Tensor):
            self.shapes[point] = x.shape

    def token_embeds(self, x, text):
        self._at("token_embeds", x)
        assert x.shape[:2] == (len(text.prompts), len(text.prompts[0].ids))
        self.encoders.append(("token_embeds", text.encoder, text.role))

    def prompt_embeds(self, x, text):
        self._at("prompt_embeds", x)
        assert x.shape[:2] == (len(text.prompts), len(text.prompts[0].ids))
        self.encoders.append(("prompt_embeds", text.encoder, text.role))

    def pooled_embeds(self, x, text):
        self._at("pooled_embeds", x)
        assert len(x) == len(text.prompts)
        assert torch.equal(text.encode([prompt.text for prompt in text.prompts]), x) or not x.any()
        self.encoders.append(("pooled_embeds", text.encoder, text.role))

    def latents(self, x, step):
        self._at("latents", x)
        self.rows = step.rows

    def attention(self, attn, site):
        self._at("attention", attn)

    def model_output(self, x, step):
        self._at("model_output", x)
        assert len(x) == len(step.rows)

    def noise_pred(self, x, step):
        self._at("noise_pred", x)

    def sample(self, x, step):
        self._at("sample", x)

    def final_latents(self, x, run):
        self._at("final_latents", x)

    def image(self, x, run):
        self._at("image", x)


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, sdprobe.Model]:
    """Every family, saved and loaded again."""
    loaded = {}
    for i, (name, make) in enumerate(FAMILIES.items()):
        folder = tmp_path_factory.mktemp("families") / str(i)
        made = make()
        made.save_pretrained(folder)
        # A pipeline class of the tests' own, which diffusers does not find by its name, loads itself.
        loaded[name] = sdprobe.load(folder if hasattr(diffusers, type(made).__name__) else made.from_pretrained(folder))
    return loaded


def stock(model: sdprobe.Model, **settings: Any) -> tuple[Tensor, Tensor]:
    """The latents and the decoded pictures of the stock pipeline."""
    pipe = model.pipe
    own = type(pipe).from_pipe(pipe) if not hasattr(pipe, "safety_checker") else pipe
    own.set_progress_bar_config(disable=True)
    scheduler = own.scheduler
    own.scheduler = type(scheduler).from_config(scheduler.config)
    generator = torch.Generator("cpu").manual_seed(settings.pop("seed"))
    try:
        latents = made_of(own(generator=generator, output_type="latent", **stock_arguments(model, settings)))
        generator.manual_seed(generator.initial_seed())
        pictures = made_of(own(generator=generator, output_type="pt", **stock_arguments(model, settings)))
    finally:
        own.scheduler = scheduler
    return latents, pictures


def assert_same(model: sdprobe.Model, **settings: Any) -> None:
    if "negative_prompt" not in signature(type(model.pipe).__call__).parameters:
        settings.pop("negative_prompt", None)  # Flux.2 klein guides away from an empty one
    latents, pictures = stock(model, **settings)
    before = footprint(model.pipe)
    for hooks in ([], observers()):
        seen = Seen()
        run = sdprobe.sample(model, hooks=[seen, *hooks], progress=False, **settings)
        assert torch.equal(model.latents_returned(run.latents), latents)
        assert torch.equal(run[seen].image_, pictures)
    assert footprint(model.pipe) == before


# Of the others, what differs from these is tried: guidance. Stable Diffusion 1 has a file of its own.
THOROUGH = (*SHOWN[1:], *NEWER)


@pytest.mark.parametrize(
    ("family", "case"),
    [
        pytest.param(name, case, marks=[pytest.mark.nightly] * (name not in OLDER))
        for name in FAMILIES
        for case in CASES
        if name in THOROUGH or case.endswith("guidance")
    ],
)
def test_text_to_image(models, family, case):
    assert_same(models[family], **USUAL | CASES[case] | ASKED.get(family, {}))


class Inside(sdprobe.Observer):
    """How often activations are passed, with the image's positions where they are said to be."""

    def __init__(self, block: str) -> None:
        self.modules = (f"{block}to_q",)

    def start(self, run):
        self.passed = 0

    def activation(self, x, site):
        self.passed += 1
        assert x.shape[-2:] == site.grid or x[:, site.image].shape[1] == math.prod(site.grid or (0,))


@pytest.mark.parametrize("family", ALL)
def test_every_point_is_passed(models, family):
    model = models[family]
    block = BLOCK.get(type(model).__name__, BLOCK[model.network])
    look, inside = Everywhere(block), Inside(block)
    run = sdprobe.sample(model, hooks=[look, inside], progress=False, **USUAL | ASKED.get(family, {}))
    seen = run[look]
    seen.passed["activation"] = run[inside].passed
    roles = model.roles(USUAL["guidance_scale"])
    silent = [point for point, times in seen.passed.items() if not times]
    assert silent == ([] if model.pooling else ["pooled_embeds"])
    assert [(row.role, row.image, row.prompt.text) for row in seen.rows] == [
        (role, 0, {"cond": "a red circle", "uncond": ""}[role]) for role in roles
    ]
    size = (model.channels, *model.latent_shape(run.settings))
    assert seen.shapes["latents"] == seen.shapes["noise_pred"] == seen.shapes["final_latents"] == (1, *size)
    assert seen.shapes["model_output"] == (1 if model.separate_calls else len(roles), *size)
    zeroed = {"uncond"} if model.zeroes_unprompted else set()
    read = [(point, encoder) for point, encoder, role in seen.encoders if point == "token_embeds" if role == "cond"]
    assert read == [("token_embeds", encoder) for encoder in model.text_encoders]
    assert {role for point, _, role in seen.encoders if point == "token_embeds"} == set(roles) - zeroed
    assert [role for point, _, role in seen.encoders if point == "prompt_embeds"] == list(roles)
    pooled = [(encoder, role) for point, encoder, role in seen.encoders if point == "pooled_embeds"]
    assert pooled == ([("+".join(model.pooling), role) for role in roles] if model.pooling else [])


@pytest.mark.parametrize("family", ALL)
def test_a_further_call_says_what_the_loop_s_own_does(models, family):
    class Again(sdprobe.Observer):
        def start(self, run):
            self.same = []

        def noise_pred(self, x, step):
            self.same.append(torch.equal(step.predict(step.latents), step.model_output))
            cond = step.predict(step.latents, role="cond")
            self.same.append(torch.allclose(cond, step.model_output[step.rows_of("cond")], atol=1e-4))

    again = Again()
    settings = USUAL | {"images_per_prompt": 2} | ASKED.get(family, {})
    run = sdprobe.sample(models[family], hooks=[again], progress=False, **settings)
    assert run[again].same == [True] * 4


@pytest.mark.parametrize("family", ALL)
def test_the_steps_tell_what_the_scheduler_goes_to(models, family):
    """Predicted x0 of the last step of a deterministic scheduler is where it ends."""
    latents = sdprobe.LatentRecorder(keep=("denoised",))
    run = sdprobe.sample(models[family], hooks=[latents], progress=False, **USUAL | ASKED.get(family, {}))
    last = run[latents]["denoised"][-1].to(run.latents)
    ends = type(models[family].pipe.scheduler).__name__ != "DDIMScheduler"  # which ends a little above no noise
    assert torch.allclose(last, run.latents, atol=1e-4 if ends else 0.5)


@pytest.mark.parametrize("family", ALL)
def test_a_word_s_embedding_is_replaced_in_every_encoder(models, family):
    model, settings = models[family], USUAL | {"negative_prompt": ""} | ASKED.get(family, {})
    swap = sdprobe.ReplaceToken("circle", with_="star")
    swapped = sdprobe.sample(model, hooks=[swap], progress=False, **settings)
    written = sdprobe.sample(model, progress=False, **settings | {"prompt": "a red star"})
    plain = sdprobe.sample(model, progress=False, **settings)
    assert torch.equal(swapped.latents, written.latents)
    assert not torch.equal(swapped.latents, plain.latents)


def test_an_empty_negative_prompt_is_not_none_at_all():
    """Stable Diffusion XL is told zeros where there is no negative prompt, and the encoders' answer to an empty one."""
    model = sdprobe.load(stable_diffusion_xl())
    assert_same(model, **USUAL | {"negative_prompt": ""})
    none, empty = (sdprobe.sample(model, progress=False, **USUAL, **own) for own in ({}, {"negative_prompt": ""}))
    assert not torch.equal(none.latents, empty.latents)
    assert_same(sdprobe.load(stable_diffusion_xl(zeroed=False)), **USUAL)


def test_stable_diffusion_3_without_t5():
    model = sdprobe.load(stable_diffusion_3(with_t5=False))
    assert_same(model, **USUAL)
    assert model.text_encoders == ("text_encoder", "text_encoder_2")


def test_noise_levels_that_depend_on_the_size():
    pipe = stable_diffusion_3()
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, use_dynamic_shifting=True)
    assert_same(sdprobe.load(pipe), **USUAL | {"height": 32, "width": 16})


@pytest.mark.parametrize("kind", [PixArtAlphaPipeline, PixArtSigmaPipeline])
def test_pixart_works_at_a_size_it_knows_and_cuts_to_the_one_asked_for(kind):
    model = sdprobe.load(pixart(kind, sample_size=32))
    settings = USUAL | {"height": 144, "width": 248}
    assert_same(model, **settings)
    run = sdprobe.sample(model, hooks=[maps := sdprobe.AttentionMaps()], progress=False, **settings)
    assert run.images[0].size == (248, 144)
    h, w = run.latents.shape[-2:]
    assert (h, w) != (144 // 8, 248 // 8)
    assert run[maps].heat_map("circle").values.shape == (h // 2, w // 2)


def test_one_step_of_pixart_alpha_is_the_scheduler_s_predicted_x0():
    pipe = pixart()
    pipe.scheduler = LCMScheduler()
    assert_same(sdprobe.load(pipe), **USUAL | {"steps": 1})


def test_given_latents_of_flux_are_a_picture_of_noise():
    model = sdprobe.load(flux())
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    given = sdprobe.sample(model, latents=noise, progress=False, **USUAL)
    drawn = sdprobe.sample(model, progress=False, **USUAL)
    assert torch.equal(given.latents, drawn.latents)


def test_a_family_that_starts_from_noise_alone_says_so():
    with pytest.raises(ValueError, match="starts from noise"):
        sdprobe.sample(sdprobe.load(pixart()), "a star", image=torch.zeros(1, 3, 16, 16))


def test_sizes_are_held_to_the_patches():
    with pytest.raises(ValueError, match="multiples of 4"):
        sdprobe.sample(sdprobe.load(flux()), "a star", height=18)


TOLD_APART = ("Z-Image", "LTX-Video", "CogVideoX")
"""Newer families whose pipelines round noise levels or latents, or lay latents out, in their own way."""


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=[pytest.mark.nightly] * (name not in (*OLDER, *TOLD_APART))) for name in FAMILIES],
)
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_in_half_precision_the_latents_are_the_pipelines_own(family, guidance_scale):
    """Where sums are rounded coarsely, the layout of a tensor and every conversion show."""
    pipe = FAMILIES[family]()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.to(torch.bfloat16)
    model = sdprobe.load(pipe)
    sides = dict.fromkeys(("height", "width"), -(-16 // model.multiple) * model.multiple)
    asked = {"prompt": "a red circle", "steps": 3, "guidance_scale": guidance_scale, "seed": 0, **sides}
    asked |= ASKED.get(family, {})
    given = {name: "a star" for name in signature(type(pipe).__call__).parameters if name == "negative_prompt"}
    kept = sdprobe.LatentRecorder(keep=("latents",))
    with sdprobe.attach(pipe, [kept, sdprobe.Checkpoints()]) as attached:
        call_stock(model, asked | given, "latent")
    sampled = sdprobe.sample(model, hooks=[kept], progress=False, **asked, **given)
    assert torch.equal(attached.latents, sampled.latents)
    assert torch.equal(sdprobe.resume(attached, step=1, progress=False).latents, attached.latents)
    for step in range(3):
        theirs, ours = (own[kept].at(step)["latents"] for own in (attached, sampled))
        assert theirs.dtype == ours.dtype
        assert torch.equal(theirs, ours)
