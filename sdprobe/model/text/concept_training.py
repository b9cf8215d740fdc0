"""`ConceptTraining`: the training of token embeddings, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sdprobe.core.compose import Hooks
from sdprobe.core.concept import Concept
from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Run, Settings
from sdprobe.model.base import Model
from sdprobe.model.denoiser.cache_states import caches_set_aside
from sdprobe.model.diffusion.forward_process import ForwardProcess
from sdprobe.model.diffusion.schedulers import fresh_scheduler
from sdprobe.model.families.stable_diffusion import StableDiffusion
from sdprobe.model.text.added_tokens import AddedTokens
from sdprobe.transform.use_concept import UseConcept

ENCODER = "text_encoder"
STATE = ("vectors", "optimiser", "random", "losses")


class ConceptTraining:
    """A training of token embeddings: its inputs, its state and its steps."""

    def __init__(
        self,
        model: StableDiffusion,
        begun: Concept,
        process: ForwardProcess,
        x0: Float[Tensor, "images channels *size"],
        templates: Sequence[str],
        batch: int,
        lr: float,
        seed: int,
    ) -> None:
        use = UseConcept(begun)
        height, width = model.default_size()
        self.settings = Settings(
            prompt=("",) * batch,
            negative_prompt=("",) * batch,
            steps=model.default("num_inference_steps"),
            guidance_scale=1.0,
            seed=seed,
            scheduler=type(model.pipe.scheduler).__name__,
            height=height,
            width=width,
            images_per_prompt=1,
        )
        self.run_model = model.prepare_run(fresh_scheduler(model.pipe, None), self.settings, use.brings)
        self.process, self.x0, self.batch, self.device = process, x0.cpu(), batch, model.device
        # Leaf tensors, one per token: the vectors that a run would use, but with a gradient.
        first = begun.vectors[ENCODER].to(self.device)
        self.leaves = [vector.clone().requires_grad_() for vector in first]
        self.lengths = first.norm(dim=-1)
        numbers = self.run_model.added_tokens[ENCODER].vectors
        self.run_model.added_tokens = {ENCODER: AddedTokens(dict(zip(numbers, self.leaves, strict=True)))}
        self.prompts = [self.run_model.read(template.replace("{}", use.token)) for template in templates]
        for prompt in self.prompts:
            prompt.positions(use.token)  # raises an error if a template is too long
        self.optimiser = torch.optim.Adam(self.leaves, lr=lr * float(first.square().mean().sqrt()))
        self.generator = torch.Generator("cpu").manual_seed(seed)
        self.losses: list[float] = []

    def step(self) -> None:
        """Run one training step on one batch."""
        drawn = self.generator
        x0 = self.x0[torch.randint(len(self.x0), (self.batch,), generator=drawn)]
        prompts = [self.prompts[i] for i in torch.randint(len(self.prompts), (self.batch,), generator=drawn)]
        spread = (torch.arange(self.batch) + torch.rand(self.batch, generator=drawn)) / self.batch
        count = len(self.process.levels)
        timesteps = (spread * count).long().clamp(max=count - 1)  # rounding may give 1
        x_t, target = self.process.noised(x0, torch.randn(x0.shape, generator=drawn), timesteps)
        with torch.enable_grad():
            loss = (self._predicted(x_t, timesteps, prompts) - target.to(self.device)).square().mean()
            gradients = torch.autograd.grad(loss, self.leaves)
        if not all(x.isfinite().all() for x in (loss, *gradients)):
            raise FloatingPointError(
                f"the loss of step {len(self.losses)} is {loss.item()}, or its gradient is no number: lower lr, or "
                f"load the model in float32"
            )
        for leaf, gradient in zip(self.leaves, gradients, strict=True):
            leaf.grad = gradient
        self.optimiser.step()
        with torch.no_grad():
            for leaf, length in zip(self.leaves, self.lengths, strict=True):
                leaf.mul_(length / leaf.norm())
        self.losses.append(loss.item())

    def _predicted(self, x_t: Tensor, timesteps: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        run = Run(self.run_model, self.settings, prompts, prompts)  # only its conditional prompts are encoded
        with self.run_model.add_tokens():
            conditioning = self.run_model.encode(run, Hooks(), ("cond",))
        rows = x_t.to(self.device, self.run_model.denoiser.dtype)
        with caches_set_aside(*self.run_model.denoisers.values()):  # the steps of training are none of a loop
            return self.run_model.predict(rows, timesteps.to(self.device), conditioning).float()

    def vectors(self) -> Float[Tensor, "vectors width"]:
        """Return the present vectors."""
        return torch.stack(self.leaves).detach().cpu()

    def state(self) -> dict[str, Any]:
        """Return all state that the steps change, by the names in `STATE`."""
        own = (self.vectors(), self.optimiser.state_dict(), self.generator.get_state(), self.losses)
        return dict(zip(STATE, own, strict=True))

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of `state`."""
        with torch.no_grad():
            for leaf, vector in zip(self.leaves, state["vectors"], strict=True):
                leaf.copy_(vector)
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["random"])
        self.losses = list(state["losses"])


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """While this is open, no module is in training mode: dropout would use a random state that is not saved."""
    parts = (part for part in model.pipe.components.values() if isinstance(part, nn.Module))
    training = [module for part in parts for module in part.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
