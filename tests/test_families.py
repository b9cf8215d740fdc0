"""Families: how they read prompts, those that are not known, and one's own."""

from __future__ import annotations

import diffusers
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, StableDiffusionPipeline, UNet2DModel

import sdprobe
from sdprobe.model import loading
from sdprobe.model.families.unet import UNetModel
from sdprobe.model.loading import FAMILIES, family
from sdprobe.model.text.conditioning import EMBEDS
from tests.families import flux, lumina2, pixart, stable_diffusion_3, stable_diffusion_xl
from tests.tiny import stable_diffusion
from tests.tiny_models.qwen_image import qwen_image

SETTINGS = {"steps": 2, "height": 16, "width": 16, "seed": 3, "progress": False}


class Plain(StableDiffusionPipeline):
    """A pipeline of someone's own."""


@pytest.fixture
def registered():
    """Families made known in a test are forgotten after it."""
    before = list(FAMILIES)
    yield
    FAMILIES[:] = before


def test_an_unknown_pipeline_is_told_the_known_ones_and_how_to_add_its_own():
    unet = UNet2DModel(sample_size=8, block_out_channels=(8,), down_block_types=("DownBlock2D",),
                       up_block_types=("UpBlock2D",), norm_num_groups=4)  # fmt: skip
    with pytest.raises(ValueError, match="DDPMPipeline") as error:
        sdprobe.load(DDPMPipeline(unet, DDPMScheduler()))
    for known in FAMILIES:
        assert all(name in str(error.value) for name in known.pipelines)
    assert "families.md" in str(error.value)


def test_a_family_of_one_s_own(registered):
    """A dozen lines make a pipeline known: what it is called, how it reads, what its network is told."""

    @family
    class Louder(UNetModel):
        pipelines = ("Plain",)

        def encoded(self, texts):
            return {EMBEDS: 2 * self.pipe.encode_prompt(texts, self.device, 1, False)[0]}

    pipe = Plain(**stable_diffusion().components, requires_safety_checker=False)
    assert isinstance(sdprobe.load(pipe), Louder)
    maps = sdprobe.AttentionMaps()
    own = sdprobe.sample(pipe, "a red circle", hooks=[maps], **SETTINGS)
    doubled = sdprobe.ScalePrompt(2.0)
    both = (doubled, sdprobe.ScalePrompt(2.0, role="uncond"))
    usual = sdprobe.sample(stable_diffusion(), "a red circle", hooks=both, **SETTINGS)
    assert torch.equal(own.latents, usual.latents)
    assert own[maps].heat_map("circle").values.shape == (8, 8)


def test_a_family_says_its_pipelines(registered):
    with pytest.raises(ValueError, match="pipelines"):

        @family
        class Nameless(UNetModel):
            pass

    assert loading.FAMILIES == FAMILIES


def test_t5_reads_words_as_clip_does():
    clip, t5 = (sdprobe.load(make()) for make in (stable_diffusion_xl, flux))
    text = "A checkered ring, left of a ring"
    for model in (clip, t5):
        prompt = model.read(text)
        assert list(prompt.words) == ["a", "checkered", "ring", "left", "of"]
        for word, found in prompt.words.items():
            for positions in found:
                first, last = prompt.spans[positions[0]][0], prompt.spans[positions[-1]][1]
                assert text[first:last].lower().strip() == word
    read = t5.read(text)
    assert read.positions("ring", occurrence=1)[0] > read.positions("left")[0]
    assert read.roles.count("end") == 1
    assert len(read.ids) == 512
    assert read.tokens[read.positions("checkered")[0]].startswith("▁")


def test_what_the_encoder_is_given_is_what_was_read():
    """The numbers of `read` are those that each encoder is shown."""
    for make in (stable_diffusion_xl, stable_diffusion_3, flux, pixart, lumina2, qwen_image):
        model = sdprobe.load(make())
        text = "  A Red circle of a star "
        for encoder in model.text_encoders:
            shown = []
            handle = getattr(model.pipe, encoder).register_forward_pre_hook(
                lambda module, args, kwargs, shown=shown: shown.append(args[0] if args else kwargs["input_ids"]),
                with_kwargs=True,
            )
            model.encoded([text])
            handle.remove()
            assert tuple(shown[0][0].tolist()) == model.read(text, encoder).ids
        assert model.read(text).text == text
        prompt = model.read(text)
        assert text[slice(*prompt.spans[prompt.positions("star")[0]])].strip() == "star"


@pytest.mark.parametrize("make", [stable_diffusion, pixart, flux, qwen_image])
def test_the_last_layer_is_what_the_denoiser_is_told(make):
    """Where one encoder makes ``prompt_embeds``, its last layer through the final norm is their value."""
    model = sdprobe.load(make())
    read = sdprobe.sample(model, "a red circle", hooks=[sdprobe.ReadLayer(-1)], **SETTINGS)
    assert torch.equal(read.latents, sdprobe.sample(model, "a red circle", **SETTINGS).latents)
    first = sdprobe.sample(model, "a red circle", hooks=[sdprobe.ReadLayer(0)], **SETTINGS)
    assert not torch.equal(read.latents, first.latents)


@pytest.mark.parametrize("make", [stable_diffusion_xl, stable_diffusion_3])
def test_encoders_that_speak_together_have_no_layers_in_common(make):
    with pytest.raises(ValueError, match="text_encoder_2"):
        sdprobe.sample(sdprobe.load(make()), "a circle", hooks=[sdprobe.ReadLayer(0)], **SETTINGS)


def test_stages_of_the_first_encoder():
    made = sdprobe.embed(stable_diffusion_3(), "a red circle")
    assert made.token.shape == made.last_hidden_state.shape == (1, 16, 16)
    with pytest.raises(ValueError, match="T5"):
        sdprobe.embed(pixart(), "a red circle")


def test_a_folder_of_2_x_keeps_its_kind_of_prediction(tmp_path):
    """v-prediction is read from the folder's own scheduler: predicted x0 is where the last step ends."""
    stable_diffusion(prediction_type="v_prediction").save_pretrained(tmp_path)
    model = sdprobe.load(tmp_path)
    assert model.pipe.scheduler.config.prediction_type == "v_prediction"
    latents = sdprobe.LatentRecorder(keep=("denoised",))
    run = sdprobe.sample(model, "a star", hooks=[latents], scheduler="EulerDiscrete", **SETTINGS)
    assert torch.allclose(run[latents]["denoised"][-1], run.latents, atol=1e-4)


@pytest.mark.parametrize("make", [stable_diffusion_xl, stable_diffusion_3, flux])
def test_from_a_picture(make):
    """The stock image-to-image pipeline on the same parts gives the same picture."""
    pipe = make()
    model = sdprobe.load(pipe)
    picture = torch.linspace(0, 1, 3 * 256).reshape(1, 3, 16, 16)
    kind = type(model).img2img
    stock = kind(**pipe.components)
    stock.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    stock.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    sized = {"height": 16, "width": 16} if make is flux else {}  # the others take the picture's
    given = {"image": picture, "strength": 0.6, "guidance_scale": 4.0, **sized}
    texts = ["a red circle", "a star"]
    expected = stock(texts, num_inference_steps=4, generator=generator, output_type="latent", **given).images
    if make is flux:
        expected = stock._unpack_latents(expected, 16, 16, stock.vae_scale_factor)
    run = sdprobe.sample(model, texts, steps=4, seed=3, progress=False, **given)
    assert torch.equal(run.latents, expected)


@pytest.mark.parametrize("make", [stable_diffusion_3, flux])
def test_noise_drawn_within_a_flow_comes_from_the_seed(make):
    model = sdprobe.load(make())
    runs = [
        sdprobe.sample(model, "a star", scheduler="FlowMatchLCM", **{**SETTINGS, "seed": seed}) for seed in (3, 3, 4)
    ]
    assert torch.equal(runs[0].latents, runs[1].latents)
    assert not torch.equal(runs[0].latents, runs[2].latents)


@pytest.mark.parametrize("name", ["FlowMatchHeunDiscrete", "FlowMatchEulerDiscrete"])
def test_the_schedulers_of_a_flow_are_known_by_name(name):
    """As the stock pipeline with such a scheduler."""
    pipe = stable_diffusion_3()
    pipe.set_progress_bar_config(disable=True)
    run = sdprobe.sample(pipe, "a star", scheduler=name, guidance_scale=4.0, **SETTINGS)
    assert run.settings.scheduler == f"{name}Scheduler"
    pipe.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(pipe.scheduler.config)
    given = {"num_inference_steps": 2, "height": 16, "width": 16, "guidance_scale": 4.0, "output_type": "latent"}
    assert torch.equal(run.latents, pipe("a star", generator=torch.Generator().manual_seed(3), **given).images)
    with pytest.raises(ValueError, match="FlowMatchLCMScheduler"):
        sdprobe.sample(pipe, "a star", scheduler="DDIM", **SETTINGS)


def test_flux_under_heun_s_own_levels():
    """The stock pipeline refuses that scheduler, since it takes no levels of others."""
    run = sdprobe.sample(flux(), "a star", scheduler="FlowMatchHeunDiscrete", **SETTINGS)
    assert run.settings.scheduler == "FlowMatchHeunDiscreteScheduler"
    assert run.latents.isfinite().all()


@pytest.mark.parametrize("make", [stable_diffusion_3, flux])
def test_a_flow_is_not_inverted_by_ddim(make):
    with pytest.raises(ValueError, match="flow"):
        sdprobe.invert(sdprobe.load(make()), torch.rand(1, 3, 16, 16), "a star", steps=2, method="ddim")


@pytest.mark.parametrize("make", [stable_diffusion_xl, stable_diffusion_3, flux, pixart])
def test_a_schedule_is_what_a_run_of_the_model_s_own_size_goes_through(make):
    model = sdprobe.load(make())
    height, width = (16, 16) if make is not flux else (256, 256)  # Flux's levels depend on the size

    class Sigmas(sdprobe.Observer):
        def start(self, run):
            self.found = []

        def latents(self, x, step):
            self.found.append(step.sigma)

    if make is flux:
        assert model.default_size() == (height, width)
    run = sdprobe.sample(model, "a", hooks=[look := Sigmas()], steps=2, height=height, width=width, progress=False)
    assert torch.allclose(torch.tensor(run[look].found), sdprobe.schedule(model, steps=2).sigmas[:-1])
