"""`SelfAttentionGuidance`: guidance away from an image that is blurred where self-attention is high."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.grid import image_grid
from sdprobe.core.hook import Transform, patterns
from sdprobe.core.run import Role, Run
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.transform.guidances.gaussian_blur import gaussian_blur
from sdprobe.transform.guidances.guidance import Guidance, Scale

Latents = Shaped[Tensor, "images channels *size"]


class SelfAttentionGuidance(Transform):
    """Guide away from the denoiser's output for a predicted x0 that is blurred where self-attention is high.

    In a guided step: x0 is predicted; the image positions that receive more self-attention than the average are blurred
    in it; the same noise is added again; and the denoiser predicts the noise ε̂ of the result. The noise becomes
    ε + scale · (ε' − ε̂). All of this (x0, attention, ε' and ε̂) uses the unconditional rows, or the conditional ones
    in a run without classifier-free guidance. Observers do not see the further call.

    For models that predict the noise, it equals `StableDiffusionSAGPipeline` of diffusers up to rounding. For a model
    that predicts the velocity, that pipeline subtracts velocities of two different inputs; here, as in the paper, the
    noise is guided, so the result does not depend on the prediction type. And the denoiser gets the latents in the
    scale that the scheduler requires, also under schedulers such as Euler, which that pipeline refuses.

    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 4, "guidance_scale": 5.0, "seed": 0, "progress": False}
    >>> guided = sdprobe.sample(model, "a red circle", hooks=[sdprobe.SelfAttentionGuidance()], **settings)
    >>> off = sdprobe.sample(model, "a red circle", hooks=[sdprobe.SelfAttentionGuidance(0)], **settings)
    >>> plain = sdprobe.sample(model, "a red circle", **settings)
    >>> bool((guided.latents == plain.latents).all()), bool((off.latents == plain.latents).all())
    (False, True)

    Args:
        scale: 0 changes nothing, exactly, and makes no call. One number, one for each call of the denoiser, or a
            function of the `Step`. Usual for Stable Diffusion is 0.75.
        sigma: the standard deviation of the Gaussian blur, in positions of the latents.
        modules: the modules whose self-attention is used (in joint attention, from image to image): patterns on dotted
            module names; the mean over several. None is the middle: for a U-Net its middle block, as in the paper; for
            a transformer, which the paper does not treat, the middle one of its blocks.

    Raises:
        ValueError: for a pattern that matches no such attention, for a blur wider than the latents, and if the number
            of scales is not the number of steps.

    Source: Hong et al. 2023, "Improving Sample Quality of Diffusion Models Using Self-Attention Guidance", section 5;
    with classifier-free guidance, eq. 25.
    """

    kinds = ("self", "joint")

    def __init__(self, scale: Scale = 0.75, sigma: float = 1.0, modules: str | Sequence[str] | None = None) -> None:
        if not sigma > 0:
            raise ValueError(f"sigma is above 0, not {sigma}: it is the width of the blur")
        self.scale, self.sigma = Guidance(scale).scale, sigma
        self.modules = patterns(modules)

    def start(self, run: Run) -> None:
        self.modules = (run.model.middle,) if self.modules is None else self.modules
        self._seen: dict[Role, list[Latents]] = {}

    def attention(self, attn: Attention, site: Site) -> Attention:
        if site.step.further:
            return attn
        if site.grid is None:
            raise ValueError(f"the positions of {site.name} are not laid out as a picture: choose other modules=")
        # The attention that each position receives from all others: 1 on average, or less if there is text too.
        role = _guided(site.step)
        given = attn.probs(role, queries=site.image, tokens=site.image).detach().mean(1).sum(1)
        given = given / given.mean(-1, keepdim=True) if site.kind == "joint" else given
        heat = given.unflatten(-1, image_grid(site.grid, repr(self))).unsqueeze(1)
        self._seen.setdefault(role, []).append(F.interpolate(heat, site.step.latents.shape[-2:]))
        return attn

    def model_output(self, x: Tensor, step: Step) -> Tensor:
        if self._seen:
            self._heat, self._seen = self._seen, {}
        return x

    def noise_pred(self, x: Tensor, step: Step) -> Tensor:
        scale = Guidance(self.scale).at(step)
        if not scale:
            return x
        assert step.model_output is not None  # at noise_pred there is one
        role = _guided(step)
        x0 = step.denoised(step.model_output[step.rows_of(role)])
        high = torch.stack(self._heat[role]).mean(0) > 1
        degraded = torch.where(high, _blurred(x0, self.sigma), x0)
        latents = step.latents + step.signal * (degraded - x0)  # with the same noise
        found = replace(step, latents=latents).denoised(step.predict(latents, role=role))
        # In terms of x0, which every prediction type has, ε' − ε̂ is signal / noise · (x0 found − x0 degraded).
        return x + step.output_for(scale * (degraded - found), torch.zeros_like(x0)).to(x.dtype)


def _guided(step: Step) -> Role:
    """Whose answer is guided: the unconditional rows', or where a call has none, the conditional ones'."""
    return "uncond" if "uncond" in step.roles else "cond"


def _blurred(x: Latents, sigma: float) -> Latents:
    """Blur with a Gaussian up to four standard deviations to each side; the edges are mirrored."""
    reach = math.ceil(4 * sigma)
    if reach >= min(x.shape[-2:]):
        size = "×".join(map(str, x.shape[-2:]))
        raise ValueError(f"a blur of sigma {sigma:g} reaches {reach} positions beyond the edges of {size} latents")
    return gaussian_blur(x, sigma, (reach, reach))
