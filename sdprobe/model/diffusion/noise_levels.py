"""Signal and noise level of the latents, and predicted x0, for any scheduler.

Both are computed from the scheduler's tables, without ``scheduler.step``: a multistep scheduler has state, and a second
``step`` would corrupt the run. Latents are x_t = signal · x0 + noise · ε, in one of three conventions:

- *variance preserving* (Ho et al. 2020, eq. 4): signal √ᾱ, noise √(1-ᾱ);
- *variance exploding* (Karras et al. 2022, table 1): signal 1, noise σ = √((1-ᾱ)/ᾱ);
- *flow* (Lipman et al. 2022; Liu et al. 2022): signal 1-σ, noise σ, with σ from 1 to 0.
"""

from __future__ import annotations

import copy
import inspect
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor

# These accept the options that clip predicted x0, but do not use them.
UNCLIPPED = ("TCDScheduler", "CogVideoXDDIMScheduler", "CogVideoXDPMScheduler")


class Level(NamedTuple):
    """The factors of x0 and of the noise ε in the latents, x_t = signal · x0 + noise · ε, and σ.

    σ is noise over signal; for a flow, its own σ, which is the factor of the noise.
    """

    signal: Tensor
    noise: Tensor
    sigma: Tensor

    def to(self, device: torch.device) -> Level:
        """Return the level on a device, for which nothing waits."""
        return Level(*(value.to(device, non_blocking=True) for value in self))


class StepLevel(NamedTuple):
    """The level of the latents at one call of the denoiser, as numbers, and as tensors on the CPU."""

    timestep: float
    sigma: float
    signal: float
    noise: float
    level: Level


class StepLevels(tuple[StepLevel, ...]):
    """The level of every call of the denoiser, and that after the last.

    Attributes:
        end: the level after the last call, as sigma, signal and noise.
    """

    end: tuple[float, float, float]

    def from_step(self, first: int) -> tuple[tuple[float, float, float, float], ...]:
        """Return timestep, sigma, signal and noise of each call from one on, and of the end, which has no timestep."""
        return (*((own.timestep, own.sigma, own.signal, own.noise) for own in self[first:]), (torch.nan, *self.end))


def step_levels(scheduler: Any) -> StepLevels:
    """Return the level at every call of the denoiser. If tables of the scheduler are on a GPU, this waits for it."""
    read = copy.copy(scheduler)
    vars(read).update({name: value.cpu() for name, value in vars(scheduler).items() if isinstance(value, Tensor)})
    found = []
    for index, timestep in enumerate(map(float, read.timesteps)):
        level = level_at(read, index)
        found.append(StepLevel(timestep, float(level.sigma), float(level.signal), float(level.noise), level))
    levels, end = StepLevels(found), level_at(read, len(found))
    levels.end = float(end.sigma), float(end.signal), float(end.noise)
    return levels


def level_device(scheduler: Any) -> torch.device:
    """Return the device of the table that a scheduler takes its noise levels from."""
    if not len(table := getattr(scheduler, "sigmas", ())):
        table = getattr(scheduler, "alpha_bars", scheduler.alphas_cumprod)
    return torch.as_tensor(table).device


def level_at(scheduler: Any, index: int) -> Level:
    """Return the level of the latents at the denoiser's call ``index`` of the scheduler's current timesteps.

    The index after the last call gives the level at the end.
    """
    if not len(getattr(scheduler, "sigmas", ())):
        alpha_bar = _alpha_bar(scheduler, index)
        return Level(alpha_bar**0.5, (1 - alpha_bar) ** 0.5, ((1 - alpha_bar) / alpha_bar) ** 0.5)
    sigma = _sigma(scheduler, index)
    if is_flow(scheduler):
        return Level(1 - sigma, sigma, sigma)
    if _is_exploding(scheduler):
        return Level(torch.ones_like(sigma), sigma, sigma)
    signal = 1 / ((sigma**2 + 1) ** 0.5)
    return Level(signal, sigma * signal, sigma)


def is_flow(scheduler: Any) -> bool:
    """Whether the scheduler is that of a flow, x_t = (1-σ) x0 + σ ε."""
    return not hasattr(scheduler, "init_noise_sigma") or _asks_for(scheduler, "use_flow_sigmas")


def _is_exploding(scheduler: Any) -> bool:
    """Whether pure noise has another scale than x0: variance exploding."""
    if not len(getattr(scheduler, "sigmas", ())) or is_flow(scheduler):
        return False
    return bool(scheduler.init_noise_sigma != 1)


def _sigma(scheduler: Any, index: int) -> Tensor:
    inner = index % 2 == 1 and index < len(scheduler.timesteps)
    # The second half of each step of these is between two levels of the table.
    if inner and hasattr(scheduler, "sigmas_interpol"):
        ancestral = hasattr(scheduler, "sigmas_up")  # interpolates with the level below, the other with the one above
        return torch.as_tensor(scheduler.sigmas_interpol[index - 1 if ancestral else index])
    if inner and hasattr(scheduler, "mid_point_sigma"):
        start, end = scheduler.sigmas[index - 1].log(), scheduler.sigmas[index].log()
        return torch.as_tensor((start + (end - start) * 0.5).exp())
    return torch.as_tensor(scheduler.sigmas[index])


def _alpha_bar(scheduler: Any, index: int) -> Tensor:
    if not hasattr(scheduler, "alphas_cumprod"):
        kind = type(scheduler).__name__
        raise ValueError(f"{kind} has neither sigmas nor alphas_cumprod: how much noise its latents hold is not known")
    if hasattr(scheduler, "alpha_bars"):
        return torch.as_tensor(scheduler.alpha_bars[index])
    name, table, timesteps = type(scheduler).__name__, scheduler.alphas_cumprod, scheduler.timesteps
    ended = index == len(timesteps)
    timestep = int(timesteps[-1] if ended else timesteps[index])
    if timestep >= len(table):
        raise ValueError(f"timestep {timestep} lies beyond the {len(table)} of training: take fewer steps")
    stride = scheduler.config.num_train_timesteps // (scheduler.num_inference_steps or len(table))
    if hasattr(scheduler, "initial_alpha_cumprod"):  # inversion: the network gets the timestep of the next level
        before: Tensor = table[timestep - stride] if timestep >= stride else scheduler.initial_alpha_cumprod
        return table[timestep] if ended else before
    if not ended:
        return torch.as_tensor(table[timestep])
    if name.startswith("LCM"):  # its last call returns predicted x0
        return torch.ones_like(table[0])
    if name.startswith("TCD"):
        return torch.as_tensor(table[0])
    last = getattr(scheduler, "final_alpha_cumprod", torch.ones_like(table[0]))
    return torch.as_tensor(table[timestep - stride] if timestep >= stride else last)


def denoised(
    scheduler: Any,
    model_output: Shaped[Tensor, "images channels *size"],
    sample: Shaped[Tensor, "images channels *size"],
    level: Level,
) -> Shaped[Tensor, "images channels *size"]:
    """Return predicted x0 for a model output, its sample, and the level of the sample."""
    x0 = _predicted(scheduler, model_output, sample, level)
    if type(scheduler).__name__ in UNCLIPPED:
        return x0
    if _asks_for(scheduler, "thresholding"):
        return scheduler._threshold_sample(x0)  # type: ignore[no-any-return]
    if _asks_for(scheduler, "clip_sample"):
        limit = scheduler.config.get("clip_sample_range", 1.0)
        return x0.clamp(-limit, limit)
    return x0


def output_for(
    scheduler: Any,
    x0: Shaped[Tensor, "images channels *size"],
    sample: Shaped[Tensor, "images channels *size"],
    level: Level,
) -> Shaped[Tensor, "images channels *size"]:
    """Return the model output that predicts this x0 for a sample: the inverse of `denoised` without clipping.

    The prediction is linear in output and sample together: from changes of x0 and sample, it gives the output's change.
    """
    one = torch.ones((), dtype=sample.dtype, device=sample.device)
    return (x0 - _predicted(scheduler, 0 * one, sample, level)) / _predicted(scheduler, one, 0 * one, level)


def _predicted(scheduler: Any, output: Tensor, sample: Tensor, level: Level) -> Tensor:
    # The order of operations is that of the schedulers, so that results are equal to the last bit.
    if hasattr(scheduler, "precondition_outputs"):  # EDM: the network's output is mixed with its input
        return scheduler.precondition_outputs(sample, output, level.sigma)  # type: ignore[no-any-return]
    signal, noise, sigma = level
    kind = scheduler.config.get("prediction_type", "flow_prediction" if is_flow(scheduler) else None)
    if kind == "epsilon":
        return (sample - noise * output) / signal
    if kind == "v_prediction" and _is_exploding(scheduler):
        return output * (-sigma / (sigma**2 + 1) ** 0.5) + sample / (sigma**2 + 1)
    if kind == "v_prediction":
        return signal * sample - noise * output
    if kind in ("sample", "original_sample"):
        return output
    if kind == "flow_prediction":
        return sample - sigma * output
    raise ValueError(f"prediction type {kind!r} is not known; known: epsilon, v_prediction, sample, flow_prediction")


def _asks_for(scheduler: Any, option: str) -> bool:
    # A configuration keeps options of its original class that this class does not know.
    kind: Any = type(scheduler)
    return option in _options(kind) and bool(scheduler.config[option])


@cache  # reading a signature takes longer than all the rest of a step
def _options(kind: Any) -> frozenset[str]:
    return frozenset(inspect.signature(kind.__init__).parameters)
