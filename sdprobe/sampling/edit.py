"""`edit`: a picture of one prompt, and the same picture as another prompt has it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from sdprobe.core.compose import Hook
from sdprobe.core.given_hooks import Given
from sdprobe.core.limits.only import only
from sdprobe.core.registry import create, resolve
from sdprobe.core.run import Run
from sdprobe.core.token_alignment import align_tokens
from sdprobe.model.base import Model
from sdprobe.model.fill_settings import Seed, of_steps
from sdprobe.model.loading import load
from sdprobe.model.text.encode_in_chunks import reading_in_chunks
from sdprobe.sampling.loop import sample
from sdprobe.transform.prompt_to_prompt.inject_self_attention import InjectSelfAttention
from sdprobe.transform.prompt_to_prompt.refine_attention import RefineAttention
from sdprobe.transform.prompt_to_prompt.replace_attention import ReplaceAttention

Grid = tuple[int, int]


def edit(
    model: Model | Any,
    source: str,
    target: str | Sequence[str],
    *,
    seed: Seed = 0,
    cross: float = 0.8,
    self_attention: float = 0.4,
    grids: Collection[int | Grid] | None = None,
    reweight: Mapping[str | int, float] | None = None,
    blend: Any = None,
    hooks: Given = (),
    steps: int | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    scheduler: str | type | Any | None = None,
    height: int | None = None,
    width: int | None = None,
    latents: Tensor | None = None,
    image: Any = None,
    strength: float | None = None,
    start_step: int | None = None,
    chunks: bool = False,
    progress: bool = True,
) -> Run:
    """Generate the picture of a prompt, and edits of it: prompt-to-prompt.

    All start from the same noise. In the first steps an edit has the source's attention to the text, by
    `ReplaceAttention` where words were only swapped, one for one, else by `RefineAttention`, and its self-attention, by
    `InjectSelfAttention`.

    >>> import sdprobe
    >>> run = sdprobe.edit(
    ...     sdprobe.load(),
    ...     "a red circle left of a blue square",
    ...     ["a green circle left of a blue square", "a large red circle left of a blue square"],
    ...     steps=4, seed=0, progress=False,
    ... )
    >>> len(run.images), [hook for hook, _ in run.records]
    (3, [ReplaceAttention(until=0.8, targets=[1]), RefineAttention(until=0.8, targets=[2]), InjectSelfAttention()])

    Args:
        model: the result of `sdprobe.load`, or a live diffusers pipeline.
        source: the prompt of the picture.
        target: the prompt of the edit, or several.
        seed: a number, or a list of one for each image of the source; an edit's images have the same.
        cross: the share of the steps in which an edit has the source's attention to the text; 0 for none.
        self_attention: the share of the steps in which it has the source's self-attention; 0 for none.
        grids: where it has: only at sites of these grids; None as in `InjectSelfAttention`.
        reweight: factors for words of the edits, ``{"red": 3.0}`` (`ReweightAttention`).
        blend: the word of what is edited, or a pair of the source's and the edit's: all else stays as in the source
            (`LocalBlend`).
        hooks: further hooks, which act after these; as in `sample`.
        latents: the initial noise of the source's images, ``[images, channels, h, w]``, such as `invert` finds for a
            picture; an edit's images have the same.

    The other arguments are those of `sample`.

    Returns:
        The run: the source's images first, then those of each edit.

    Raises:
        TypeError, ValueError: for an invalid setting, and as the hooks do.

    Source: Hertz et al. 2022, "Prompt-to-Prompt Image Editing with Cross Attention Control", algorithm 1.
    """
    model = load(model) if not isinstance(model, Model) else model
    targets = (target,) if isinstance(target, str) else tuple(target)
    if not targets or not all(isinstance(text, str) for text in (source, *targets)):
        raise TypeError(f"source is a text, and target a text or several, not {source!r} and {target!r}")
    seeds = [seed] if isinstance(seed, int) else list(seed)
    prompts, count = (source, *targets), len(seeds)
    own = list(_hooks(model, prompts, count, cross, self_attention, grids, reweight, blend, chunks))
    by_name: dict[str, Any] = {f"prompt-to-prompt {k}": hook for k, hook in enumerate(own)}
    return sample(
        model,
        prompts,
        hooks=by_name | dict(hooks) if isinstance(hooks, Mapping) else [*own, resolve(hooks)[0]],
        negative_prompt=negative_prompt,
        steps=steps,
        guidance_scale=guidance_scale,
        seed=seeds * len(prompts),
        scheduler=scheduler,
        height=height,
        width=width,
        images_per_prompt=count,
        latents=None if latents is None else latents.repeat(len(prompts), *[1] * (latents.ndim - 1)),
        image=image,
        strength=strength,
        start_step=start_step,
        chunks=chunks,
        progress=progress,
    )


def _hooks(
    model: Model,
    prompts: Sequence[str],
    count: int,
    cross: float,
    self_attention: float,
    grids: Collection[int | Grid] | None,
    reweight: Mapping[str | int, float] | None,
    blend: Any,
    chunks: bool,
) -> Iterator[Hook]:
    """Return the hooks of an edit; ``count`` is the number of images of each prompt."""
    if cross:
        settings = replace(of_steps(model, 1, ""), prompt=tuple(prompts), chunks=chunks)
        source, *targets = map(reading_in_chunks(model, settings).read, prompts)
        swapped = [k for k, target in enumerate(targets, 1) if align_tokens(source, target).only_swaps]
        others = [k for k in range(1, len(prompts)) if k not in swapped]
        if swapped:
            yield ReplaceAttention(until=cross, targets=swapped)
        if others:
            yield RefineAttention(until=cross, targets=others)
    if self_attention:
        yield InjectSelfAttention(until=self_attention, grids=grids)
    if reweight is not None:
        yield only(create("reweight-attention", weights=reweight), rows=range(count, count * len(prompts)))
    if blend is not None:
        yield create("local-blend", words=blend)
