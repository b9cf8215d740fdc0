"""`NullTextOptimisation`: unconditional embeddings that bring a guided run back to the picture."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.given_hooks import put_before
from sdprobe.core.hook import Transform
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.core.text import Text
from sdprobe.observe.latents import LatentRecorder
from sdprobe.sampling.inversions.fixed_point import FixedPoint
from sdprobe.sampling.inversions.request import FoundNoise, Request
from sdprobe.transform.guidances.null_text import NullText, refuse_null_text, with_uncond_context

Latents = Shaped[Tensor, "images channels *size"]


FAR = 0.01
"""The error of a step, as a share of the latents' mean square, that is warned of."""


@dataclass(frozen=True)
class NullTextOptimisation:
    """Null-text optimisation: invert without guidance, then fit the unconditional embeddings of every step.

    In each step of the guided run back, the embeddings of the empty prompt are optimised so that the step leads to the
    latents that the inversion passed there. What is found is a `NullText`, and the prompt can then be edited at this
    guidance scale. For models with cross-attention.

    Args:
        iterations: steps of Adam for each step of the run, at most. Each costs one denoiser call with gradients for the
            unconditional rows.
        rate: Adam's learning rate in the first step; it falls by half to the last.
        stop: a picture's optimisation ends where its mean squared error is below ``stop + slack · step``. The errors
            are `Inversion.residuals`; a warning tells in how many steps they stayed above a hundredth of the latents'
            mean square.
        slack: see ``stop``.
        inner: as ``iterations`` of `FixedPoint`, for the inversion.

    Source: Mokady et al. 2023, "Null-text Inversion for Editing Real Images using Guided Diffusion Models", section
    3.2, with the learning rate and the form of the early stop of the authors' code. There the inversion is plain DDIM,
    pictures are inverted one at a time, iterations are 10 and slack is 2e-5; here several are, each with its own
    embeddings, and with the embedded model those numbers lost about a decibel more in 50 steps.
    """

    iterations: int = 30
    rate: float = 1e-2
    stop: float = 1e-5
    slack: float = 5e-6
    inner: int | None = None

    def __post_init__(self) -> None:
        for name in ("iterations", "rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is above 0, not {getattr(self, name)}")
        for name in ("stop", "slack"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is 0 or above, not {getattr(self, name)}")
        if not isinstance(self.iterations, int):
            raise ValueError(f"iterations is a whole number, not {self.iterations}")
        FixedPoint(self.inner)  # which refuses what it cannot be

    def goal(self, index: int) -> float:
        """Return the mean squared error below which the optimisation of a step ends."""
        return self.stop + self.slack * index

    def invert(self, request: Request) -> FoundNoise:
        refuse_null_text(request.model, request.guidance_scale)
        passed = LatentRecorder(every=2)  # at the first of the two calls of a step, the latents that it leaves
        unguided = replace(request, guidance_scale=1.0, negative_prompt=None)
        up = FixedPoint(self.inner).invert(
            replace(unguided, hooks=put_before([passed], request.hooks, "the inversion"))
        )
        assert up.run.latents is not None  # the run has ended
        fit = FitNullText(up.run[passed]["latents"].flip(0), self)
        back = request.run(up.run.latents, up.scheduler, [fit])
        null_text, errors = NullText(torch.stack(back[fit].found)), tuple(back[fit].errors)
        self._warn_if_far(errors, float(fit.targets.square().mean()))
        return replace(up, negative_prompt=request.negative_prompt, hooks=(null_text,), residuals=errors)

    def _warn_if_far(self, errors: tuple[float, ...], square: float) -> None:
        far = [k for k, error in enumerate(errors) if not error < max(FAR * square, self.goal(k))]
        if far:
            worst = max(far, key=errors.__getitem__)
            warnings.warn(
                f"null-text optimisation stayed far from the picture's latents in {len(far)} of {len(errors)} steps: "
                f"after {self.iterations} iterations, step {worst} ends at a mean squared error of {errors[worst]:.1g} "
                f"(Inversion.residuals). More iterations, more steps or less guidance bring it closer",
                stacklevel=4,
            )


class FitNullText(Transform):
    """Before each step, fit the unconditional embeddings with which it leads to given latents; then take the step.

    Args:
        targets: where each step is to lead, ``[steps, images, channels, h, w]``.
        options: how to optimise.

    Attributes:
        found: (in a run) the embeddings of each step, ``[images, tokens, width]``.
        errors: (in a run) how far from its target each step ends: the mean squared error, of the image where it is
            most.
    """

    kinds = ("cross",)

    def __init__(self, targets: Shaped[Tensor, "steps images channels h w"], options: NullTextOptimisation) -> None:
        self.targets, self.options = targets, options

    def start(self, run: Run) -> None:
        self.found: list[Float[Tensor, "images tokens width"]] = []
        self.errors: list[float] = []
        self._own: Tensor | None = None

    def prompt_embeds(self, x: Tensor, text: Text) -> Tensor:
        if text.role == "uncond":
            self._own = x.detach().float()
        return x

    def latents(self, x: Tensor, step: Step) -> Tensor:
        assert self._own is not None  # the run is guided
        self._own = leaf = self._own.clone().requires_grad_()
        options, going = self.options, torch.ones(len(x), dtype=torch.bool, device=x.device)
        adam = torch.optim.Adam([leaf], lr=options.rate * (1 - step.index / (2 * step.total)))
        cond, scheduler = step.predict(x, role="cond"), step.state().scheduler  # a copy
        for number in range(options.iterations + 1):
            with torch.set_grad_enabled(number < options.iterations):
                errors = self._errors(x, step, cond, scheduler)
            going &= errors.detach() >= options.goal(step.index)
            if number == options.iterations or not going.any():
                break
            (leaf.grad,) = torch.autograd.grad(errors, leaf, torch.ones_like(errors))
            before = leaf.detach().clone()
            adam.step()
            with torch.no_grad():
                leaf.copy_(torch.where(going[:, None, None], leaf, before))
        self._own = leaf.detach()
        self.found.append(self._own.cpu())
        self.errors.append(float(errors.detach().max()))
        return x

    def attention(self, attn: Attention, site: Site) -> Attention:
        assert self._own is not None  # the run is guided
        return with_uncond_context(attn, site, self._own)

    def _errors(self, x: Latents, step: Step, cond: Latents, scheduler: Any) -> Float[Tensor, " images"]:
        """Return how far from its target each image is after a step with the present embeddings."""
        of = {"uncond": step.predict(x, role="uncond"), "cond": cond}
        guided = step.run.model.guided(of, step.run.model.scale_at(step))
        moved = scheduler.step(guided, scheduler.timesteps[step.index], x, return_dict=False)[0]
        target = self.targets[step.index].to(x.device)
        errors: Tensor = (moved.float() - target.float()).square().mean((1, 2, 3))
        return errors
