"""`Step`: the second argument at the points of a step: one call of the denoiser.

A hook reads from a frozen step. Two things it can ask of the loop: rows left out of the step, and an end after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.resume_state import State
from sdprobe.core.rows import Role, Row, rows_of
from sdprobe.core.run import Run


@dataclass(frozen=True)
class Step:
    """The second argument at the points of a step: one call of the denoiser.

    Args:
        index: 0 is the first step, with the most noise.
        total: the number of steps (calls of the denoiser).
        timestep: the scheduler's number for the noise level.
        sigma: noise over signal, σ = sqrt((1 - ᾱ) / ᾱ); for a flow model its own σ, in [0, 1].
        signal: the factor of x0 in the latents, x_t = signal · x0 + noise · ε, in the scheduler's own scale.
        noise: the factor of ε.
        latents: x_t, ``[images, channels, h, w]``, in the scheduler's own scale.
        rows: what each row of the denoiser's batch is.
        run: the run.
        model_output: at ``noise_pred`` and ``sample``, the denoiser's output for every row, after the hooks at
            ``model_output``; None before.
        further: whether this is a further call of the denoiser, which a hook made by `predict`.
        leaves: the leaves for gradients (`Transform.needs_grad`), by name: ``"latents"``; ``"prompt_embeds"`` of the
            denoiser's rows; ``"token_embeds"`` of the prompts, ``"token_embeds_2"``, ``"negative_token_embeds"``, ...
    """

    index: int
    total: int
    timestep: float
    sigma: float
    signal: float = field(repr=False)
    noise: float = field(repr=False)
    latents: Shaped[Tensor, "images channels *size"] = field(repr=False)
    rows: tuple[Row, ...] = field(repr=False)
    run: Run = field(repr=False)
    to_denoised: Callable[[Tensor, Tensor], Tensor] = field(repr=False)
    to_output: Callable[[Tensor, Tensor], Tensor] = field(repr=False)
    to_state: Callable[[Tensor], State] = field(repr=False)
    to_prediction: Callable[[Step, Tensor, tuple[Any, ...], Role | None, Tensor | None, Any], Tensor] = field(
        repr=False
    )
    model_output: Shaped[Tensor, "rows channels *size"] | None = field(default=None, repr=False)
    further: bool = field(default=False, repr=False)
    leaves: Mapping[str, Shaped[Tensor, ...]] = field(default_factory=dict, repr=False)

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles of its rows: those of the run, or fewer where rows are left out."""
        return tuple(dict.fromkeys(row.role for row in self.rows))

    def denoised(self, noise_pred: Shaped[Tensor, "images channels *size"]) -> Shaped[Tensor, "images channels *size"]:
        """Return predicted x0: the clean latents that this output of the denoiser predicts at this step.

        Correct for the run's scheduler and prediction type. Differentiable; does not advance the scheduler.
        """
        return self.to_denoised(noise_pred, self.latents)

    def output_for(
        self, x0: Shaped[Tensor, "images channels *size"], latents: Shaped[Tensor, "images channels *size"]
    ) -> Shaped[Tensor, "images channels *size"]:
        """Return the denoiser's output that predicts this x0 from these latents: the inverse of `denoised`.

        It is linear: applied to a change of x0 and of the latents, it gives the change of ``noise_pred``.
        """
        return self.to_output(x0, latents)

    def predict(
        self,
        latents: Shaped[Tensor, "images channels *size"],
        *hooks: Any,
        role: Role | None = None,
        beside: Shaped[Tensor, "rows tokens width"] | None = None,
        by: Any = None,
    ) -> Shaped[Tensor, "rows channels *size"]:
        """Call the denoiser once more, on any latents at this step, and return its output.

        The run's transforms inside the denoiser act in this call too; its observers do not see it. Differentiable if
        gradients are enabled, and so is the attention that a transform among ``hooks`` receives.

        Args:
            latents: in the scheduler's own scale.
            hooks: hooks that act inside the denoiser in this call only, after the run's own transforms.
            role: only the rows of this role (``"cond"``), one for each image; None for all, as in `rows`.
            beside: further tokens for each row, which stand after those of the prompt embeddings in this call.
            by: another model of the same family, whose denoiser answers, given what the run's own would be given. No
                hook acts inside it.

        Raises:
            RuntimeError: if called inside the denoiser, at ``attention`` or ``activation``.
            ValueError: for a role that this run does not have, and for tokens of another shape.
        """
        return self.to_prediction(self, latents, hooks, role, beside, by)

    def rows_of(self, role: Role) -> slice | list[int]:
        """Return the positions of a role's rows, in the order of their images: ``x[step.rows_of("uncond")]``."""
        return rows_of(self.rows, role)

    def leave_out(self, role: Role) -> None:
        """Leave the rows of a role, such as ``"uncond"``, out of this step. Call it at ``latents``.

        Raises:
            ValueError: for a role of which the step has no rows, for ``"cond"``, without which there is no prediction,
                and for a hook that is limited to some of the images. When the denoiser is called: if it has a cache of
                diffusers; and in a pipeline that calls it for each role by itself, as Flux's.
            RuntimeError: at a later point, where the denoiser has its rows.
        """
        if role == "cond" or role not in self.roles:
            others = ", ".join(repr(own) for own in self.roles if own != "cond") or "none"
            raise ValueError(f"rows of role {role!r} cannot be left out of step {self.index}; those that can: {others}")
        self.run.control.leave_out(self.index, role)

    def stop(self) -> None:
        """End the run after this step: what was recorded is there, and the latents are decoded as they are then.

        A step is one call of the denoiser: of a scheduler with two calls to a level, such as Heun, the first may be the
        last. Raises RuntimeError in an attached pipeline that cannot be interrupted.
        """
        self.run.control.stop(self.index)

    def state(self) -> State:
        """Return a copy of the state of the run at this step; at ``latents``, before any hook of this step."""
        return self.to_state(self.latents)
