"""Nothing of sdprobe waits for the device while a run goes on.

The models are on torch's meta device, where shapes are computed and no value: whatever reads one raises an error there,
as it would wait on a GPU. So a run goes on until its pictures are fetched, the first thing that is read.
"""

from __future__ import annotations

import traceback
from pathlib import Path

import diffusers
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import sdprobe
from sdprobe import attach
from tests.families import FAMILIES

ROOTS = (str(Path(torch.__file__).parent), __file__)
MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
INDEXED = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)
STEPS = 3


class Euler(diffusers.EulerDiscreteScheduler):
    """Computes its tables on the CPU, and is told where it begins, so that it reads nothing of the device itself."""

    def set_timesteps(self, num_inference_steps=None, device=None, **others):
        super().set_timesteps(num_inference_steps, device="cpu", **others)
        self.timesteps = self.timesteps.to(device)
        self.set_begin_index(0)


class DDIM(diffusers.DDIMScheduler):
    """Counts its steps, where that of diffusers reads each timestep from the device."""

    def set_timesteps(self, num_inference_steps, device=None):
        super().set_timesteps(num_inference_steps, device="cpu")
        self.own, self.calls = self.timesteps, 0
        self.timesteps = self.timesteps.to(device)

    def step(self, model_output, timestep, *args, **others):
        self.calls += 1
        return super().step(model_output, self.own[self.calls - 1], *args, **others)


class Flow(diffusers.FlowMatchEulerDiscreteScheduler):
    """Is told where it begins."""

    def set_timesteps(self, *args, **others):
        super().set_timesteps(*args, **others)
        self.set_begin_index(0)


MODELS = {
    "Stable Diffusion 1, DDIM": ("Stable Diffusion 1", DDIM),
    "Stable Diffusion 1, Euler": ("Stable Diffusion 1", Euler),
    "Stable Diffusion 2, Euler": ("Stable Diffusion 2", Euler),
    "Stable Diffusion XL": ("Stable Diffusion XL", Euler),
    "Stable Diffusion 3": ("Stable Diffusion 3", Flow),
    "Flux.1 dev": ("Flux.1 dev", diffusers.FlowMatchEulerDiscreteScheduler),
}

STACKS = {
    "no hooks": lambda: [],
    "observers": lambda: [
        sdprobe.AttentionMaps(),
        sdprobe.LatentRecorder(keep=("latents", "noise_pred", "denoised")),
        sdprobe.Statistics(),
    ],
    "further observers": lambda: [
        sdprobe.SelfAttentionMaps(),
        sdprobe.Preview(decoder="vae"),
        sdprobe.Checkpoints(),
        sdprobe.Progress(),
    ],
    "transforms": lambda: [
        sdprobe.on("noise_pred", lambda x, step: x + 0.1 * step.output_for(step.denoised(x), step.latents)),
        sdprobe.only(sdprobe.on("latents", lambda x: x * 1.1), steps={1}),
        sdprobe.DynamicThreshold(),
        sdprobe.RescaleGuidance(),
    ],
}


class Waits(TorchDispatchMode):
    """Notes where sdprobe copies from the CPU to the device in a way that waits, from the first step on."""

    def __init__(self):
        super().__init__()
        self.steps, self.found = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result, kwargs = func(*args, **(kwargs or {})), kwargs or {}
        if self.steps and self.waits(func, args, kwargs, result):
            frames = (frame for frame in traceback.extract_stack()[::-1] if not frame.filename.startswith(ROOTS))
            where = next(frames)
            if "sdprobe" in Path(where.filename).parts and "tests" not in Path(where.filename).parts:
                self.found.append(f"{where.filename}:{where.lineno} {where.line}")
        return result

    def waits(self, func, args, kwargs, result):
        if func in MOVES:
            source = args[0] if func is MOVES[0] else args[1]
            non_blocking = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
            return source.device.type == "cpu" and result.device.type == "meta" and not non_blocking
        if func in INDEXED:
            indices = (index for index in args[1] if index is not None)
            return args[0].device.type == "meta" and any(index.device.type == "cpu" for index in indices)
        return False


def on_meta(name):
    """A pipeline whose networks hold no values."""
    family, scheduler = MODELS[name]
    pipe = FAMILIES[family]()
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.to("meta")
    return pipe


def sampled(pipe, hooks):
    side = 8 * pipe.vae_scale_factor
    sdprobe.sample(
        pipe, "a red circle", hooks=hooks, steps=STEPS, guidance_scale=3.0, height=side, width=side, progress=False
    )


def attached(pipe, hooks):
    side, others = 8 * pipe.vae_scale_factor, {}
    if isinstance(pipe, diffusers.PixArtAlphaPipeline):
        others["use_resolution_binning"] = False
    with attach(pipe, hooks):
        pipe("a red circle", num_inference_steps=STEPS, guidance_scale=3.0, height=side, width=side, **others)


def first_error(error):
    """The first of the errors that followed each other: hooks read their records when the run has ended."""
    return error if error.__context__ is None else first_error(error.__context__)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("run", [sampled, attached])
def test_the_picture_is_the_first_thing_read(name, stack, run):
    pipe, waits = on_meta(name), Waits()
    network = getattr(pipe, "unet", None) or pipe.transformer

    def count(*call):
        waits.steps += 1

    network.register_forward_hook(count)
    with waits, pytest.raises(NotImplementedError, match="meta") as caught:
        run(pipe, STACKS[stack]())
    assert "pt_to_numpy" in [frame.name for frame in traceback.extract_tb(first_error(caught.value).__traceback__)]
    assert waits.steps == STEPS
    assert waits.found == []
