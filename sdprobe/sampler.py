"""`sample`: the loop. Read it aloud; every point a hook can act at stands in it once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sdprobe.compose import Hooks
from sdprobe.model.base import Model
from sdprobe.model.copies import copied_generator
from sdprobe.model.live import generators
from sdprobe.model.loading import load
from sdprobe.model.predicting import predicting
from sdprobe.model.schedulers import fresh_scheduler
from sdprobe.model.settings import Seed, fill
from sdprobe.model.taps import Taps
from sdprobe.observe.progress import Progress
from sdprobe.registry import Given, resolve
from sdprobe.run import Run, Settings, State


def sample(
    model: Model | Any,
    prompt: str | Sequence[str],
    *,
    hooks: Given = (),
    negative_prompt: str | Sequence[str] | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    seed: Seed | None = None,
    scheduler: str | type | Any | None = None,
    height: int | None = None,
    width: int | None = None,
    images_per_prompt: int = 1,
    latents: Tensor | None = None,
    image: Any = None,
    strength: float | None = None,
    start_step: int | None = None,
    progress: bool = True,
) -> Run:
    """Make pictures of a prompt, past the hooks.

    With no hook that changes anything, latents and pictures equal the stock pipeline's, bit for bit.

    >>> import sdprobe
    >>> maps = sdprobe.AttentionMaps()
    >>> run = sdprobe.sample(
    ...     sdprobe.load(), "a red circle", hooks=[maps], steps=4, guidance_scale=5.0, seed=0, progress=False
    ... )
    >>> run
    Run('a red circle', 1 image of 64×64, 4 steps of DDIMScheduler, guidance 5, seed 0)
    >>> run.latents.shape, run.images[0].size, run[maps].heat_map("circle").values.shape
    (torch.Size([1, 4, 16, 16]), (64, 64), torch.Size([16, 16]))

    Args:
        model: what `sdprobe.load` gives, or a live diffusers pipeline.
        prompt: one text or several. None, for anything that follows, is the pipeline's own default.
        hooks: hooks, `Hooks`, registered names, and pairs of a name and its configuration, such as
            ``("latents", {"every": 5})``. They act in the order given.
        negative_prompt: one text for all prompts, or one each.
        steps: how often the scheduler steps.
        guidance_scale: classifier-free guidance; 1 and below is none.
        seed: a number ``k`` gives what the pipeline gives for ``torch.Generator("cpu").manual_seed(k)``; a list is
            one per image. None draws one, which `run.seed` tells.
        scheduler: a class that fits the pipeline, its name (``"DDIM"``, ``"Euler"``), or an instance to take the
            configuration of.
        height: pixels, a multiple of 8.
        width: pixels, a multiple of 8.
        images_per_prompt: how many pictures of each prompt.
        latents: the initial noise ``[images, channels, h, w]``, of unit variance, in place of the seed's.
        image: a picture to start from, or one per prompt (image-to-image).
        strength: how much of the picture to replace, in (0, 1]: the share of the steps that are taken.
        start_step: the step to enter with the picture, counted from 0, in place of ``strength``.
        progress: show a bar.

    Raises:
        ValueError: for a setting that cannot be, before anything runs.
    """
    model = load(model) if not isinstance(model, Model) else model
    own_scheduler = fresh_scheduler(model.pipe, scheduler)
    settings = fill(
        model,
        prompt=prompt,
        negative_prompt=negative_prompt,
        steps=steps,
        guidance_scale=guidance_scale,
        seed=seed,
        scheduler=type(own_scheduler).__name__,
        height=height,
        width=width,
        images_per_prompt=images_per_prompt,
        latents=latents,
        image=image,
        strength=strength,
        start_step=start_step,
    )
    return loop(model, settings, hooks, own_scheduler, latents=latents, image=image, progress=progress)


def loop(
    model: Model,
    settings: Settings,
    hooks: Given,
    scheduler: Any,
    *,
    latents: Tensor | None = None,
    image: Any = None,
    state: State | None = None,
    progress: bool = True,
) -> Run:
    """The loop itself: from noise, from a picture, or from where another run stood."""
    stack, by_name = resolve(hooks)
    stack = Hooks(stack, Progress()) if progress else stack
    with model.turn(), torch.inference_mode(False), torch.no_grad(), model.frozen():
        stage = model.staged(scheduler, settings, stack.brings, state)
        run = Run(
            model, settings, *(tuple(map(stage.read, texts)) for texts in (settings.prompt, settings.negative_prompt))
        )
        run.names = dict(by_name)
        run.resumed_at = stage.begin
        generator = generators(run.seed) if state is None else copied_generator(state.generator)
        with stage.knowing(), stack.opened(run) as live:
            taps = Taps(stage.denoiser, stage.attention_kind, live, stage.layout(settings), run.coverage)
            conditioning = stage.encode(run, live, run.roles)
            x = stage.start_latents(settings, generator, latents, image) if state is None else state.latents
            further = predicting(stage, taps, conditioning)
            for step_at in stage.steps(run, run.roles, generator, further):
                x = live.latents(x, step_at(x))
                x = x.detach().requires_grad_(live.needs_grad)
                step = step_at(x)
                with torch.set_grad_enabled(live.needs_grad):
                    with taps.watching(step):
                        output = stage.denoise(x, step, conditioning)
                    output = live.model_output(output, step)
                    noise_pred = stage.guide(output, step.rows, settings.guidance_scale)
                    step = replace(step, model_output=output)
                    noise_pred = live.noise_pred(noise_pred, step)
                x = live.sample(x.detach(), step)
                x = stage.advance(noise_pred.detach(), step, x, generator)
            run.latents = live.final_latents(x, run)
            picture = live.image(stage.decode(run.latents, generator), run)
            run.images = stage.pictures(picture)
    return run
