"""Inversion finds the noise a picture comes from."""

from __future__ import annotations

import itertools
import warnings
from concurrent.futures import ThreadPoolExecutor

import diffusers
import pytest
import torch
from PIL import Image

import sdprobe
from sdprobe.model.diffusion.noise_levels import level_at
from sdprobe.model.diffusion.schedulers import there_and_back
from sdprobe.sampling.encode_decode import decode, encode, psnr
from sdprobe.sampling.invert import invert
from sdprobe.sampling.look import look
from sdprobe.shapes import scene
from sdprobe.testing import footprint
from tests.laws.strategies import run
from tests.tiny import stable_diffusion

PICTURE = Image.radial_gradient("L").resize((16, 16)).convert("RGB")


def quietly(*args, **settings):
    """Invert, whether the iteration converges or not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return invert(*args, progress=False, **settings)


class Seen(sdprobe.Observer):
    def start(self, run):
        self.steps = []

    def noise_pred(self, x, step):
        self.steps.append(step)


@pytest.mark.parametrize("objects", [1, 2])
def test_a_picture_comes_back(embedded, objects):
    """Without guidance, a picture it has never seen comes back as well as the autoencoder alone brings it back."""
    pictures = [Image.fromarray(scene(seed, objects=objects).image) for seed in (900, 901)]
    captions = [scene(seed, objects=objects).caption for seed in (900, 901)]
    inverted = invert(embedded, pictures, captions, steps=30, progress=False)
    back = inverted.psnr(inverted.sample(progress=False))
    at_best = psnr(decode(embedded, encode(embedded, pictures).mean), inverted.pixels)
    assert (at_best - back < 1).all()
    assert 0.8 < inverted.latents.std() < 1.2  # noise, as the model knows it


def test_more_steps_and_less_guidance_come_back_closer(embedded):
    own = scene(902, objects=2)
    encoded = encode(embedded, own.image)

    def apart(**settings):
        inverted = invert(embedded, own.image, own.caption, progress=False, **settings)
        latents = inverted.sample(progress=False).latents
        return float((latents - encoded.mean).square().mean())

    few, many, guided = apart(steps=4), apart(steps=12), apart(steps=12, guidance_scale=4.0)
    assert many < few
    assert many < guided


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_each_step_undoes_one_of_ddim(prediction, spacing):
    """Where the network's noise is the same at both ends of a step, DDIM comes back to the very latents."""
    pipe = stable_diffusion(prediction_type=prediction)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing=spacing)
    up, down = there_and_back(pipe)
    x0, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def output(scheduler, index, x):
        signal, share, _ = level_at(scheduler, index)
        return {"epsilon": noise, "v_prediction": (noise - share * x) / signal, "sample": (x - share * noise) / signal}[
            prediction
        ]

    x = x0
    for scheduler in (up, down):
        scheduler.set_timesteps(7)
        for index, timestep in enumerate(scheduler.timesteps):
            x = scheduler.step(output(scheduler, index, x), timestep, x).prev_sample
        if scheduler is up:
            assert not torch.allclose(x, x0, atol=0.1)
    assert torch.allclose(x, x0, atol=1e-3)  # divided by the smallest signal, 0.07, and multiplied again


def test_upwards_each_step_has_two_calls_and_knows_its_level(tiny):
    seen = Seen()
    inverted = invert(tiny, PICTURE, "a star", steps=4, hooks=[seen], progress=False)
    steps = inverted.run[seen].steps
    table = tiny.pipe.scheduler.alphas_cumprod
    # leading, with an offset of 1: DDIM goes 751, 501, 251, 1, and the first step begins below them
    assert [s.timestep for s in steps] == [0, 1, 1, 251, 251, 501, 501, 751]
    levels = [((1 - table[int(s.timestep)]) / table[int(s.timestep)]) ** 0.5 for s in steps]
    assert [s.sigma for s in steps] == pytest.approx([float(level) for level in levels])
    assert torch.equal(steps[0].latents, encode(tiny, PICTURE).mean)


def test_the_noise_may_be_given_to_any_run(tiny):
    inverted = invert(tiny, PICTURE, "a star", steps=4, progress=False)
    own = inverted.sample(progress=False)
    by_hand = run(tiny, prompt="a star", steps=4, guidance_scale=1.0, scheduler="DDIM", latents=inverted.latents)
    assert torch.equal(own.latents, by_hand.latents)
    assert (inverted.psnr(own) == psnr(own.images, inverted.pixels)).all()


def test_edits_and_maps_on_a_picture(tiny):
    inverted = invert(tiny, PICTURE, "a red star", steps=4, progress=False)
    maps = sdprobe.AttentionMaps()
    swapped = inverted.sample(hooks=[maps, sdprobe.ReplaceToken("red", with_="blue")], progress=False)
    written = inverted.sample(prompt="a blue star", progress=False)
    assert torch.equal(swapped.latents, written.latents)
    assert swapped[maps].heat_map("star").values.shape == (8, 8)
    guided = inverted.sample(guidance_scale=3.0, progress=False)
    assert guided.settings.guidance_scale == 3
    assert inverted.sample(progress=False).settings.guidance_scale == 1


def test_several_pictures_with_a_prompt_each(tiny):
    pictures = [PICTURE, PICTURE.rotate(90)]
    prompts = ["a star", "a ring"]
    both = invert(tiny, pictures, prompts, steps=3, progress=False)
    for i in range(2):
        alone = invert(tiny, pictures[i], prompts[i], steps=3, progress=False)
        assert torch.allclose(both.latents[i : i + 1], alone.latents, atol=1e-4)
    assert invert(tiny, pictures, "a star", steps=2, progress=False).run.settings.prompt == ("a star",) * 2
    assert repr(both) == "Inversion('a star', 'a ring', 2 pictures of 16×16, 3 steps, guidance 1)"


def test_pictures_of_other_sizes(tiny):
    inverted = invert(tiny, PICTURE.resize((25, 18)), "a star", steps=2, progress=False)
    assert inverted.latents.shape == (1, 4, 8, 12)
    assert inverted.sample(progress=False).images[0].size == (24, 16)


@pytest.mark.parametrize(
    ("name", "spacing"),
    [("EulerDiscreteScheduler", "trailing"), ("LMSDiscreteScheduler", "trailing"), ("PNDMScheduler", "leading")],
)
def test_whatever_the_pipeline_s_scheduler(tiny, name, spacing):
    """It is DDIM on the same betas; spread over all levels alike, which DDIM inversion knows not, it is "trailing"."""
    pipe = type(tiny.pipe)(**tiny.pipe.components, requires_safety_checker=False)
    pipe.scheduler = getattr(diffusers, name)(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    before = footprint(pipe)
    inverted = invert(pipe, PICTURE, "a star", steps=3, progress=False)
    assert footprint(pipe) == before
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing=spacing)
    expected = invert(pipe, PICTURE, "a star", steps=3, progress=False)
    assert torch.equal(inverted.latents, expected.latents)
    assert torch.equal(inverted.sample(progress=False).latents, expected.sample(progress=False).latents)


def test_an_error_on_the_way_leaves_the_model_as_it_was(tiny):
    class Broken(sdprobe.Observer):
        def latents(self, x, step):
            raise OverflowError

    before = footprint(tiny.pipe)
    with pytest.raises(OverflowError):
        invert(tiny, PICTURE, "a star", steps=3, hooks=[Broken()], progress=False)
    with pytest.raises(OverflowError):
        look(tiny, PICTURE, "a star", timestep=10, hooks=[Broken()])
    assert footprint(tiny.pipe) == before
    assert invert(tiny, PICTURE, "a star", steps=2, progress=False).latents.isfinite().all()


def test_in_several_threads_at_once(tiny):
    """Runs, inversions and the autoencoder take turns on one model: nobody's schedule reaches another."""
    work = [
        lambda: invert(tiny, PICTURE, "a star", steps=3, progress=False).latents,
        lambda: run(tiny, steps=3, scheduler="LMS").latents,
        lambda: look(tiny, PICTURE, "a ring", timestep=200).latents,
        lambda: encode(tiny, PICTURE).mean,
    ] * 2
    alone = [job() for job in work]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda job: job(), work))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_refused(tiny):
    with pytest.raises(ValueError, match="3 prompts for 2 pictures: give one, or one each"):
        invert(tiny, [PICTURE, PICTURE], ["a", "b", "c"], progress=False)
    with pytest.raises(ValueError, match=r"no method of inversion is called 'edict'; the methods: fixed-point, ddim"):
        invert(tiny, PICTURE, "a star", method="edict", progress=False)
    with pytest.raises(ValueError, match=r"'ddim' has no option 'iterations'; its options: none"):
        invert(tiny, PICTURE, "a star", method="ddim", iterations=3, progress=False)
    with pytest.raises(ValueError, match="this solves the equation of a flow"):
        invert(tiny, PICTURE, "a star", method="rf-solver", progress=False)
    flow = stable_diffusion()
    flow.scheduler = diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    with pytest.raises(ValueError, match="this needs the noise levels of DDIM, and the model was made for a flow"):
        invert(flow, PICTURE, "a star", steps=2, progress=False)


@pytest.mark.parametrize(
    ("method", "options"),
    [("fixed-point", {"iterations": 3}), ("ddim", {}), ("negative-prompt", {}), ("null-text", {"iterations": 2})],
)
def test_in_a_stock_pipeline(tiny, method, options):
    """The run back is a call of the pipeline with the scheduler, the noise and the hooks of the inversion."""
    inverted = quietly(tiny, PICTURE, "a star", steps=3, guidance_scale=3.0, method=method, **options)
    own = inverted.sample(progress=False)
    pipe = type(tiny.pipe)(**tiny.pipe.components, requires_safety_checker=False)
    pipe.scheduler = inverted.scheduler
    pipe.set_progress_bar_config(disable=True)
    with sdprobe.attach(pipe, inverted.hooks) as run:
        pipe(
            ["a star"],
            latents=inverted.latents,
            num_inference_steps=3,
            guidance_scale=3.0,
            negative_prompt=None if inverted.negative_prompt is None else list(inverted.negative_prompt),
            height=16,
            width=16,
        )
    assert torch.equal(run.latents, own.latents)


def test_plain_ddim_is_the_formula_of_the_paper(tiny):
    """Each step moves along the noise predicted where it begins."""
    inverted = invert(tiny, PICTURE, "a star", steps=4, method="ddim", progress=False)
    kept = sdprobe.LatentRecorder(keep=("latents", "noise_pred"))
    seen = invert(tiny, PICTURE, "a star", steps=4, method="ddim", hooks=[kept], progress=False).run[kept]
    bars = tiny.pipe.scheduler.alphas_cumprod
    levels = [bars[t] for t in (0, 1, 251, 501, 751)]
    x = inverted.x0
    for i, (left, reached) in enumerate(itertools.pairwise(levels)):
        assert torch.allclose(seen.at(i)["latents"], x, atol=1e-5)
        noise = seen.at(i)["noise_pred"]
        x = reached.sqrt() * (x - (1 - left).sqrt() * noise) / left.sqrt() + (1 - reached).sqrt() * noise
    assert torch.allclose(inverted.latents, x, atol=1e-5)


def test_what_the_inversion_determines_is_no_setting_of_the_run_back(tiny):
    inverted = invert(tiny, PICTURE, "a star", steps=2, progress=False)
    with pytest.raises(ValueError, match="the inversion determines steps, latents: leave it out, or invert again"):
        inverted.sample(steps=3, latents=inverted.latents, progress=False)
    with pytest.raises(ValueError, match="the inversion determines scheduler: leave it out"):
        inverted.edit("a ring", scheduler="Euler", progress=False)


def test_names_of_hooks_and_a_way_that_ends_early(tiny):
    taken = {"inversion 0": sdprobe.LatentRecorder()}
    with pytest.raises(ValueError, match="the name 'inversion 0' is that of a hook of the inversion itself"):
        invert(tiny, PICTURE, "a star", steps=2, iterations=2, hooks=taken, progress=False)
    stop = sdprobe.watch("latents", lambda x, step: step.stop() if step.index == 1 else None)
    with pytest.raises(ValueError, match=r"a hook ended the run to noise after step 1 \(Step.stop\)"):
        invert(tiny, PICTURE, "a star", steps=2, hooks=[stop], progress=False)


def test_edit_begins_at_the_inverted_noise(tiny):
    """Prompt-to-prompt on a given picture: the first image is the reconstruction."""
    pytest.importorskip("sdprobe.sampling.edit")
    inverted = quietly(tiny, PICTURE, "a red star", steps=3, guidance_scale=3.0, method="null-text", iterations=2)
    run = inverted.edit(["a blue star", "a red ring"], progress=False)
    back = inverted.sample(progress=False)
    assert run.settings.prompt == ("a red star", "a blue star", "a red ring")
    assert torch.allclose(run.latents[:1], back.latents, atol=1e-4)
    assert not torch.allclose(run.latents[1:2], back.latents, atol=1e-3)


def test_an_edit_is_of_one_picture(tiny):
    pytest.importorskip("sdprobe.sampling.edit")
    inverted = invert(tiny, [PICTURE, PICTURE], "a star", steps=2, progress=False)
    with pytest.raises(ValueError, match="an edit is of one picture, and 2 were inverted"):
        inverted.edit("a ring")


def test_negative_prompt_inversion_makes_guidance_nothing(tiny):
    inverted = invert(tiny, PICTURE, "a star", steps=4, guidance_scale=5.0, method="negative-prompt", progress=False)
    unguided = invert(tiny, PICTURE, "a star", steps=4, progress=False)
    assert torch.equal(inverted.latents, unguided.latents)
    guided, plain = inverted.sample(progress=False), unguided.sample(progress=False)
    assert guided.settings.negative_prompt == ("a star",)
    assert torch.allclose(guided.latents, plain.latents, atol=1e-4)
    with pytest.raises(ValueError, match="the negative prompt of negative-prompt inversion is the prompt"):
        invert(tiny, PICTURE, "a star", negative_prompt="a ring", method="negative-prompt", progress=False)


def test_the_negative_prompt_is_that_of_the_inversion(tiny):
    inverted = invert(tiny, PICTURE, "a star", steps=2, guidance_scale=3.0, negative_prompt="a ring", progress=False)
    assert inverted.sample(progress=False).settings.negative_prompt == ("a ring",)
    assert inverted.sample(negative_prompt="a box", progress=False).settings.negative_prompt == ("a box",)
