"""Guidance away from a denoiser in which every position attends to itself alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.hook import Transform, patterns
from sdprobe.core.run import Run, Site, Step
from sdprobe.transform.guidance import Guidance, Scale


class PerturbedAttention(Transform):
    """Guide away from what the denoiser says when its self-attention is the identity: x + scale · (cond − perturbed).

    Where every position attends to itself alone, what it looks like is kept and how the parts belong together is lost;
    guidance goes the other way. In joint attention a position of the picture attends to itself and to the text. It
    needs no prompt and no unconditional rows, and adds to classifier-free guidance. Every step that is
    guided asks the denoiser once more, for the conditional rows; the run's other transforms act in that call too, and
    its observers do not see it.

    It is `StableDiffusionPAGPipeline` of diffusers, and those of its kind, up to rounding, since there the perturbed
    rows stand in one batch with the others. Their ``pag_adaptive_scale=a`` is a scale that is a function of the step,
    see below; a part of the steps is `sdprobe.only`.

    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 4, "guidance_scale": 1.0, "seed": 0, "progress": False}
    >>> fading = sdprobe.PerturbedAttention(lambda step: max(2.0 - 0.004 * (1000 - step.timestep), 0))
    >>> run = sdprobe.sample(model, "a red circle", hooks=[fading], **settings)
    >>> off = sdprobe.sample(model, "a red circle", hooks=[sdprobe.PerturbedAttention(0)], **settings)
    >>> plain = sdprobe.sample(model, "a red circle", **settings)
    >>> bool((run.latents == plain.latents).all()), bool((off.latents == plain.latents).all())
    (False, True)

    Args:
        scale: 0 is nothing, exactly, and asks nothing; one number, one for each call of the denoiser, or what gives it
            for a `Step`. The paper takes 3 for Stable Diffusion.
        modules: where self- or joint attention is perturbed: patterns on the dotted names of modules. None is the
            middle: of a U-Net, as in the paper, its middle block; of a transformer, the middle one of its blocks.

    Raises:
        ValueError: for a pattern that matches no such attention, and where there are not as many scales as steps.

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
