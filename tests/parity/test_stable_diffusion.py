"""Without a hook that changes anything, ours is diffusers' own result, bit for bit."""

from __future__ import annotations

import diffusers
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

import sdprobe
from sdprobe.testing import footprint
from sdprobe.testing.stock_call import RENAMED
from tests.parity.stock import observers
from tests.tiny import stable_diffusion

CASES = {
    "one prompt": {},
    "two prompts": {"prompt": ["a red circle", "a blue star"]},
    "two images per prompt": {"images_per_prompt": 2},
    "non-square": {"height": 16, "width": 24},
    "negative prompt": {"negative_prompt": "a green square"},
}


def schedulers() -> list[str]:
    compatible = diffusers.DDIMScheduler().compatibles
    return sorted(kind.__name__ for kind in compatible)


def scheduler_for(pipe, name):
    extra = {"noise_sampler_seed": 7} if name == "DPMSolverSDEScheduler" else {}  # unseeded, it never repeats itself
    return getattr(diffusers, name).from_config(pipe.scheduler.config, **extra)


def stock(model, scheduler, prompt, **settings):
    """Latents and pictures of the stock pipeline, with a scheduler lent to it."""
    pipe = type(model.pipe)(**model.pipe.components, requires_safety_checker=False)
    pipe.scheduler = type(scheduler).from_config(scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    seed = settings.pop("seed")
    generator = torch.Generator("cpu").manual_seed(seed)
    given = {RENAMED.get(key, key): value for key, value in settings.items()}
    if "negative_prompt" in given and isinstance(prompt, list):
        given["negative_prompt"] = [given["negative_prompt"]] * len(prompt)
    final = {}

    def keep(pipe, index, timestep, values):
        final["latents"] = values["latents"]
        return {}

    images = pipe(prompt, generator=generator, callback_on_step_end=keep, **given).images
    return final["latents"], images


def assert_same(run, latents, images):
    assert torch.equal(run.latents.nan_to_num(), latents.nan_to_num())
    assert [i.tobytes() for i in run.images] == [i.tobytes() for i in images]


@pytest.mark.parametrize("prediction", ["epsilon", "v", "embedded"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize("name", schedulers())
def test_text_to_image(name, guidance_scale, case, prediction, request):
    fixture = {"epsilon": "tiny", "v": "tiny_v", "embedded": "embedded"}[prediction]
    model = request.getfixturevalue(fixture)
    settings = {"prompt": "a red circle", "steps": 4, "guidance_scale": guidance_scale, "seed": 5} | CASES[case]
    if prediction == "embedded":
        settings |= {"steps": 4 if name == "PNDMScheduler" else 2}
        settings |= {"height": 32, "width": 48} if case == "non-square" else {}
    scheduler = scheduler_for(model.pipe, name)
    expected = stock(model, scheduler, **settings)
    for hooks in ([], observers()):
        assert_same(sdprobe.sample(model, hooks=hooks, scheduler=scheduler, progress=False, **settings), *expected)


@pytest.mark.parametrize("name", schedulers())
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_image_to_image(tiny, name, strength):
    if name == "EDMEulerScheduler":
        pytest.skip("diffusers' own image-to-image pipeline cannot add its noise")
    picture = Image.radial_gradient("L").resize((16, 16)).convert("RGB")
    scheduler = scheduler_for(tiny.pipe, name)
    pipe = StableDiffusionImg2ImgPipeline(**tiny.pipe.components, requires_safety_checker=False)
    pipe.scheduler = type(scheduler).from_config(scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        "a red circle",
        image=picture,
        strength=strength,
        num_inference_steps=6,
        guidance_scale=4.0,
        generator=torch.Generator("cpu").manual_seed(5),
    ).images
    for hooks in ([], observers()):
        run = sdprobe.sample(
            tiny,
            "a red circle",
            hooks=hooks,
            image=picture,
            strength=strength,
            steps=6,
            guidance_scale=4.0,
            seed=5,
            scheduler=scheduler,
            progress=False,
        )
        assert [i.tobytes() for i in run.images] == [i.tobytes() for i in expected]


def test_one_seed_per_image_is_one_generator_per_image(tiny):
    pipe = type(tiny.pipe)(**tiny.pipe.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in (3, 8)]
    expected = pipe("a star", num_images_per_prompt=2, num_inference_steps=3, generator=generators).images
    run = sdprobe.sample(tiny, "a star", images_per_prompt=2, steps=3, seed=[3, 8], progress=False)
    assert [i.tobytes() for i in run.images] == [i.tobytes() for i in expected]
    # In double precision, for kernels of another batch size round otherwise.
    exact = sdprobe.load(stable_diffusion(), dtype=torch.float64)
    both = sdprobe.sample(exact, "a star", images_per_prompt=2, steps=3, seed=[3, 8], progress=False)
    alone = sdprobe.sample(exact, "a star", steps=3, seed=8, progress=False)
    assert torch.allclose(both.latents[1], alone.latents[0], rtol=1e-10)


def test_defaults_are_the_pipeline_s(tiny):
    pipe = type(tiny.pipe)(**tiny.pipe.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe("a star", generator=torch.Generator("cpu").manual_seed(1)).images
    run = sdprobe.sample(tiny, "a star", seed=1, progress=False)
    assert (run.settings.steps, run.settings.guidance_scale) == (50, 7.5)
    assert [i.tobytes() for i in run.images] == [i.tobytes() for i in expected]


def test_given_latents(tiny):
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    before = noise.clone()
    pipe = type(tiny.pipe)(**tiny.pipe.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe("a star", num_inference_steps=3, latents=noise).images
    run = sdprobe.sample(tiny, "a star", steps=3, latents=noise, progress=False)
    assert [i.tobytes() for i in run.images] == [i.tobytes() for i in expected]
    assert torch.equal(noise, before)


def test_a_live_pipeline_is_used_and_left_as_it_is(tiny):
    before = footprint(tiny.pipe)
    direct = sdprobe.sample(tiny.pipe, "a star", steps=3, seed=1, scheduler="EulerDiscrete", progress=False)
    again = sdprobe.sample(tiny, "a star", steps=3, seed=1, scheduler=diffusers.EulerDiscreteScheduler, progress=False)
    assert torch.equal(direct.latents, again.latents)
    assert footprint(tiny.pipe) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    model = sdprobe.load(stable_diffusion(), dtype=dtype)
    settings = {"prompt": "a red circle", "steps": 4, "guidance_scale": 4.0, "seed": 5}
    scheduler = scheduler_for(model.pipe, "DDIMScheduler")
    expected = stock(model, scheduler, **settings)
    for hooks in ([], observers()):
        run = sdprobe.sample(model, hooks=hooks, progress=False, **settings)
        assert run.latents.dtype == dtype
        assert_same(run, *expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu():
    model = sdprobe.load(stable_diffusion(), device="cuda")
    settings = {"prompt": "a red circle", "steps": 4, "guidance_scale": 4.0, "seed": 5}
    expected = stock(model, scheduler_for(model.pipe, "DDIMScheduler"), **settings)
    for hooks in ([], observers()):
        assert_same(sdprobe.sample(model, hooks=hooks, progress=False, **settings), *expected)


def test_textual_inversion_of_several_vectors():
    model = sdprobe.load(stable_diffusion())
    vectors = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    model.pipe.load_textual_inversion({"<cat>": vectors})
    settings = {"prompt": "a <cat> and a star", "steps": 3, "guidance_scale": 4.0, "seed": 5}
    expected = stock(model, model.pipe.scheduler, **settings)
    run = sdprobe.sample(model, hooks=observers(), progress=False, **settings)
    assert_same(run, *expected)
    assert dict(run.prompts[0].words) == {"a": ((1,), (6,)), "<cat>": ((2, 3, 4),), "and": ((5,),), "star": ((7,),)}
    assert run.prompts[0].text == "a <cat> and a star"
    swap = sdprobe.ReplaceToken("<cat>", with_="<cat>")
    assert_same(sdprobe.sample(model, hooks=[swap], progress=False, **settings), *expected)


def img2img(model, scheduler, prompt, **settings):
    parts = {**model.pipe.components, "scheduler": type(scheduler).from_config(scheduler.config)}
    pipe = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    pipe.scheduler = type(scheduler).from_config(scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    settings["generator"] = torch.Generator("cpu").manual_seed(settings.pop("seed"))
    return pipe(prompt, **{RENAMED.get(key, key): value for key, value in settings.items()}).images


def pictures(*sizes):
    return [Image.linear_gradient("L").resize(size).rotate(90 * i).convert("RGB") for i, size in enumerate(sizes)]


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": ["a star", "a ring"], "image": pictures((16, 16), (16, 16))},
        {"prompt": "a star", "image": pictures((16, 16)), "images_per_prompt": 2},
        {"prompt": "a star", "image": pictures((22, 18))},
        {"prompt": "a star", "image": torch.linspace(-1, 1, 256).reshape(1, 4, 8, 8)},
        {"prompt": "a star", "image": pictures((16, 16)), "guidance_scale": 1.0},
    ],
)
def test_pictures_to_start_from(tiny, given):
    settings = {"strength": 0.6, "steps": 4, "guidance_scale": 4.0, "seed": 5} | given
    scheduler = diffusers.DDIMScheduler.from_config(tiny.pipe.scheduler.config, clip_sample=True)
    expected = img2img(tiny, scheduler, **settings)
    maps = sdprobe.AttentionMaps()
    run = sdprobe.sample(tiny, hooks=[maps], scheduler=scheduler, progress=False, **settings)
    assert [i.tobytes() for i in run.images] == [i.tobytes() for i in expected]
    assert run[maps].heat_map("a").values.shape == tuple(run.latents.shape[-2:])


def test_a_picture_for_each_prompt_stays_with_its_prompt(tiny):
    """diffusers pairs the second picture with the first prompt here, so each prompt alone is the reference."""
    settings = {"strength": 0.6, "steps": 4, "progress": False}
    both, prompts = pictures((16, 16), (16, 16)), ["a star", "a ring"]
    run = sdprobe.sample(tiny, prompts, image=both, images_per_prompt=2, seed=[1, 2, 3, 4], **settings)
    for i, (prompt, picture) in enumerate(zip(prompts, both, strict=True)):
        alone = sdprobe.sample(
            tiny, prompt, image=picture, images_per_prompt=2, seed=[2 * i + 1, 2 * i + 2], **settings
        )
        assert torch.allclose(run.latents[2 * i : 2 * i + 2], alone.latents, atol=1e-4)
