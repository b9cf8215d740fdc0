"""`Inversion`: the noise that was found for given images, and the runs back to images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor

from sdprobe.core.compose import Hook
from sdprobe.core.given_hooks import Given, put_before
from sdprobe.core.run import Run
from sdprobe.sampling.encode_decode import decode, psnr
from sdprobe.sampling.loop import sample
from sdprobe.transform.guidances.null_text import NullText

DETERMINED = ("steps", "scheduler", "height", "width", "latents", "image", "strength", "start_step")
"""The arguments of `sdprobe.sample` with others of which a run does not lead back to the images."""


@dataclass(frozen=True, eq=False, repr=False)
class Inversion:
    """Images inverted to noise, and the run back to images.

    >>> import sdprobe
    >>> model = sdprobe.load()
    >>> picture = sdprobe.sample(model, "a red circle", steps=5, seed=0, progress=False).images[0]
    >>> inverted = sdprobe.invert(model, picture, "a red circle", steps=10, progress=False)
    >>> inverted
    Inversion('a red circle', 1 picture of 64×64, 10 steps, guidance 1)
    >>> edited = inverted.sample(prompt="a blue circle", guidance_scale=3.0, progress=False)
    >>> edited.images[0].size
    (64, 64)

    In a stock pipeline, the run back is a call with the scheduler, the noise and the hooks of the inversion::

        pipe.scheduler = inverted.scheduler
        with sdprobe.attach(pipe, inverted.hooks) as run:
            pipe(prompt, latents=inverted.latents, num_inference_steps=..., guidance_scale=inverted.guidance_scale)

    Attributes:
        run: the run from image to noise. Read its hooks' records from ``run[hook]``, as in any run.
        pixels: the images as they were encoded, in [0, 1].
        scheduler: a scheduler with the same noise levels in the other direction.
        x0: the latents of the images, ``[images, channels, h, w]``.
        method: the name of the method.
        guidance_scale: that of the run back, unless another is given.
        negative_prompt: that of the run back, likewise.
        hooks: the hooks that the method needs in the run back; they come before others.
        residuals: for each step of a fixed-point iteration of more than one, how much the last iteration changed the
            latents: the root mean square, relative to theirs, of the image where it is most. For each step back with
            null-text, the mean squared error of its latents from those of the inversion, of the image where it is most.
            Empty for other methods.
    """

    run: Run
    pixels: Float[Tensor, "images 3 height width"]
    scheduler: Any
    x0: Shaped[Tensor, "images channels *size"]
    method: str
    guidance_scale: float
    negative_prompt: str | Sequence[str] | None = None
    hooks: tuple[Hook, ...] = ()
    residuals: tuple[float, ...] = ()

    @property
    def latents(self) -> Shaped[Tensor, "images channels *size"]:
        """The noise that inversion found: the ``latents`` for `sdprobe.sample`."""
        assert self.run.latents is not None  # the run has ended
        return self.run.latents

    @property
    def autoencoder_psnr(self) -> Float[Tensor, " images"]:
        """How close the autoencoder alone comes to the images given, in dB: what no inversion can exceed by much."""
        return psnr(decode(self.run.model, self.x0), self.pixels)

    def sample(self, *, prompt: str | Sequence[str] | None = None, hooks: Given = (), **settings: Any) -> Run:
        """Sample images from the inverted noise. With no change this reproduces the images given.

        Args:
            prompt: another prompt than that of the inversion.
            hooks: hooks of the run, after those of the method. Null-text embeddings are left out without guidance,
                which reads none.
            settings: other arguments of `sdprobe.sample`, except those that the inversion determines;
                ``guidance_scale`` and ``negative_prompt`` are those of the inversion by default.

        Raises:
            ValueError: for a setting that the inversion determines, and as for `sdprobe.sample`.
        """
        given = self._with(settings)
        return sample(
            self.run.model,
            self.run.settings.prompt if prompt is None else prompt,
            hooks=put_before(self._hooks_at(given["guidance_scale"]), hooks, "the inversion"),
            **given,
        )

    def edit(self, target: str | Sequence[str], *, hooks: Given = (), **settings: Any) -> Run:
        """Edit the image by prompt-to-prompt: `sdprobe.edit` from the inverted noise, with the hooks of the method.

        The first image of the run is the reconstruction, from which the edits take their attention; the others are the
        edits.

        Args:
            target: the prompt of the edit, or one for each of several edits.
            hooks: hooks of the run, after those of the method.
            settings: other arguments of `sdprobe.edit`, except those that the inversion determines.

        Raises:
            ValueError: for an inversion of several images, for a setting that the inversion determines, and as for
                `sdprobe.edit`.
        """
        from sdprobe.sampling.edit import edit

        if len(self.latents) != 1:
            raise ValueError(
                f"an edit is of one picture, and {len(self.latents)} were inverted: invert each by itself to edit it"
            )
        given = self._with(settings)
        own = put_before(self._hooks_at(given["guidance_scale"]), hooks, "the inversion")
        run: Run = edit(self.run.model, self.run.settings.prompt[0], target, hooks=own, **given)
        return run

    def psnr(self, run: Run) -> Float[Tensor, " images"]:
        """Return how close a run's images are to the images given, in dB (see `sdprobe.psnr`)."""
        return psnr(run.images, self.pixels)

    def _with(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return arguments of `sdprobe.sample`: what the inversion determines, its defaults, and the settings given."""
        if fixed := [name for name in settings if name in DETERMINED]:
            raise ValueError(
                f"the inversion determines {', '.join(fixed)}: leave it out, or invert again with other settings; "
                f"sdprobe.sample with latents=inverted.latents takes any"
            )
        own = self.run.settings
        return {
            "steps": own.steps,
            "scheduler": self.scheduler,
            "height": own.height,
            "width": own.width,
            "latents": self.latents,
            "guidance_scale": self.guidance_scale,
            "negative_prompt": self.negative_prompt,
            "seed": 0,
            **settings,
        }

    def _hooks_at(self, guidance_scale: float | None) -> tuple[Hook, ...]:
        model = self.run.model
        scale = model.default(model.guidance_argument) if guidance_scale is None else guidance_scale
        if "uncond" in model.roles(scale):
            return self.hooks
        return tuple(hook for hook in self.hooks if not isinstance(hook, NullText))

    def __repr__(self) -> str:
        s = replace(self.run.settings, guidance_scale=self.guidance_scale)
        texts = ", ".join(repr(text) for text in s.prompt)
        way = f", {self.method}" * (self.method != "fixed-point")
        return (
            f"Inversion({texts}, {s.images} picture{'s' * (s.images != 1)} of {s.height}×{s.width}, {s.steps} steps, "
            f"guidance {s.guidance_scale:g}{way})"
        )
