"""`invert` and `look`: run the denoiser on real images, by DDIM inversion or at one noise level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from sdprobe.core.given_hooks import Given
from sdprobe.core.run import Run
from sdprobe.model.base import Model
from sdprobe.model.diffusion.schedulers import one_call, there_and_back
from sdprobe.model.fill_settings import Seed
from sdprobe.model.loading import load
from sdprobe.model.pictures.autoencoder import pictures_of
from sdprobe.sampling.encode_decode import encode, psnr
from sdprobe.sampling.loop import sample


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

    Attributes:
        run: the run from image to noise. Read its hooks' records from ``run[hook]``, as in any run.
        pixels: the images as they were encoded, in [0, 1].
        scheduler: a DDIM scheduler with the same noise levels in the other direction.
    """

    run: Run
    pixels: Float[Tensor, "images 3 height width"]
    scheduler: Any

    @property
    def latents(self) -> Shaped[Tensor, "images channels h w"]:
        """The noise that inversion found: the ``latents`` for `sdprobe.sample`."""
        assert self.run.latents is not None  # the run has ended
        return self.run.latents

    def sample(self, *, prompt: str | Sequence[str] | None = None, hooks: Given = (), **settings: Any) -> Run:
        """Sample images from the inverted noise. With no change this reproduces the images given.

        Args:
            prompt: another prompt than that of the inversion.
            hooks: hooks of the run.
            settings: other arguments of `sdprobe.sample`, except those that the inversion determines;
                ``guidance_scale`` is that of the inversion by default.
        """
        own = self.run.settings
        given = {"guidance_scale": own.guidance_scale, "seed": 0} | settings
        return sample(
            self.run.model,
            own.prompt if prompt is None else prompt,
            hooks=hooks,
            steps=own.steps,
            scheduler=self.scheduler,
            height=own.height,
            width=own.width,
            latents=self.latents,
            **given,
        )

    def psnr(self, run: Run) -> Float[Tensor, " images"]:
        """Return how close a run's images are to the images given, in dB (see `sdprobe.psnr`)."""
        return psnr(run.images, self.pixels)

    def __repr__(self) -> str:
        s = self.run.settings
        texts = ", ".join(repr(text) for text in s.prompt)
        return (
            f"Inversion({texts}, {s.images} picture{'s' * (s.images != 1)} of {s.height}×{s.width}, {s.steps} steps, "
            f"guidance {s.guidance_scale:g})"
        )


def invert(
    model: Model | Any,
    images: Image | Sequence[Image] | NDArray[np.uint8] | Tensor,
    prompt: str | Sequence[str],
    *,
    steps: int = 50,
    guidance_scale: float = 1.0,
    negative_prompt: str | Sequence[str] | None = None,
    hooks: Given = (),
    progress: bool = True,
) -> Inversion:
    """DDIM inversion: find the noise from which DDIM makes a given image, to use hooks and edits on real images.

    Each step uses the denoiser's output at the present noise level as that of the next level. The error of this
    approximation gets smaller with more steps, and larger with guidance.

    >>> import sdprobe
    >>> model = sdprobe.load()
    >>> picture = sdprobe.sample(model, "a red circle", steps=10, seed=0, progress=False).images[0]
    >>> inverted = sdprobe.invert(model, picture, "a red circle", steps=20, progress=False)
    >>> maps = sdprobe.AttentionMaps()
    >>> again = inverted.sample(hooks=[maps], progress=False)
    >>> bool(inverted.psnr(again) > 20), again[maps].heat_map("circle").values.shape  # dB
    (True, torch.Size([16, 16]))

    Args:
        model: the result of `sdprobe.load`, or a live pipeline.
        images: as for `sdprobe.encode`; sides are reduced to multiples of 8.
        prompt: a description of the images: one text for all, or one each.
        steps: number of steps, in each direction.
        guidance_scale: 1 and below is no guidance, and gives the closest reconstruction.
        negative_prompt: with guidance: one text for all, or one each.
        hooks: hooks of the run from image to noise. It has the points of any run; its steps go to higher noise.
        progress: show a progress bar.

    Raises:
        ValueError: if the number of prompts is neither 1 nor that of the images, and as for `sdprobe.encode` and
            `sdprobe.sample`.

    Source: Song et al. 2020, "Denoising Diffusion Implicit Models", section 4.3; Dhariwal & Nichol 2021, appendix F.
    """
    own = load(model)
    encoded = encode(own, images)
    height, width = (side - side % 8 for side in encoded.pixels.shape[-2:])
    if (height, width) != encoded.pixels.shape[-2:]:  # an autoencoder may accept sizes that a run does not
        encoded = encode(own, images, height=height, width=width)
    count = len(encoded.pixels)
    prompts = [prompt] * count if isinstance(prompt, str) else list(prompt)
    if len(prompts) != count:
        raise ValueError(f"{len(prompts)} prompts for {count} pictures: give one, or one each")
    up, down = there_and_back(own.pipe)
    run = sample(
        own,
        prompts,
        hooks=hooks,
        negative_prompt=negative_prompt,
        steps=steps,
        guidance_scale=guidance_scale,
        seed=0,  # no noise is drawn
        scheduler=up,
        height=height,
        width=width,
        latents=encoded.mean,
        progress=progress,
    )
    return Inversion(run, encoded.pixels, down)


def look(
    model: Model | Any,
    image: Any,
    prompt: str | Sequence[str],
    timestep: int,
    *,
    hooks: Given = (),
    seed: Seed = 0,
    **settings: Any,
) -> Run:
    """Add noise to an image at one level and call the denoiser once, for example to get attention on a real image.

    The run's images are predicted x0 of the noisy image.

    >>> import sdprobe
    >>> model = sdprobe.load()
    >>> picture = sdprobe.sample(model, "a red circle", steps=10, seed=0, progress=False).images[0]
    >>> maps = sdprobe.AttentionMaps()
    >>> run = sdprobe.look(model, picture, "a red circle", timestep=500, hooks=[maps])
    >>> run, run[maps].heat_map("circle").values.shape
    (Run('a red circle', 1 image of 64×64, 1 steps of DDIMScheduler, guidance 1, seed 0), torch.Size([16, 16]))

    Args:
        model: the result of `sdprobe.load`, or a live pipeline.
        image: an image, or one per prompt, as for `sdprobe.encode`; or clean latents.
        prompt: one text or several.
        timestep: a timestep of training: 0 is the least noise, usually 999 the most.
        hooks: hooks of the run.
        seed: the seed of the noise: one number, or one per image. For several draws of noise, repeat the prompt and
            give as many seeds.
        settings: other arguments of `sdprobe.sample`; ``guidance_scale`` is 1, no guidance, by default.

    Raises:
        ValueError: for a timestep that the model was not trained on, and as for `sdprobe.sample`.

    Source: as representations are read in Tang et al. 2023, "Emergent Correspondence from Image Diffusion", section 4.
    """
    own = load(model)
    settings = {"guidance_scale": 1.0, "progress": False} | settings
    scheduler = one_call(own.pipe, timestep)
    image = image if isinstance(image, Tensor) else pictures_of(image)
    return sample(
        own, prompt, hooks=hooks, seed=seed, image=image, strength=1.0, steps=1, scheduler=scheduler, **settings
    )
