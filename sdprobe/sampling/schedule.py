"""`schedule`: the noise levels at which a scheduler calls the denoiser, as numbers, a table and a figure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import matplotlib
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from sdprobe.core.data_frame import data_frame
from sdprobe.model.base import Model
from sdprobe.model.diffusion.noise_levels import level_at
from sdprobe.model.diffusion.schedulers import fresh_scheduler
from sdprobe.model.fill_settings import of_steps
from sdprobe.model.loading import load
from sdprobe.plot.table import as_html, as_text

SHOWN = 16  # longer tables are shortened in print, not in a notebook
STYLES = ("-", "--", "-.", ":")


@dataclass(frozen=True, eq=False, repr=False)
class Schedule:
    """The noise levels of a scheduler, at each of its calls of the denoiser and after the last.

    Latents are x_t = signal · x0 + noise · ε. Print it, or return it in a notebook cell, to see a table.

    >>> import sdprobe
    >>> own = sdprobe.schedule(sdprobe.load(), steps=5, scheduler="Heun")
    >>> own.timesteps.shape, own.sigmas.shape, own.step_sizes.shape
    (torch.Size([9]), torch.Size([10]), torch.Size([9]))
    >>> bool((own.alphas - 1 / (1 + own.sigmas**2)).abs().max() < 1e-6)
    True

    Attributes:
        scheduler: the class name in diffusers.
        steps: the number of steps asked for; a second-order scheduler calls the denoiser about twice per step.
        timesteps: ``[calls]``, as the denoiser gets them.
        sigmas: ``[calls + 1]``, σ = sqrt((1 - ᾱ) / ᾱ), noise over signal; for a flow model its own σ, in [0, 1]. The
            last one is the level after the last call.
        signal: ``[calls + 1]``, the factor of x0 in the latents, in the scheduler's own scale.
        noise: ``[calls + 1]``, the factor of ε.
    """

    scheduler: str
    steps: int
    timesteps: Float[Tensor, " calls"] = field(repr=False)
    sigmas: Float[Tensor, " levels"] = field(repr=False)
    signal: Float[Tensor, " levels"] = field(repr=False)
    noise: Float[Tensor, " levels"] = field(repr=False)

    @property
    def alphas(self) -> Float[Tensor, " levels"]:
        """ᾱ (`alphas_cumprod`): the signal's share of the variance, in [0, 1] (Ho et al. 2020, eq. 4)."""
        return self.signal**2 / (self.signal**2 + self.noise**2)

    @property
    def snr(self) -> Float[Tensor, " levels"]:
        """Signal-to-noise ratio ᾱ / (1 - ᾱ) (Kingma et al. 2021, eq. 2); infinite where no noise is left."""
        return (self.signal / self.noise) ** 2

    @property
    def step_sizes(self) -> Float[Tensor, " calls"]:
        """The decrease of σ from each call to the next; negative where σ increases, as in inversion."""
        return self.sigmas[:-1] - self.sigmas[1:]

    def to_pandas(self) -> Any:
        """Return a data frame of pandas with a row for each call of the denoiser, and one for the end.

        >>> import sdprobe
        >>> table = sdprobe.schedule(sdprobe.load(), steps=2, scheduler="EulerDiscrete").to_pandas()
        >>> list(table), len(table)
        (['call', 'timestep', 'sigma', 'alpha', 'snr', 'signal', 'noise', 'step_size'], 3)
        >>> table.timestep.tolist()
        [999.0, 499.0, nan]

        Raises ImportError if pandas is not installed.
        """
        no_call = torch.tensor([torch.nan])  # after the last one
        columns = {
            "call": torch.arange(len(self.sigmas)),
            "timestep": torch.cat([self.timesteps, no_call]),
            "sigma": self.sigmas,
            "alpha": self.alphas,
            "snr": self.snr,
            "signal": self.signal,
            "noise": self.noise,
            "step_size": torch.cat([self.step_sizes, no_call]),
        }
        return data_frame({name: values.numpy() for name, values in columns.items()})

    def plot(self, *others: Schedule) -> Figure:
        """Plot timesteps, σ, step sizes and signal-to-noise ratio over the calls, for one or more schedules."""
        figure = Figure(figsize=(10, 2.6 + 0.2 * bool(others)), layout="constrained")
        schedules = (self, *others)
        panels = (
            ("timestep", [own.timesteps for own in schedules]),
            ("σ (noise over signal)", [own.sigmas for own in schedules]),
            ("step size in σ", [own.step_sizes.abs() for own in schedules]),
            ("signal-to-noise ratio", [own.snr for own in schedules]),
        )
        colors = matplotlib.colormaps["viridis"](torch.linspace(0, 0.85, len(schedules)).tolist())
        for ax, (label, values) in zip(figure.subplots(1, len(panels)), panels, strict=True):
            logarithmic = label != "timestep"
            for i, (own, color) in enumerate(zip(schedules, colors, strict=True)):
                drawn = values[i].where(((values[i] > 0) & values[i].isfinite()) | (not logarithmic), torch.nan)
                there = ~drawn.isnan()
                calls = torch.arange(len(drawn))[there].numpy()
                style = STYLES[i % len(STYLES)]
                ax.plot(calls, drawn[there].numpy(), style, color=color, marker=".", label=own._name())
            ax.set(xlabel="call of the denoiser", ylabel=label, yscale="log" if logarithmic else "linear")
            ax.spines[["top", "right"]].set_visible(False)
        if others:
            figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        else:
            figure.suptitle(self._name(), fontsize=10)
        return figure

    def _name(self) -> str:
        calls = "" if len(self.timesteps) == self.steps else f", {len(self.timesteps)} calls"
        return f"{self.scheduler.removesuffix('Scheduler')}, {self.steps} step{'s' * (self.steps != 1)}{calls}"

    def _rows(self) -> list[tuple[str, ...]]:
        levels = zip(self.sigmas.tolist(), self.alphas.tolist(), self.snr.tolist(), strict=True)
        shown = [(f"{sigma:.4f}", f"{alpha:.4g}", f"{snr:.4g}") for sigma, alpha, snr in levels]
        calls = [f"{timestep:.4f}".rstrip("0").rstrip(".") for timestep in self.timesteps.tolist()]
        sizes = [f"{size:.4f}" for size in self.step_sizes.tolist()]
        body = [(str(i), calls[i], *shown[i], sizes[i]) for i in range(len(calls))]
        head = ("call", "timestep", "sigma", "alpha", "snr", "step size")
        return [head, *body, ("end", "", *shown[-1], "")]

    def __str__(self) -> str:
        lines = as_text(self._rows(), align=str.rjust)
        if len(lines) > SHOWN + 2:
            lines = [*lines[: SHOWN // 2 + 1], "...", *lines[-SHOWN // 2 :]]
        return "\n".join([f"Schedule({self._name()})", *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return as_html(self._rows(), self._name())


def schedule(model: Model | Any, steps: int | None = None, scheduler: str | type | Any | None = None) -> Schedule:
    """Return the noise levels that a scheduler uses in a number of steps, as in `sdprobe.sample`.

    >>> import sdprobe
    >>> sdprobe.schedule(sdprobe.load(), steps=4, scheduler="EulerDiscrete")
    Schedule(EulerDiscrete, 4 steps)
    call  timestep     sigma      alpha        snr  step size
       0       999  157.4073  4.036e-05  4.036e-05   140.1603
       1       749   17.2470   0.003351   0.003362    13.8228
       2       499    3.4241    0.07859    0.08529     2.4712
       3       249    0.9529     0.5241      1.101     0.9529
     end              0.0000          1        inf

    Args:
        model: the result of `sdprobe.load`, or a live pipeline; its configuration gives the betas.
        steps: the number of steps, 1 or more; None for the pipeline's default.
        scheduler: as for `sdprobe.sample`: a class that fits the pipeline, its name, or an instance whose configuration
            is used; None for the pipeline's own.

    Raises:
        ValueError: for a scheduler that does not fit the pipeline, or for less than one step.

    Source: for the meaning of timesteps and sigmas, Karras et al. 2022, "Elucidating the Design Space of
        Diffusion-Based
    Generative Models", table 1 and section 3.
    """
    known = load(model)
    steps = known.default("num_inference_steps") if steps is None else steps
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, not {steps}")
    own = fresh_scheduler(known.pipe, scheduler)
    settings = of_steps(known, steps, type(own).__name__)  # some families depend on the image size too
    known.set_timesteps(own, settings, torch.device("cpu"))
    levels = [level_at(own, i) for i in range(len(own.timesteps) + 1)]
    signal, noise, sigmas = (torch.stack([value.float() for value in column]) for column in zip(*levels, strict=True))
    return Schedule(type(own).__name__, steps, own.timesteps.float(), sigmas, signal, noise)
