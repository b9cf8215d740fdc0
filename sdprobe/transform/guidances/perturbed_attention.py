"""`PerturbedAttention`: guidance with self-attention replaced by the identity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.hook import Transform, patterns
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.transform.guidances.guidance import Guidance, Scale


class PerturbedAttention(Transform):
    """Guide away from the denoiser's output with identity self-attention: x + scale · (cond − perturbed).

    If every image position attends only to itself, the appearance is kept and the structure is lost; guidance goes in
    the opposite direction. In joint attention, an image position attends to itself and to the text. This needs no
    prompt and no unconditional rows, and adds to classifier-free guidance if there is any. In every guided step, the
    denoiser is called once more, for the conditional rows; the run's other transforms act in this call too, and its
    observers do not see it.

    It equals `StableDiffusionPAGPipeline` of diffusers and similar pipelines up to rounding, as there the perturbed
    rows are in one batch with the others. For their ``pag_adaptive_scale=a``, use a function of the step as the scale,
    see below; to guide only some steps, use `sdprobe.only`.

    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 4, "guidance_scale": 1.0, "seed": 0, "progress": False}
    >>> fading = sdprobe.PerturbedAttention(lambda step: max(2.0 - 0.004 * (1000 - step.timestep), 0))
    >>> run = sdprobe.sample(model, "a red circle", hooks=[fading], **settings)
    >>> off = sdprobe.sample(model, "a red circle", hooks=[sdprobe.PerturbedAttention(0)], **settings)
    >>> plain = sdprobe.sample(model, "a red circle", **settings)
    >>> bool((run.latents == plain.latents).all()), bool((off.latents == plain.latents).all())
    (False, True)

    Args:
        scale: 0 changes nothing, exactly, and makes no call. One number, one for each call of the denoiser, or a
            function of the `Step`. The paper uses 3 for Stable Diffusion.
        modules: where self- or joint attention is perturbed: patterns on dotted module names. None is the middle: for a
            U-Net its middle block, as in the paper; for a transformer the middle one of its blocks.

    Raises:
        ValueError: for a pattern that matches no such attention, and if the number of scales is not the number of
            steps.

    Source: Ahn et al. 2024, "Self-Rectifying Diffusion Sampling with Perturbed-Attention Guidance", section 4.
    """

    kinds = ("self", "joint")

    def __init__(self, scale: Scale = 3.0, modules: str | Sequence[str] | None = None) -> None:
        self.scale = Guidance(scale).scale
        self.modules = patterns(modules)

    def start(self, run: Run) -> None:
        self.modules = (run.model.middle,) if self.modules is None else self.modules
        self._perturbing = False

    def attention(self, attn: Attention, site: Site) -> Attention:
        if not self._perturbing:
            return attn
        places = attn.query.shape[2]
        keep = torch.ones(places, places, dtype=torch.bool, device=attn.query.device)
        keep[site.image, site.image] = torch.eye(len(range(places)[site.image]), dtype=torch.bool, device=keep.device)
        return attn.masked(keep[None, None])

    def noise_pred(self, x: Tensor, step: Step) -> Tensor:
        scale = Guidance(self.scale).at(step)
        if not scale:
            return x
        assert step.model_output is not None  # at noise_pred there is one
        self._perturbing = True
        try:
            perturbed = step.predict(step.latents, role="cond")
        finally:
            self._perturbing = False
        return x + scale * (step.model_output[step.rows_of("cond")] - perturbed)
