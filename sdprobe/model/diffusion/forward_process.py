"""`ForwardProcess`: x0 to x_t, and the training target of the denoiser."""

from __future__ import annotations

from typing import Any

from diffusers import DDPMScheduler
from jaxtyping import Float, Int
from torch import Tensor

Latents = Float[Tensor, "images channels *size"]
TARGETS = ("epsilon", "v_prediction", "sample")


class ForwardProcess:
    """The noising of clean latents in training, with the noise schedule of any scheduler.

    Samplers may scale their latents, so this uses `add_noise` and `get_velocity` of `DDPMScheduler`, which keeps the
    scale of the network, with the scheduler's configuration.

    >>> import torch
    >>> import sdprobe
    >>> process = ForwardProcess(sdprobe.load().pipe.scheduler)
    >>> x0, noise = torch.zeros(1, 4, 16, 16), torch.ones(1, 4, 16, 16)
    >>> x_t, target = process.noised(x0, noise, torch.tensor([500]))
    >>> bool(torch.allclose(x_t**2 + target**2, noise))  # where x0 is 0: x_t = √(1-ᾱ) ε, v = √ᾱ ε
    True

    Args:
        scheduler: the scheduler of a pipeline.

    Raises:
        ValueError: for a scheduler without a table of noise levels, or a network that predicts a flow.

    Source: Ho et al. 2020, eq. 4; Salimans & Ho 2022, appendix D, for v.
    """

    def __init__(self, scheduler: Any) -> None:
        self.target = scheduler.config.get("prediction_type")
        if not hasattr(scheduler, "alphas_cumprod") or self.target not in TARGETS:
            raise ValueError(
                f"{type(scheduler).__name__} with prediction type {self.target!r} does not say how its network was "
                f"trained; known are schedules of betas, with {', '.join(TARGETS)}"
            )
        self._ddpm = DDPMScheduler.from_config(scheduler.config)

    @property
    def levels(self) -> Float[Tensor, " timesteps"]:
        """ᾱ, the part of the signal's variance that is left, at every timestep."""
        levels: Tensor = self._ddpm.alphas_cumprod
        return levels

    def noised(self, x0: Latents, noise: Latents, timesteps: Int[Tensor, " images"]) -> tuple[Latents, Latents]:
        """Return x_t, and the network's target for it: the noise, v or x0, as it was trained."""
        x_t = self._ddpm.add_noise(x0, noise, timesteps)
        if self.target == "v_prediction":
            return x_t, self._ddpm.get_velocity(x0, noise, timesteps)
        return x_t, noise if self.target == "epsilon" else x0
