"""`Schedule`: the noise levels at which a scheduler calls the denoiser, as numbers, a table and a figure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import matplotlib
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from sdprobe.core.data_frame import data_frame
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
