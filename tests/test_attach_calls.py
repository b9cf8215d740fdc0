"""How a pipeline may be called and built: arrays, classes of one's own, inference mode, adapters, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

import sdprobe
from sdprobe.model.call_signature import CallSignature
from sdprobe.stock_pipelines.attach import attach
from tests.families import flux, stable_diffusion_3, stable_diffusion_xl
from tests.laws.strategies import same_run, same_values, seen
from tests.stock_pipelines import Stock, attached, called, sampled, text_to_image
from tests.tiny import stable_diffusion


@pytest.fixture(scope="module")
def stock() -> Stock:
    return text_to_image()


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


# Arrays.


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, tuple])
@pytest.mark.parametrize(
    ("make", "name", "values"),
    [
        (stable_diffusion_xl, "timesteps", [999, 600, 200]),
        (stable_diffusion_xl, "sigmas", [10.0, 3.0, 1.0]),
        (stable_diffusion_3, "sigmas", [1.0, 0.6, 0.2]),
        (lambda: flux(guidance_embeds=False), "sigmas", [1.0, 0.6, 0.2]),
    ],
)
def test_a_schedule_given_as_any_array_is_of_so_many_steps(make, name, values, kind):
    stock = Stock(quiet(make()), {"height": 16, "width": 16, "num_inference_steps": 3})
    try:
        expected = called(stock, **{name: kind(values)})
    except (TypeError, ValueError, RuntimeError) as refused:  # not every scheduler takes every kind
        with pytest.raises(type(refused)), attach(stock.pipe, "latents"):
            called(stock, **{name: kind(values)})
        return
    latents = seen("latents")
    with attach(stock.pipe, latents) as run:
        assert torch.equal(called(stock, **{name: kind(values)}), expected)
    assert run.settings.steps == 3
    assert len(run[latents].values) == len(stock.pipe.scheduler.timesteps)


# Classes of one's own.


class PassesAll(StableDiffusionPipeline):
    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs)


class PassesPrompt(StableDiffusionPipeline):
    def __call__(self, prompt, *args, mood="calm", **kwargs):
        return super().__call__(prompt, *args, **kwargs)


class OtherDefaults(PassesAll):
    def __call__(self, prompt=None, num_inference_steps=4, **kwargs):
        return super().__call__(prompt, num_inference_steps=num_inference_steps, **kwargs)


@pytest.mark.parametrize("kind", [PassesAll, PassesPrompt, OtherDefaults])
def test_a_class_that_passes_its_arguments_on_is_as_the_one_it_derives_from(stock, kind):
    own = Stock(quiet(kind(**stable_diffusion().components, requires_safety_checker=False)), {})
    asked = {"num_images_per_prompt": 2, "negative_prompt": "a star"}
    watch = [seen("latents"), seen("attention"), seen("prompt_embeds")]
    theirs, ours = attached(own, *watch, **asked), attached(stock, *watch, **asked)
    assert same_run(theirs, ours)
    assert theirs.settings == ours.settings
    assert all(same_values(theirs[hook].values, ours[hook].values) for hook in watch)
    steps = 4 if kind is OtherDefaults else 50
    with attach(own.pipe, "latents") as run:
        own.pipe("a red circle", output_type="latent")
    assert (run.settings.steps, run.settings.guidance_scale) == (steps, 7.5)
    assert same_run(sampled(own), sampled(stock))
    run = sdprobe.sample(own.pipe, "a red circle", seed=0, progress=False, hooks=[sdprobe.Guidance(2.0)])
    assert run.settings.steps == steps


def test_callbacks_given_by_place_are_heard_too(stock):
    own, log = quiet(PassesAll(**stable_diffusion().components, requires_safety_checker=False)), []
    takes = CallSignature.of(own).levels[-1].parameters
    before = [name for name in takes if takes[name].kind is takes[name].POSITIONAL_OR_KEYWORD]
    usual = [takes[name].default for name in before[: before.index("callback_on_step_end")]]
    usual[before.index("num_inference_steps")] = 3

    def at_step_end(pipe, index, timestep, values):
        log.append(index)
        return {}

    final = seen("final_latents")
    with attach(own, final) as run:
        own("a star", *usual[1:], at_step_end)
    assert log == [0, 1, 2]
    assert torch.equal(run[final].values[0], run.latents)


def test_what_a_call_does_not_take_is_refused_as_ever(stock):
    own = quiet(PassesAll(**stable_diffusion().components, requires_safety_checker=False))
    with attach(own), pytest.raises(TypeError, match="multiple values"):
        own("a star", prompt="a ring")
    with pytest.raises(KeyError, match="sharpness"):
        CallSignature.of(own).default("sharpness")


# Pipelines built in inference mode.


def test_a_pipeline_built_in_inference_mode(stock):
    with torch.inference_mode():
        own = Stock(quiet(stable_diffusion()), {})
    watch = seen("attention")
    assert same_run(sampled(own, watch, sdprobe.AttentionMaps()), sampled(stock))
    assert same_run(attached(own, watch, sdprobe.AttentionMaps()), attached(stock))
    for hook in (sdprobe.LossGuidance(lambda image: image.mean((1, 2, 3)), 1.0, through="model"), Steers()):
        for run in (sampled, attached):
            with pytest.raises(ValueError, match=r"built under torch.inference_mode\(\)"):
                run(own, hook)


# A picture beside the prompt.


def test_sample_says_what_an_ip_adapter_needs():
    from tests.test_attach import with_ip_adapter

    stock = with_ip_adapter()
    before = stock.pipe.unet.config.encoder_hid_dim_type
    with pytest.raises(ValueError, match=r"IP-Adapter.*attach to the pipeline.*unload_ip_adapter"):
        sampled(stock)
    assert stock.pipe.unet.config.encoder_hid_dim_type == before
    stock.pipe.unload_ip_adapter()
    assert same_run(sampled(stock), sampled(text_to_image()))


# Gradients.


class Steers(sdprobe.Transform):
    """Asks for a gradient by itself, and lets it flow where it will."""

    def noise_pred(self, x, step):
        with torch.enable_grad():
            leaf = step.latents.detach().requires_grad_()
            step.predict(leaf).square().sum().backward()
        return x + 0.01 * leaf.grad


class Careless(sdprobe.Transform):
    """Calls parts of the model by itself, with gradients."""

    def noise_pred(self, x, step):
        with torch.enable_grad():
            step.run.model.pipe.vae.decode(x).sample.sum().backward()
        return x


@pytest.mark.parametrize("hook", [Steers(), Careless(), sdprobe.AttendAndExcite(["circle"])])
def test_no_gradient_is_left_in_a_parameter(stock, hook):
    (kept, *others) = [p for part in (stock.pipe.unet, stock.pipe.vae) for p in part.parameters()]
    kept.grad = before = torch.ones_like(kept)
    try:
        runs = [run(stock, hook) for run in (sampled, attached)]
        assert same_run(*runs)
        assert kept.grad is before
        assert torch.equal(kept.grad, torch.ones_like(kept))
        assert all(parameter.grad is None and parameter.requires_grad for parameter in others)
    finally:
        kept.grad = None


@pytest.mark.parametrize("asked", [{"height": 4, "width": 4}, {"height": 4, "width": 8}])
def test_the_smallest_picture_is_the_stock_pipeline_s_to_the_last_bit(asked):
    """Torch takes another kernel for a small product where a weight asks for no gradient."""
    stock = Stock(quiet(stable_diffusion_3()), asked)
    expected, watch = called(stock), seen("latents")
    with attach(stock.pipe, watch):
        assert torch.equal(called(stock), expected)
    ours = sdprobe.sample(
        stock.pipe, "a red circle", hooks=[watch], steps=3, guidance_scale=3.0, seed=0, progress=False, **asked
    )
    stock_latents = called(stock, output_type="latent")
    assert torch.equal(ours.latents, stock_latents)
