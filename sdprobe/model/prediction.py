"""Predicted x0 from any output of the denoiser, under any scheduler, without calling ``scheduler.step``.

A multistep scheduler keeps state: a second ``step`` would corrupt the run. What is needed is only how much signal and
how much noise the latents hold, and that the scheduler says in its tables. Two conventions are in use:

- *variance preserving* (DDPM, Ho et al. 2020, eq. 4): x_t = √ᾱ x0 + √(1-ᾱ) ε;
- *variance exploding* (Karras et al. 2022, table 1): x_t = x0 + σ ε, with σ = √((1-ᾱ)/ᾱ);
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

# These keep their latents as x0 + σ ε and scale them down before the denoiser (`scale_model_input`).
EXPLODING = (
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverSDEScheduler",
)


def sigma_at(scheduler: Any, index: int, timestep: Tensor) -> Tensor:
    """σ = √((1-ᾱ)/ᾱ), noise over signal, at step ``index`` of the scheduler's current timesteps."""
    if type(scheduler).__name__.startswith("KDPM2"):
        # The second half of each of its steps stands at an interpolated level that only this table knows.
        table = scheduler.sigmas if index % 2 == 0 else scheduler.sigmas_interpol
        return torch.as_tensor(table[index])
    if hasattr(scheduler, "sigmas") and hasattr(scheduler, "timesteps") and len(scheduler.sigmas):
        return torch.as_tensor(scheduler.sigmas[index])
    alpha_bar: Tensor = scheduler.alphas_cumprod[int(timestep)]
    return ((1 - alpha_bar) / alpha_bar) ** 0.5


def denoised(
    scheduler: Any,
    model_output: Shaped[Tensor, "images channels h w"],
    sample: Shaped[Tensor, "images channels h w"],
    sigma: Tensor,
) -> Shaped[Tensor, "images channels h w"]:
    """Predicted x0 for a model output, the sample it was made for and its noise level."""
    kind = scheduler.config.prediction_type
    sigma = sigma.to(sample)
    if kind == "flow_prediction":
        return sample - sigma * model_output
    signal = 1 / (1 + sigma**2) ** 0.5  # √ᾱ
    noise = sigma * signal  # √(1-ᾱ)
    preserving = sample * signal if type(scheduler).__name__ in EXPLODING else sample
    if kind == "epsilon":
        x0 = (preserving - noise * model_output) / signal
    elif kind == "v_prediction":
        x0 = signal * preserving - noise * model_output
    elif kind == "sample":
        x0 = model_output
    else:
        raise ValueError(
            f"prediction type {kind!r} is not known; known: epsilon, v_prediction, sample, flow_prediction"
        )
    if _asks_for(scheduler, "thresholding"):
        return scheduler._threshold_sample(x0)  # type: ignore[no-any-return]
    if _asks_for(scheduler, "clip_sample"):
        limit = scheduler.config.get("clip_sample_range", 1.0)
        x0 = x0.clamp(-limit, limit)
    return x0


def _asks_for(scheduler: Any, option: str) -> bool:
    # A configuration keeps options of the class it came from that this class does not know.
    known = option in inspect.signature(type(scheduler).__init__).parameters
    return known and bool(scheduler.config[option])
