"""Modular pipelines: `attach` listens to their parts and to the blocks of their loops."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, FluxModularPipeline, StableDiffusionXLModularPipeline
from diffusers.modular_pipelines import ComponentSpec, InputParam, ModularPipelineBlocks, PipelineState

import sdprobe
from sdprobe.testing import footprint
from tests.families import flux, stable_diffusion_xl
from tests.laws.strategies import affine, same_values, seen
from tests.stock_pipelines import mask, picture
from tests.test_unknown_pipeline import Keeps

pytestmark = pytest.mark.filterwarnings("ignore:.*experimental.*")
KINDS = {
    "Flux": (FluxModularPipeline, flux),
    "Stable Diffusion XL": (StableDiffusionXLModularPipeline, stable_diffusion_xl),
}
SHARED = ("latents", "noise_pred", "attention", "activation")
LAYERS = ("*to_q",)


def of_parts(name):
    """The modular pipeline of the parts of the task pipeline, and that."""
    kind, make = KINDS[name]
    pipe, made = make(), kind()
    parts = {part: own for part, own in pipe.components.items() if part in made.component_names and own is not None}
    made.update_components(**parts)
    pipe.set_progress_bar_config(disable=True)
    return made, pipe


@pytest.fixture(scope="module", params=KINDS)
def pipes(request):
    return of_parts(request.param)


def called(pipe, seed=0, **given):
    generator = torch.Generator().manual_seed(seed)
    asked = {"prompt": "a red circle", "height": 16, "width": 16, "num_inference_steps": 2, "output_type": "pt"}
    asked |= {"output": "images"} if "Modular" in type(pipe).__name__ else {}
    found = pipe(generator=generator, **asked | given)
    return getattr(found, "images", found)


def at(point, hook=seen):
    made = hook(point)
    made.modules = LAYERS if point == "activation" else None
    return made


def test_looking_changes_nothing_and_every_point_changes_the_picture(pipes):
    pipe, _ = pipes
    expected, before = called(pipe), footprint(pipe)
    with sdprobe.attach(pipe, [at(point) for point in (*SHARED, "final_latents")]) as run:
        assert torch.equal(called(pipe), expected)
    after = footprint(pipe)
    assert {name: own for name, own in after.items() if name != "scheduler"} == {
        name: own for name, own in before.items() if name != "scheduler"
    }
    assert not run.coverage.missed
    for point in SHARED:
        with sdprobe.attach(pipe, at(point, lambda name: affine(name, 1.1, 0.25))):
            assert not torch.equal(called(pipe), expected), point
    assert torch.equal(called(pipe), expected)


def test_values_are_those_of_the_task_pipeline(pipes):
    """Whose family knows what they are. That of SDXL calls its network once for both groups of rows, this one twice."""
    pipe, task = pipes
    hooks = [at(point) for point in SHARED]
    with sdprobe.attach(pipe, hooks) as run:
        found = called(pipe)
    with sdprobe.attach(task, hooks) as known:
        expected = called(task, **({} if "Flux" in type(task).__name__ else {"guidance_scale": 7.5}))
    assert torch.allclose(found, expected, atol=1e-5)
    keeps = Keeps()
    with sdprobe.attach(pipe, keeps) as other:
        called(pipe)
    latents = [known.model.packed(x) for x in known[hooks[0]].values]
    assert all(torch.allclose(*pair, atol=1e-3) for pair in zip(other[keeps].x, latents, strict=True))
    assert (run.settings.steps, run.settings.height, run.settings.seed) == (2, 16, 0)
    assert run.settings.guidance_scale == known.settings.guidance_scale
    assert run.settings.strength is None
    if "Flux" in type(task).__name__:
        assert torch.equal(found, expected)
        for hook in hooks[2:]:
            assert same_values(run[hook].values, known[hook].values)


def test_what_it_is_asked_for_may_stand_in_a_state(pipes):
    pipe, _ = pipes
    state = PipelineState()
    for name, value in {"prompt": "a red circle", "height": 16, "width": 16, "output_type": "pt"}.items():
        state.set(name, value)
    given = {"generator": torch.Generator().manual_seed(0), "num_inference_steps": 2}
    expected = pipe(state, "images", **given)
    with sdprobe.attach(pipe, at("latents")) as run:
        found = pipe(state, "images", **given | {"generator": torch.Generator().manual_seed(0)})
    assert torch.equal(found, expected)
    assert (run.settings.prompt, run.settings.height, run.settings.steps) == (("a red circle",), 16, 2)
    with sdprobe.attach(pipe, at("latents")) as run:
        several = called(pipe, output=["images", "latents"], output_type="pil")
    assert run.images == several["images"]
    assert torch.equal(run.latents, several["latents"]) or "Flux" in type(pipe).__name__


def test_rows_are_what_the_user_says():
    """The guider calls the network for the prompt, and then for the negative prompt."""
    pipe, task = of_parts("Stable Diffusion XL")
    queries = {}
    for name, own, more in (("modular", pipe, {}), ("task", task, {"guidance_scale": 7.5})):
        keep = sdprobe.Activations("mid_block*attn2.to_q", rows="cond")
        rows = {"rows": lambda count, call: [(0, ("cond", "uncond")[call])]} if name == "modular" else {}
        with sdprobe.attach(own, [keep], **rows) as run:
            called(own, **more)
        queries[name] = run[keep]["mid_block.attentions.0.transformer_blocks.0.attn2.to_q"]
    assert torch.allclose(queries["modular"], queries["task"], atol=1e-5)


@pytest.mark.parametrize(
    "given", [{"image": picture()}, {"image": picture(), "mask_image": mask()}], ids=["image", "mask"]
)
def test_latents_pass_with_their_step_where_it_starts_from_a_picture(given):
    """Blocks put back what is kept of the picture after each step: latents pass when the next one begins."""
    pipe, _ = of_parts("Stable Diffusion XL")
    asked = {**given, "strength": 0.6, "num_inference_steps": 4}
    expected, steps = called(pipe, **asked), []

    class Steps(sdprobe.Observer):
        def latents(self, x, step):
            steps.append((step.index, step.timestep))

        def noise_pred(self, x, step):
            assert steps[-1] == (step.index, step.timestep)

    with sdprobe.attach(pipe, Steps()) as run:
        assert torch.equal(called(pipe, **asked), expected)
    assert [index for index, _ in steps] == [0, 1]
    assert run.settings.strength == 0.6
    assert not any("latents of step" in own for own in run.coverage.unknown)
    with sdprobe.attach(pipe, affine("latents", 1.1, 0.0)):
        assert not torch.equal(called(pipe, **asked), expected)


@pytest.mark.parametrize("hook", [sdprobe.AttentionMaps(), sdprobe.ReplaceToken("red", with_="blue")])
def test_what_cannot_be_had_is_refused_with_the_pipeline_that_has_it(pipes, hook):
    pipe, task = pipes
    with pytest.raises(ValueError, match="no family knows") as error, sdprobe.attach(pipe, hook):
        called(pipe)
    assert any(f"known of {type(task).__name__}: make it of the same parts" in own for own in error.value.__notes__)


def test_sample_names_what_to_do(pipes):
    pipe, task = pipes
    with pytest.raises(TypeError, match=rf"sdprobe\.attach\(pipe, hooks\) listens to; .* {type(task).__name__}, with"):
        sdprobe.sample(pipe, "a red circle")


class Loop(ModularPipelineBlocks):
    """A loop of one's own, which is no block of loops."""

    model_name = "flux"
    expected_components = (ComponentSpec("transformer", torch.nn.Module), ComponentSpec("scheduler", DDIMScheduler))
    inputs = (InputParam("latents"),)
    intermediate_outputs = ()

    def __call__(self, components, state):
        x = state.get("latents")
        components.scheduler.set_timesteps(3)
        for t in components.scheduler.timesteps:
            x = components.scheduler.step(components.transformer(x), t, x).prev_sample
        state.set("latents", x)
        return components, state


def test_a_loop_of_one_s_own_is_listened_to_as_that_of_any_pipeline():
    torch.manual_seed(0)
    pipe, keeps = Loop().init_pipeline(), Keeps()
    pipe.update_components(transformer=torch.nn.Linear(4, 4), scheduler=DDIMScheduler())
    x = torch.randn(1, 4)
    with torch.no_grad(), sdprobe.attach(pipe, keeps) as run:
        found = pipe(latents=x, output="latents")
    assert torch.equal(found, pipe(latents=x, output="latents"))
    assert len(run[keeps].x) == len(run[keeps].predicted) == 3
    assert torch.equal(run[keeps].x[0], x)
    said = "latents of step 0 are first seen when the scheduler is given them"
    with pytest.raises(RuntimeError, match=said), sdprobe.attach(pipe, affine("latents", 1.1, 0.0)):
        pipe(latents=x, output="latents")
