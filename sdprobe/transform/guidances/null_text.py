"""`NullText`: unconditional prompt embeddings of one's own for every step, as null-text optimisation finds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.hook import Transform
from sdprobe.core.limits.row_subset import change_rows
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.files.atomic_file import write_atomically

NAME = "null_text"


class NullText(Transform):
    """Give the unconditional rows prompt embeddings of their own in every step, at every cross-attention.

    `sdprobe.invert` with ``method="null-text"`` finds such embeddings for a given picture. The rows of the prompt, and
    what else the denoiser gets of the negative prompt (the pooled vector of Stable Diffusion XL, PixArt's mask), do not
    change.

    >>> import sdprobe
    >>> model = sdprobe.load()
    >>> settings = {"steps": 3, "guidance_scale": 4.0, "seed": 0, "progress": False}
    >>> dull = sdprobe.embed(model, "a grey wall").last_hidden_state
    >>> null_text = sdprobe.NullText(dull.expand(3, -1, -1))
    >>> run = sdprobe.sample(model, "a red circle", hooks=[null_text], **settings)
    >>> written = sdprobe.sample(model, "a red circle", negative_prompt="a grey wall", **settings)
    >>> bool((run.latents - written.latents).abs().max() < 1e-4)
    True

    Args:
        embeddings: ``[steps, tokens, width]`` for every image, or ``[steps, images, tokens, width]``; or the file that
            `save` wrote.

    Raises:
        ValueError: for embeddings of another shape; in a run, without guidance, with joint attention, and for another
            number of steps, images or tokens.

    Source: Mokady et al. 2023, "Null-text Inversion for Editing Real Images using Guided Diffusion Models", section
    3.2.
    """

    kinds = ("cross",)

    def __init__(self, embeddings: Float[Tensor, "steps ..."] | str | Path) -> None:
        self.embeddings = embeddings
        found = embeddings if isinstance(embeddings, Tensor) else load_file(embeddings)[NAME].clone()
        if found.ndim not in (3, 4):
            raise ValueError(
                f"embeddings are [steps, tokens, width] or [steps, images, tokens, width], not {list(found.shape)}"
            )
        self._table = found.unsqueeze(1) if found.ndim == 3 else found

    def save(self, path: str | Path) -> Path:
        """Write the embeddings to a ``.safetensors`` file, whose name is an argument for `NullText`."""
        path = Path(path)
        if path.suffix != ".safetensors":
            raise ValueError(f"null-text embeddings are saved as .safetensors, not as {path.name!r}")
        with write_atomically(path) as beside:
            save_file({NAME: self._table.cpu().contiguous()}, beside)
        return path

    def start(self, run: Run) -> None:
        refuse_null_text(run.model, run.settings.guidance_scale)
        steps, images, tokens, width = self._table.shape
        settings = run.settings
        if steps != settings.steps:
            raise ValueError(
                f"null-text embeddings of {steps} steps for a run of {settings.steps}: each step has its own"
            )
        if run.levels:  # in an attached pipeline, they are known at the first step
            self._refuse_other(len(run.levels) - 1 + settings.start_step)
        if images not in (1, settings.images):
            raise ValueError(
                f"null-text embeddings of {images} images for {settings.images}: give one, or one for each"
            )
        expected = run.model.text_tokens(run.negative_prompts[0]), width_of_text(run.model)
        if (tokens, width) != expected:
            raise ValueError(
                f"null-text embeddings of {tokens} tokens of width {width}, but this model's are "
                f"{expected[0]} of width {expected[1]}"
            )
        self._table = self._table.to(run.model.device)

    def attention(self, attn: Attention, site: Site) -> Attention:
        return with_uncond_context(attn, site, self.at(site.step))

    def at(self, step: Step) -> Float[Tensor, "#images tokens width"]:
        """Return the embeddings of a step."""
        first = step.run.settings.start_step
        self._refuse_other(step.total + first)
        return self._table[first + step.index]

    def _refuse_other(self, calls: int) -> None:
        if calls != len(self._table):
            raise ValueError(
                f"{len(self._table)} steps of null-text embeddings for {calls} calls of the denoiser: take a scheduler "
                f"with one call in each step, such as DDIM"
            )


def with_uncond_context(attn: Attention, site: Site, embeddings: Float[Tensor, "#images tokens width"]) -> Attention:
    """Return the call with other prompt embeddings for the unconditional rows, one for all images or one for each."""
    entries = [k for k, row in enumerate(attn.rows) if row.role == "uncond"]
    context = embeddings.to(attn.query)
    images = [attn.rows[k].image for k in entries]
    context = context[images] if len(context) > 1 else context.expand(len(entries), -1, -1)
    return change_rows(attn, site, entries, lambda given, at: given.with_context(context))


def refuse_null_text(model: Any, guidance_scale: float) -> None:
    """Raise ValueError if a model has no unconditional embeddings that can be replaced, or not at this guidance."""
    kind = type(model).__name__
    if model.text_streams:
        raise ValueError(
            f"null-text embeddings are read by cross-attention, and {kind} has joint attention, where the text has a "
            f"stream of its own that changes from block to block"
        )
    if "cross" not in map(model.attention_kind, model.modules.values()):
        raise ValueError(
            f"null-text embeddings are read by cross-attention, and {kind} has text and image on one axis, where the "
            f"text changes from block to block"
        )
    if "uncond" not in model.roles(guidance_scale):
        raise ValueError(
            f"null-text embeddings are for rows without the prompt, and {kind} at guidance_scale {guidance_scale:g} "
            f"has none: ask for guidance above 1"
        )


def width_of_text(model: Any) -> int:
    """Return the width of the prompt embeddings that a denoiser with cross-attention gets."""
    config = model.denoiser.config
    names = ("caption_channels", "text_dim", "cross_attention_dim")  # PixArt's, Wan's, Stable Diffusion's
    return int(next(width for name in names if (width := config.get(name))))
