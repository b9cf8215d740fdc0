"""Schedulers for a run, made from the pipeline's configuration; the pipeline's own scheduler is not changed."""

from __future__ import annotations

import inspect
import operator
from typing import Any

from diffusers import schedulers as diffusers_schedulers
from diffusers.schedulers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    KarrasDiffusionSchedulers,
)

from sdprobe.model.diffusion.ddim_inversion import CorrectedDDIMInverseScheduler, PlainDDIMInverseScheduler
from sdprobe.model.diffusion.flow_inversion import FlowSolver
from sdprobe.model.diffusion.noise_levels import is_flow

LISTED = frozenset(kind.name for kind in KarrasDiffusionSchedulers)
"""The schedulers that a Stable Diffusion pipeline lists as compatible."""

SCHEDULERS = LISTED | {
    "DDIMInverseScheduler",
    "DDIMParallelScheduler",
    "DDPMParallelScheduler",
    "DPMSolverMultistepInverseScheduler",
    "LCMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
}
"""Also those that are not in this list but accept the same configuration."""


FLOWS = frozenset({"FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler"})
"""Those that accept the configuration of a flow."""

COGVIDEOX = frozenset({"CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"})
"""CogVideoX's own."""


def fresh_scheduler(pipe: Any, scheduler: str | type | Any | None) -> Any:
    """Return a new scheduler: the pipeline's own class, a class or its name, or one like the given instance.

    A class gets the pipeline's configuration (betas, prediction type, spacing), as with
    ``Class.from_config(pipe.scheduler.config)`` in diffusers.

    Raises ValueError for a class that does not fit, and for a model of a flow for one that knows no flow.
    """
    made = _made(pipe, scheduler)
    if is_flow_matching(pipe.scheduler) and not is_flow(made):
        raise ValueError(
            f"the model was made for a flow, which {type(made).__name__} does not know: take the pipeline's own "
            f"scheduler, {type(pipe.scheduler).__name__}, or another of a flow"
        )
    return made


def _made(pipe: Any, scheduler: str | type | Any | None) -> Any:
    if scheduler is None:
        return type(pipe.scheduler).from_config(pipe.scheduler.config)
    if not isinstance(scheduler, (str, type)):
        return type(scheduler).from_config(scheduler.config)
    names = fitting(pipe.scheduler)
    if isinstance(scheduler, type) and any(kind.__name__ in names for kind in scheduler.__mro__):
        return _configured(scheduler, pipe.scheduler.config)
    asked = scheduler if isinstance(scheduler, str) else scheduler.__name__
    short = {name.removesuffix("Scheduler").lower(): name for name in names}
    short |= {bare.removesuffix("discrete"): name for bare, name in short.items()}
    name = short.get(asked.removesuffix("Scheduler").lower())
    if name is None:
        raise ValueError(f"scheduler {asked!r} does not fit this pipeline; those that do: {', '.join(names)}")
    return _configured(getattr(diffusers_schedulers, name), pipe.scheduler.config)


def _configured(kind: Any, config: Any) -> Any:
    """Return a scheduler of a class with the configuration of another, by whatever name each knows a flow's shift."""
    shift = config.get("flow_shift", config.get("shift"))
    names = [name for name in ("flow_shift", "shift") if shift is not None and _takes(kind, name)]
    return kind.from_config(config, **dict.fromkeys(names, shift))


def _takes(kind: Any, option: str) -> bool:
    return option in inspect.signature(kind).parameters


def fitting(scheduler: Any) -> list[str]:
    """Return the names of classes that can replace a scheduler; the usual ones first."""
    own = {kind.__name__ for kind in (*type(scheduler).__mro__, *scheduler.compatibles)}
    known = {name for name in own if name.endswith("Scheduler") and hasattr(diffusers_schedulers, name)}
    for alike in (SCHEDULERS, FLOWS, COGVIDEOX):
        known |= alike if known & alike else frozenset()
    if is_flow_matching(scheduler):
        known = {*FLOWS, *(name for name in known if _takes(getattr(diffusers_schedulers, name), "use_flow_sigmas"))}
    return sorted(known, key=lambda name: (name not in LISTED, name))


def there_and_back(
    pipe: Any, there: type[PlainDDIMInverseScheduler] = CorrectedDDIMInverseScheduler
) -> tuple[Any, Any]:
    """Return schedulers for DDIM inversion and for DDIM, with the same noise levels.

    DDIM inversion does not support ``timestep_spacing="linspace"``; for it, both use ``"trailing"``. Nothing is
    clipped, as clipping cannot be inverted.
    """
    _refuse_flow(pipe.scheduler)
    config = pipe.scheduler.config
    spacing = config.get("timestep_spacing", "leading")
    spacing = spacing if spacing in ("leading", "trailing") else "trailing"
    back = DDIMScheduler.from_config(config, timestep_spacing=spacing, clip_sample=False, thresholding=False)
    known = inspect.signature(DDIMInverseScheduler).parameters  # diffusers warns of any other option
    return there(**{key: value for key, value in back.config.items() if key in known}), back


def flow_there_and_back(pipe: Any, there: type[FlowSolver], back: type[FlowSolver] | None = None) -> tuple[Any, Any]:
    """Return schedulers for a flow from picture to noise and from noise to picture, with the same noise levels.

    Args:
        pipe: the pipeline.
        there: the solver from picture to noise.
        back: that from noise to picture; None for Euler's method, the stock scheduler. It adds no noise on the way.

    Raises ValueError for a model that was not made for a flow.
    """
    if not is_flow_matching(pipe.scheduler):
        raise ValueError(
            f"this solves the equation of a flow, and the model was made for the noise levels of DDIM "
            f"({type(pipe.scheduler).__name__})"
        )
    stock = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config, stochastic_sampling=False)
    known = inspect.signature(FlowMatchEulerDiscreteScheduler).parameters
    config = {key: value for key, value in stock.config.items() if key in known}
    return there(**config), stock if back is None else back(**config)


def one_call(pipe: Any, timestep: int) -> Any:
    """Return a scheduler whose one step calls the denoiser at a timestep of training and goes to predicted x0.

    It is the model's own schedule, ended at this timestep, with the model's noise levels up to there.
    """
    _refuse_flow(pipe.scheduler)
    usual = DDIMScheduler.from_config(pipe.scheduler.config)
    try:
        timestep = operator.index(timestep)
    except TypeError:
        raise ValueError(f"timestep is one whole number for the one call, not {timestep!r}") from None
    if not 0 <= timestep < len(usual.betas):
        raise ValueError(f"a timestep of this model lies between 0 and {len(usual.betas) - 1}, not {timestep}")
    return DDIMScheduler.from_config(
        usual.config,
        trained_betas=usual.betas[: timestep + 1].tolist(),
        num_train_timesteps=timestep + 1,
        rescale_betas_zero_snr=False,  # the betas are rescaled already if that was configured
        timestep_spacing="trailing",
        set_alpha_to_one=True,
    )


def is_flow_matching(scheduler: Any) -> bool:
    """Whether a model was made for a flow, and so has no noise levels of DDIM."""
    return is_flow(scheduler) and scheduler.config.get("prediction_type", "flow_prediction") == "flow_prediction"


def is_straight_flow(scheduler: Any) -> bool:
    """Whether a scheduler knows flows alone, whose noise levels are the weights of noise and picture themselves."""
    return is_flow_matching(scheduler) and "prediction_type" not in scheduler.config


def _refuse_flow(scheduler: Any) -> None:
    if is_flow_matching(scheduler):
        raise ValueError(
            f"this needs the noise levels of DDIM, and the model was made for a flow ({type(scheduler).__name__}), "
            f"which goes straight from noise to picture"
        )
