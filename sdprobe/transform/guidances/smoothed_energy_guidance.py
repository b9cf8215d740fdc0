"""`SmoothedEnergyGuidance`: guidance away from a prediction whose self-attention is blurred."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.grid import image_grid
from sdprobe.core.hook import Transform, patterns
from sdprobe.core.module_names import fits
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.transform.guidances.gaussian_blur import gaussian_blur
from sdprobe.transform.guidances.guidance import Guidance, Scale

KINDS = ("self", "joint")


class SmoothedEnergyGuidance(Transform):
    """SEG: guide away from the denoiser's output with blurred queries: x + scale · (cond − smoothed).

    The queries of self-attention are blurred over the picture, so that neighbouring places look at the same; with an
    infinite width all places do. In joint attention, which the paper does not treat, the queries of the image are
    blurred, before norms and rotary embeddings, and those of the text are not. This needs no unconditional rows, and
    adds to classifier-free guidance if there is any. In every guided step, the denoiser is called once more, for the
    conditional rows; the run's other transforms act in this call too, and its observers do not see it.

    It is the paper's, and with classifier-free guidance that of the guider of diffusers, up to rounding, except where
    that differs from the paper: it swaps the two cases of sigma (a number below 9999.9 takes the mean, above it a
    blur), and takes the positions of any picture, and of image and text together, for a square.

    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 4, "guidance_scale": 1.0, "seed": 0, "progress": False}
    >>> smooth = sdprobe.SmoothedEnergyGuidance(1.0, modules="up_blocks.*")
    >>> run = sdprobe.sample(model, "a red circle", hooks=[smooth], **settings)
    >>> off = sdprobe.sample(model, "a red circle", hooks=[sdprobe.SmoothedEnergyGuidance(0)], **settings)
    >>> plain = sdprobe.sample(model, "a red circle", **settings)
    >>> bool((run.latents == plain.latents).all()), bool((off.latents == plain.latents).all())
    (False, True)

    Args:
        scale: 0 changes nothing, exactly, and makes no call. One number, one for each call of the denoiser, or a
            function of the `Step`. The paper uses 3 for Stable Diffusion XL.
        sigma: the standard deviation of the Gaussian blur, in places of the module's grid; None for an infinite one,
            the mean, as the paper recommends.
        modules: where self- or joint attention is smoothed: patterns on dotted module names. None is the middle: for a
            U-Net its middle block, as in the paper; for a transformer the middle one of its blocks.

    Raises:
        ValueError: for a pattern that matches no such attention, a sigma that is not above 0, and if the number of
            scales is not the number of steps.

    Source: Hong 2024, "Smoothed Energy Guidance: Guiding Diffusion Models with Reduced Energy Curvature of Attention",
    section 4; the size of the kernel is that of the author's code.
    """

    def __init__(
        self, scale: Scale = 3.0, sigma: float | None = None, modules: str | Sequence[str] | None = None
    ) -> None:
        if sigma is not None and not sigma > 0:
            raise ValueError(f"sigma is above 0, not {sigma}: it is the width of the blur")
        self.scale = Guidance(scale).scale
        self.sigma = None if sigma == math.inf else sigma
        self.modules = patterns(modules)

    def start(self, run: Run) -> None:
        kinds = {name: run.model.attention_kind(module) for name, module in run.model.modules.items()}
        sites = [name for name, kind in kinds.items() if kind in KINDS]
        asked = (run.model.middle,) if self.modules is None else self.modules
        for pattern in asked:
            if not any(fits(name, pattern) for name in sites):
                raise ValueError(
                    f"the pattern {pattern!r} matches none of the model's self- and joint attention: {', '.join(sites)}"
                )
        found = [name for name in sites if any(fits(name, pattern) for pattern in asked)]
        self._queries = dict(_queries_of(name, run.model.modules[name]) for name in found)

    def noise_pred(self, x: Tensor, step: Step) -> Tensor:
        scale = Guidance(self.scale).at(step)
        if not scale:
            return x
        assert step.model_output is not None  # at noise_pred there is one
        smoothed = step.predict(step.latents, SmoothQueries(self._queries, self.sigma), role="cond")
        return x + scale * (step.model_output[step.rows_of("cond")] - smoothed)


def _queries_of(name: str, module: Any) -> tuple[str, int | None]:
    """Return the projection that gives an attention module's queries, and in how many channels; None for all of it."""
    if hasattr(module, "to_qkv_mlp_proj"):  # Flux.2's blocks of one stream: keys, values and more follow
        return f"{name}.to_qkv_mlp_proj", int(module.inner_dim)
    return f"{name}.to_q", None


class SmoothQueries(Transform):
    """Blur the queries of the image over the picture, where a projection gives them.

    Args:
        queries: the names of the projections, ``"....to_q"``, each with the number of channels that are queries, the
            first ones; None for all.
        sigma: the standard deviation of the blur, in places; None for the mean.
    """

    def __init__(self, queries: Mapping[str, int | None], sigma: float | None) -> None:
        self.queries, self.sigma = queries, sigma
        self.modules = tuple(queries)

    def activation(self, x: Tensor, site: Site) -> Tensor:
        if site.grid is None:
            raise ValueError(f"the positions of {site.name} are not laid out as a picture: choose other modules=")
        image = x[:, site.image, : self.queries[site.name]]
        if self.sigma is None:
            smooth = image.mean(1, keepdim=True).expand_as(image)
        else:
            grid = image_grid(site.grid, "a blur of queries")
            smooth = blurred(image.mT.unflatten(-1, grid), self.sigma).flatten(2).mT
        if image.shape == x.shape:
            return smooth.contiguous()
        whole = x.clone()
        whole[:, site.image, : self.queries[site.name]] = smooth
        return whole


def blurred(x: Shaped[Tensor, "rows channels *size"], sigma: float) -> Shaped[Tensor, "rows channels *size"]:
    """Blur with a Gaussian; the edges are mirrored. The kernel is cut at 3 σ, and where it is larger than the grid."""
    down, across = (min(math.ceil(6 * sigma) // 2, side // 2) for side in x.shape[-2:])
    return gaussian_blur(x, sigma, (down, across))
