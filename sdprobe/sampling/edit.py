"""`edit`: a picture of one prompt, and the same picture as another prompt has it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from sdprobe.core.compose import Hook
from sdprobe.core.given_hooks import Given, put_before
from sdprobe.core.limits.only import only
from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Run
from sdprobe.core.token_alignment import align_tokens
from sdprobe.model.base import Model
from sdprobe.model.fill_settings import Seed, of_steps
from sdprobe.model.loading import load
from sdprobe.model.seeds import checked_seed
from sdprobe.model.text.encode_in_chunks import reading_in_chunks
from sdprobe.model.text.encode_with_weights import reading_weights
from sdprobe.sampling.loop import sample
from sdprobe.transform.prompt_to_prompt.inject_self_attention import InjectSelfAttention
from sdprobe.transform.prompt_to_prompt.local_blend import LocalBlend
from sdprobe.transform.prompt_to_prompt.refine_attention import RefineAttention
from sdprobe.transform.prompt_to_prompt.replace_attention import ReplaceAttention
from sdprobe.transform.prompt_to_prompt.reweight_attention import ReweightAttention

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
    latents: Tensor | None = None,
    chunks: bool = False,
    weights: bool = False,
    **settings: Any,
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
        chunks: as in `sample`.
        weights: as in `sample`.
        settings: other arguments of `sdprobe.sample`; not ``images_per_prompt``, of which there is one for each seed.

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
    checked = checked_seed(seed)
    seeds = list(checked) if isinstance(checked, tuple) else [checked]
    prompts, count = (source, *targets), len(seeds)
    if "images_per_prompt" in settings:
        raise ValueError("an edit has an image for each seed: give a list of seeds, and leave images_per_prompt out")
    written = replace(of_steps(model, 1, ""), prompt=prompts, chunks=chunks, weights=weights)
    read = reading_in_chunks(reading_weights(model, written), written).read
    own = list(_hooks([*map(read, prompts)], count, cross, self_attention, grids, reweight, blend))
    return sample(
        model,
        prompts,
        hooks=put_before(own, hooks, "prompt-to-prompt"),
        seed=seeds * len(prompts),
        images_per_prompt=count,
        latents=None if latents is None else latents.repeat(len(prompts), *[1] * (latents.ndim - 1)),
        chunks=chunks,
        weights=weights,
        **settings,
    )


def _hooks(
    prompts: Sequence[Prompt],
    count: int,
    cross: float,
    self_attention: float,
    grids: Collection[int | Grid] | None,
    reweight: Mapping[str | int, float] | None,
    blend: Any,
) -> Iterator[Hook]:
    """Return the hooks of an edit; ``count`` is the number of images of each prompt."""
    if cross:
        source, *targets = prompts
        swapped = [k for k, target in enumerate(targets, 1) if align_tokens(source, target).only_swaps]
        others = [k for k in range(1, len(prompts)) if k not in swapped]
        if swapped:
            yield ReplaceAttention(until=cross, targets=swapped)
        if others:
            yield RefineAttention(until=cross, targets=others)
    if self_attention:
        yield InjectSelfAttention(until=self_attention, grids=grids)
    if reweight is not None:
        yield only(ReweightAttention(reweight), rows=range(count, count * len(prompts)))
    if blend is not None:
        yield LocalBlend(blend)
