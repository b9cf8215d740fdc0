"""Guidance away from a picture that is blurred where the denoiser looks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.hook import Transform, patterns
from sdprobe.core.run import Role, Run, Site, Step
from sdprobe.transform.guidance import Guidance, Scale

Latents = Shaped[Tensor, "images channels h w"]


class SelfAttentionGuidance(Transform):
    """Guide away from what the denoiser says when predicted x0 is blurred where self-attention is high.

    At a step that is guided: x0 is predicted, the positions that get more self-attention than the average are blurred
    in it, the same noise is put back, and the denoiser is asked what noise ε̂ it finds now; the noise becomes
    ε + scale · (ε' − ε̂). All of it (x0, attention, ε' and ε̂) is of the unconditional rows, or of the conditional ones
    in a run without classifier-free guidance. Observers do not see the further call.

    It is `StableDiffusionSAGPipeline` of diffusers up to rounding for models that predict the noise. Of one that
    predicts the velocity, that pipeline subtracts velocities of two different inputs; here, as in the paper, it is the
    noise that is guided, so that the same model guides alike in whatever terms it answers. And latents go to the
    denoiser in the scale that the scheduler asks for, under schedulers such as Euler too, which that pipeline refuses.

    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 4, "guidance_scale": 5.0, "seed": 0, "progress": False}
    >>> guided = sdprobe.sample(model, "a red circle", hooks=[sdprobe.SelfAttentionGuidance()], **settings)
    >>> off = sdprobe.sample(model, "a red circle", hooks=[sdprobe.SelfAttentionGuidance(0)], **settings)
    >>> plain = sdprobe.sample(model, "a red circle", **settings)
    >>> bool((guided.latents == plain.latents).all()), bool((off.latents == plain.latents).all())
    (False, True)

    Args:
        scale: 0 is nothing, exactly, and asks nothing; one number, one for each call of the denoiser, or what gives it
            for a `Step`. The usual one for Stable Diffusion is 0.75.
        sigma: of the Gaussian that blurs, in positions of the latents.
        modules: whose self-attention is looked at, in joint attention the picture's of itself: patterns on the dotted
            names of modules; of several, the mean. None is the middle: of a U-Net, as in the paper, its middle block;
            of a transformer, of which the paper has nothing to say, the middle one of its blocks.

    Raises:
        ValueError: for a pattern that matches no such attention, for a blur wider than the latents, and where there are
            not as many scales as steps.

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
        # What each position is given by all others: on average 1, or with the text beside them somewhat less.
        role = _guided(site.step)
        given = attn.probs(role, queries=site.image, tokens=site.image).detach().mean(1).sum(1)
        given = given / given.mean(-1, keepdim=True) if site.kind == "joint" else given
        heat = given.unflatten(-1, site.grid).unsqueeze(1)
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
        latents = step.latents + step.signal * (degraded - x0)  # the noise in them stays
        found = replace(step, latents=latents).denoised(step.predict(latents, role=role))
        # In terms of x0, which every prediction type has, ε' − ε̂ is signal / noise · (x0 found − x0 degraded).
        return x + step.output_for(scale * (degraded - found), torch.zeros_like(x0)).to(x.dtype)


def _guided(step: Step) -> Role:
    """Whose answer is guided: the unconditional rows', or where a call has none, the conditional ones'."""
    return "uncond" if any(row.role == "uncond" for row in step.rows) else "cond"


def _blurred(x: Latents, sigma: float) -> Latents:
    """Gaussian blur over four standard deviations to each side; beyond the edges, the picture is mirrored."""
    reach = math.ceil(4 * sigma)
    if reach >= min(x.shape[-2:]):
        size = "×".join(map(str, x.shape[-2:]))
        raise ValueError(f"a blur of sigma {sigma:g} reaches {reach} positions beyond the edges of {size} latents")
    places = torch.arange(-reach, reach + 1, device=x.device, dtype=torch.float32)
    weights = torch.exp(-((places / sigma) ** 2) / 2)
    weights = (weights / weights.sum()).to(x.dtype).expand(x.shape[1], 1, -1)
    padded = F.pad(x, (reach,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, weights[:, :, None], groups=x.shape[1]), weights[..., None], groups=x.shape[1])
