"""`sample`: the sampling loop, with each point of the hooks once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sdprobe.core.compose import Hooks
from sdprobe.core.given_hooks import Given
from sdprobe.core.registry import resolve
from sdprobe.core.run import Role, Run, Settings, State
from sdprobe.model.base import Model
from sdprobe.model.denoiser.cache_states import fresh_caches, gradients_past_caches
from sdprobe.model.denoiser.expected_sites import tell_expected_sites
from sdprobe.model.denoiser.further_calls import predicting
from sdprobe.model.denoiser.left_out_rows import without_left_out
from sdprobe.model.denoiser.module_hooks import ModuleHooks
from sdprobe.model.diffusion.scheduler_copies import copied_generator
from sdprobe.model.diffusion.schedulers import fresh_scheduler
from sdprobe.model.fill_settings import Seed, fill
from sdprobe.model.loading import load
from sdprobe.model.outside_modules import listen_to_decoder
from sdprobe.model.seeds import generators
from sdprobe.model.text.encode_in_chunks import reading_in_chunks
from sdprobe.model.text.encode_with_weights import reading_weights
from sdprobe.model.text.gradient_leaves import GradientLeaves
from sdprobe.observe.progress import Progress


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
    chunks: bool = False,
    weights: bool = False,
    frames: int | None = None,
    guidance_scale_2: float | None = None,
    progress: bool = True,
) -> Run:
    """Generate images from a prompt, with hooks.

    With no hook that changes a value, latents and images equal those of the stock pipeline, bit for bit.

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
        model: the result of `sdprobe.load`, or a live diffusers pipeline.
        prompt: one text or several. For all following arguments, None means the pipeline's default.
        hooks: hooks, `Hooks`, registered names, and pairs of a name and its configuration, such as
            ``("latents", {"every": 5})``. They act in the order given. A dictionary gives each a name of your own:
            with ``hooks={"maps": maps}``, ``run["maps"]`` is ``run[maps]``, also in a saved run.
        negative_prompt: one text for all prompts, or one each.
        steps: the number of scheduler steps.
        guidance_scale: classifier-free guidance; 1 and below is no guidance.
        seed: a number ``k`` gives the pipeline's result for ``torch.Generator("cpu").manual_seed(k)``; a list has one
            seed per image. None draws a seed, which is then `run.seed`.
        scheduler: a class that fits the pipeline, its name (``"DDIM"``, ``"Euler"``), or an instance whose
            configuration is used.
        height: pixels, a multiple of 8.
        width: pixels, a multiple of 8.
        images_per_prompt: number of images per prompt.
        latents: the initial noise ``[images, channels, h, w]``, of unit variance, instead of noise from the seed.
        image: an image to start from, or one per prompt (image-to-image).
        strength: how much of the image to replace, in (0, 1]: the fraction of the steps to run.
        start_step: the step at which to start from the image, counted from 0, instead of ``strength``.
        chunks: read prompts beyond CLIP's context in several chunks, which are encoded each by itself and stand side by
            side, instead of cutting them there. All prompts of a run, and its negative prompts, get as many chunks as
            the longest takes, filled up with empty ones. The pooled vector of Stable Diffusion XL is that of the first
            chunk. For models that read prompts by CLIP alone.
        weights: read the prompts and negative prompts with weights of words, as in ``"a (red:1.3) circle++"`` (see
            `sdprobe.read_weights`). Pooled vectors, and texts of hooks, have none.
        frames: the number of frames of each video, for models of videos: 1 more than a multiple of the autoencoder's
            factor in time, such as 81. CogVideoX can make more, and `run.settings` says how many were made.
        guidance_scale_2: the guidance scale in the steps of the second denoiser, for a model that has two (Wan 2.2);
            None for ``guidance_scale``.
        progress: show a progress bar.

    Raises:
        ValueError: for an invalid setting, before anything runs.
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
        chunks=chunks,
        weights=weights,
        frames=frames,
        guidance_scale_2=guidance_scale_2,
    )
    return loop(model, settings, hooks, own_scheduler, latents=latents, image=image, progress=progress)


def sides_of(settings: Settings) -> tuple[tuple[Role, tuple[str, ...]], ...]:
    """Return the texts of a run's prompts and of its negative prompts, with their roles."""
    return ("cond", settings.prompt), ("uncond", settings.negative_prompt)


def loop(
    model: Model,
    settings: Settings,
    given: Given,
    scheduler: Any,
    *,
    latents: Tensor | None = None,
    image: Any = None,
    state: State | None = None,
    progress: bool = True,
) -> Run:
    """Run the loop: from noise, from an image, or from the state of another run."""
    stack, by_name = resolve(given)
    stack = Hooks(stack, Progress()) if progress else stack
    with model.lock(), torch.inference_mode(False), torch.no_grad(), fresh_caches(*model.denoisers.values()):
        prepared = reading_weights(model.prepare_run(scheduler, settings, stack.brings, state), settings)
        run_model = reading_in_chunks(prepared, settings)
        prompts, negative_prompts = (
            tuple(run_model.of_role(role).read(run_model.plain(text)) for text in texts)
            for role, texts in sides_of(settings)
        )
        run = Run(model, settings, prompts, negative_prompts)
        run.names = dict(by_name)
        run.resumed_at = run_model.begin
        if run_model.levels:
            run.levels = run_model.levels.from_step(run_model.first)
        generator = generators(run.seed) if state is None else copied_generator(state.generator)
        with (
            run_model.add_tokens(),
            stack.open(run) as hooks,
            model.freeze_parameters(hooks.needs_grad),
            gradients_past_caches(*model.denoisers.values(), wanted=hooks.needs_grad),
        ):
            module_hooks = ModuleHooks.of_run(run_model, run, hooks)
            module_hooks.refuse_unreachable(run_model, run)
            tell_expected_sites(run_model, run, hooks)
            conditioning = run_model.encode(run, hooks, run.roles)
            x = run_model.start_latents(settings, generator, latents, image) if state is None else state.latents
            grown = GradientLeaves(run_model, run, hooks, conditioning)
            further, options = partial(predicting, run_model, module_hooks), run_model.step_options(generator)
            for step_at in run_model.steps(run, run.roles, generator, further(conditioning)):
                x = hooks.latents(x, step_at(x))
                x = x.detach().requires_grad_(hooks.needs_grad)
                conditioning, leaves = grown.grow(x)
                step, told = without_left_out(step_at(x, leaves=leaves), conditioning, module_hooks.has_caches, further)
                with torch.set_grad_enabled(hooks.needs_grad):
                    outputs = []
                    for part, own in run_model.passes(step, told):
                        with module_hooks.listen(part, own.arguments):
                            output = run_model.denoise(x, part, own)
                        outputs.append(hooks.model_output(output, part))
                    output = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
                    noise_pred = run_model.guide(output, step.rows, run_model.scale_at(step))
                    step = replace(step, model_output=output)
                    noise_pred = hooks.noise_pred(noise_pred, step)
                x = hooks.sample(x.detach(), step)
                x = run_model.advance(noise_pred.detach(), step, x, options)
                run.stopped_at = run.control.stopped_at
                if run.stopped_at is not None:
                    break
            run.latents = hooks.final_latents(x, run)
            run.nan_trace.note_final(run.latents)
            with listen_to_decoder(run_model, run, hooks):
                picture = run_model.decode(run.latents, generator)
            run.images = run_model.pictures(hooks.image(picture, run))
    return run
