"""`invert`: find the noise from which the model makes a given image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from sdprobe.core.given_hooks import Given
from sdprobe.model.base import Model
from sdprobe.model.loading import load
from sdprobe.sampling.encode_decode import encode
from sdprobe.sampling.inversion import Inversion
from sdprobe.sampling.inversions.fixed_point import FixedPoint
from sdprobe.sampling.inversions.negative_prompt import NegativePrompt
from sdprobe.sampling.inversions.null_text import NullTextOptimisation
from sdprobe.sampling.inversions.plain import PlainDDIM, PlainEuler
from sdprobe.sampling.inversions.request import Method, Request
from sdprobe.sampling.inversions.rf_inversion import RFInversion
from sdprobe.sampling.inversions.rf_solver import RFSolver

METHODS: Mapping[str, type[Any]] = {
    "fixed-point": FixedPoint,
    "ddim": PlainDDIM,
    "negative-prompt": NegativePrompt,
    "null-text": NullTextOptimisation,
    "euler": PlainEuler,
    "rf-solver": RFSolver,
    "rf-inversion": RFInversion,
}
"""The methods by name; the fields of each are its options."""


def invert(
    model: Model | Any,
    images: Image | Sequence[Image] | NDArray[np.uint8] | Tensor,
    prompt: str | Sequence[str],
    *,
    steps: int = 50,
    guidance_scale: float = 1.0,
    negative_prompt: str | Sequence[str] | None = None,
    method: str | None = None,
    hooks: Given = (),
    progress: bool = True,
    **options: Any,
) -> Inversion:
    """Find the noise from which the model makes a given image, to use hooks and edits on real images.

    The run from image to noise takes the sampler's steps in the other direction. What a step up needs is only known
    after it, and the methods differ in what they do about that:

    - ``"fixed-point"`` repeats each step with the prediction at the level that it reached (Pan et al. 2023): once with
      the noise levels of DDIM, until it is the inverse of the sampler's step in a flow. Option ``iterations``: the
      number of repetitions, at most. The default. It keeps the sampler, so that the run back is an ordinary run; EDICT,
      which is exact too, needs two coupled latents and a sampler of its own.
    - ``"ddim"`` uses the prediction at the level that it leaves (Song et al. 2020), with one call per step.
    - ``"negative-prompt"`` inverts without guidance, and makes the prompt the negative prompt too, so that guidance
      changes nothing (Miyake et al. 2023). Option ``iterations``, as above.
    - ``"null-text"`` inverts without guidance, and fits unconditional embeddings for each step with which the guided
      run leads back to the image (Mokady et al. 2023): `NullText`, for models with cross-attention. Options
      ``iterations`` (30) and ``rate`` (0.01) of the optimisation, ``stop`` (1e-5) and ``slack`` (5e-6) of its early
      stop, and ``inner``, the iterations of the inversion.
    - ``"euler"``, for flows, is as ``"ddim"`` for the others.
    - ``"rf-solver"``, for flows, takes steps of second order in both directions (Wang et al. 2024).
    - ``"rf-inversion"``, for flows, steers the way up to noise from a seed, and the first steps back to the image
      (Rout et al. 2024): `SteerToPicture`. Options ``gamma`` (0.5) and ``seed`` (0) for the way up, ``eta`` (0.9) and
      ``until`` (0.25 of the steps) for the way back.

    The error gets smaller with more steps, and larger with guidance.

    >>> import sdprobe
    >>> model = sdprobe.load()
    >>> picture = sdprobe.sample(model, "a red circle", steps=10, seed=0, progress=False).images[0]
    >>> inverted = sdprobe.invert(model, picture, "a red circle", steps=20, progress=False)
    >>> maps = sdprobe.AttentionMaps()
    >>> again = inverted.sample(hooks=[maps], progress=False)
    >>> bool(inverted.psnr(again) > 20), again[maps].heat_map("circle").values.shape  # dB
    (True, torch.Size([16, 16]))
    >>> bool(inverted.autoencoder_psnr - inverted.psnr(again) < 6)
    True

    Args:
        model: the result of `sdprobe.load`, or a live pipeline.
        images: as for `sdprobe.encode`; sides are reduced to multiples of 8.
        prompt: a description of the images: one text for all, or one each.
        steps: number of steps, in each direction.
        guidance_scale: that of the run back, and for the methods that guide it, of the inversion. 1 and below is no
            guidance, and gives the closest reconstruction.
        negative_prompt: with guidance: one text for all, or one each.
        method: see above; None is ``"fixed-point"``.
        hooks: hooks of the run from image to noise. It has the points of any run; its steps go to higher noise.
        progress: show progress bars.
        options: those of the method.

    Raises:
        ValueError: if the number of prompts is neither 1 nor that of the images; for an unknown method or option, and a
            method that this model cannot use; if a hook ends the run to noise; and as for `sdprobe.encode` and
            `sdprobe.sample`.

    Warns:
        UserWarning: if a fixed-point iteration of more than one has not converged, or goes past a hook (a transform at
            ``model_output``, ``noise_pred`` or ``sample``, which acts once in each step); and if null-text optimisation
            has not reached its goal.

    Source: Song et al. 2020, "Denoising Diffusion Implicit Models", section 4.3; Dhariwal & Nichol 2021, appendix F;
    for each method its class in ``sdprobe.sampling.inversions``.
    """
    name = "fixed-point" if method is None else method
    chosen = _method(name, options)
    own = load(model)
    if own.default_frames is not None:
        raise ValueError(f"inversion is of pictures, and {type(own).__name__} makes videos: there is none of these yet")
    encoded = encode(own, images)
    height, width = (side - side % 8 for side in encoded.pixels.shape[-2:])
    if (height, width) != encoded.pixels.shape[-2:]:  # an autoencoder may accept sizes that a run does not
        encoded = encode(own, images, height=height, width=width)
    count = len(encoded.pixels)
    prompts = [prompt] * count if isinstance(prompt, str) else list(prompt)
    if len(prompts) != count:
        raise ValueError(f"{len(prompts)} prompts for {count} pictures: give one, or one each")
    x0 = encoded.mean
    found = chosen.invert(
        Request(own, x0, prompts, negative_prompt, steps, guidance_scale, height, width, hooks, progress)
    )
    return Inversion(
        found.run,
        encoded.pixels,
        found.scheduler,
        x0,
        name,
        float(guidance_scale),
        found.negative_prompt,
        found.hooks,
        found.residuals,
    )


def _method(name: str, options: Mapping[str, Any]) -> Method:
    if name not in METHODS:
        raise ValueError(f"no method of inversion is called {name!r}; the methods: {', '.join(METHODS)}")
    known = [field.name for field in fields(METHODS[name])]
    for option in options:
        if option not in known:
            raise ValueError(
                f"inversion by {name!r} has no option {option!r}; its options: {', '.join(known) or 'none'}"
            )
    chosen: Method = METHODS[name](**options)
    return chosen
