"""`Statistics`: mean, standard deviation, norm and cosine of every step."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import matplotlib
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from sdprobe.core.data_frame import data_frame, each_cell
from sdprobe.core.hook import Observer
from sdprobe.core.hook_records import HookRecords
from sdprobe.core.plain_values import Tensors
from sdprobe.core.run import Run
from sdprobe.core.short_repr import said
from sdprobe.core.step import Step
from sdprobe.core.written_values import count, listed

Measured = Literal["latents", "noise_pred", "denoised"]
LINES = {
    "latents": ("$x_t$", "-", 0.0),
    "noise_pred": ("guided noise", "--", 0.45),
    "denoised": ("predicted $x_0$", ":", 0.8),
}


class _SavedMoments:
    """What a saved run holds: the moments of each value, ``[3, steps, images]``, and the cosine, ``[steps, images]``.

    Args:
        tensors: those of the saved run.
        steps: how many steps were measured.
    """

    def __init__(self, tensors: Tensors, steps: int) -> None:
        self.tensors, self.steps = tensors, steps

    def __getitem__(self, name: Measured | Literal["cosine"]) -> Tensor:
        """Return a tensor. Raises ValueError for one of another size."""
        cosine = self.tensors["cosine"]
        x = cosine if name == "cosine" else self.tensors[name]
        size = [self.steps, *cosine.shape[1:]] if name == "cosine" else [3, self.steps, *cosine.shape[1:]]
        if cosine.ndim != 2 or not cosine.numel() or list(x.shape) != size or x.dtype != torch.float32:
            raise ValueError(f"{name} is {said(x)}, which is not of {self.steps} steps")
        return x


class Moments(NamedTuple):
    """The mean, standard deviation and norm of each image at each step."""

    mean: Float[Tensor, "steps images"]
    std: Float[Tensor, "steps images"]
    norm: Float[Tensor, "steps images"]


class Statistics(Observer):
    """Mean, standard deviation and norm of the latents, the guided noise and predicted x0, at every step.

    Of a video they are over all its frames.

    With guidance, also the cosine between the denoiser's outputs with and without the prompt: at 1 they differ only in
    norm.

    >>> import sdprobe
    >>> statistics = sdprobe.Statistics()
    >>> run = sdprobe.sample(
    ...     sdprobe.load(), "a red circle", hooks=[statistics], steps=4, guidance_scale=5.0, seed=0, progress=False
    ... )
    >>> run[statistics]["latents"].std.shape, run[statistics].cosine.shape
    (torch.Size([4, 1]), torch.Size([4, 1]))
    >>> bool(run[statistics].cosine.abs().max() <= 1)
    True

    Attributes:
        indices: (in a run) the numbers of the steps.
        cosine: (in a run) ``[steps, images]``, in [-1, 1]; NaN in a run without guidance.

    Index the run's copy with ``"latents"``, ``"noise_pred"`` or ``"denoised"`` for their ``mean``, ``std`` and
    ``norm``, each ``[steps, images]``.
    """

    _saved: _SavedMoments | None = None

    def start(self, run: Run) -> None:
        self.run = run
        self.indices: list[int] = []
        self._moments: dict[str, list[Tensor]] = {name: [] for name in get_args(Measured)}
        self._cosines: list[Tensor] = []

    def noise_pred(self, x: Tensor, step: Step) -> None:
        self.indices.append(step.index)
        for name, value in {"latents": step.latents, "noise_pred": x, "denoised": step.denoised(x)}.items():
            flat = value.detach().flatten(1).float()
            self._moments[name].append(torch.stack([flat.mean(1), flat.std(1), flat.norm(dim=1)]))
        self._cosines.append(self._cosine(step, x))

    def finish(self, run: Run) -> None:
        # Until here the few numbers stay on the run's device, which so never waits.
        for kept in (*self._moments.values(), self._cosines):
            kept[:] = torch.stack(kept).cpu() if kept else ()

    def records(self) -> HookRecords:
        moments = {name: torch.stack(self[name]) for name in LINES} if self.indices else {}  # type: ignore[index]
        return HookRecords({"indices": self.indices}, moments | ({"cosine": self.cosine} if self.indices else {}))

    def restore(self, records: HookRecords, run: Run) -> None:
        self.start(run)
        self.indices = [*map(count, listed(records.values["indices"]))]
        self._saved = _SavedMoments(records.tensors, len(self.indices)) if self.indices else None

    def _cosine(self, step: Step, x: Tensor) -> Float[Tensor, " images"]:
        if step.model_output is None or "uncond" not in step.roles:  # None in a pipeline that no family knows
            return x.new_full((len(x),), torch.nan, dtype=torch.float32)
        cond, uncond = (step.model_output[step.rows_of(role)].flatten(1).float() for role in ("cond", "uncond"))
        return torch.cosine_similarity(cond, uncond)

    def __getitem__(self, name: Measured) -> Moments:
        if name not in get_args(Measured):
            raise KeyError(f"{name!r} is not measured; what is: {', '.join(get_args(Measured))}")
        self._refuse_nothing(name)
        saved = self._saved
        mean, std, norm = torch.stack(self._moments[name], dim=1).cpu() if saved is None else saved[name]
        return Moments(mean, std, norm)

    @property
    def cosine(self) -> Float[Tensor, "steps images"]:
        self._refuse_nothing("cosine")
        return torch.stack(self._cosines).cpu() if self._saved is None else self._saved["cosine"]

    def _refuse_nothing(self, name: str) -> None:
        if not self.indices:
            raise KeyError(f"no step was measured, so there is no {name!r}")

    def to_pandas(self) -> Any:
        """Return a data frame of pandas with a row for each step and image.

        >>> import sdprobe
        >>> statistics = sdprobe.Statistics()
        >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[statistics], steps=4, seed=0, progress=False)
        >>> run[statistics].to_pandas()[["step", "image", "latents_std", "denoised_norm", "cosine"]]
           step  image  latents_std  denoised_norm    cosine
        0     0      0     ...
        1     1      0     ...
        2     2      0     ...
        3     3      0     ...

        Raises ImportError if pandas is not installed.
        """
        moments = {f"{name}_{moment}": x.numpy() for name in LINES for moment, x in self[name]._asdict().items()}  # type: ignore[index]
        cosine = self.cosine.numpy()
        axes = {"step": self.indices, "image": range(cosine.shape[1])}
        return data_frame(each_cell(axes, {**moments, "cosine": cosine}))

    def plot(self) -> Figure:
        """Plot mean, standard deviation, norm and cosine over the steps, averaged over the images."""
        figure = Figure(figsize=(10, 2.8), layout="constrained")
        axes = figure.subplots(1, 4)
        for ax, moment in zip(axes, Moments._fields, strict=False):
            for name, (label, style, shade) in LINES.items():
                values = getattr(self[name], moment).mean(1)  # type: ignore[index]
                color = matplotlib.colormaps["viridis"](shade)
                ax.plot(self.indices, values.numpy(), style, color=color, linewidth=2, label=label)
            ax.set(xlabel="step", ylabel={"std": "standard deviation"}.get(moment, moment))
        axes[-1].plot(self.indices, self.cosine.mean(1).numpy(), color="black")
        axes[-1].set(xlabel="step", ylabel="cosine of the output\nwith and without prompt")
        for ax in axes:
            ax.spines[["top", "right"]].set_visible(False)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        return figure
