"""What each row is that a pipeline shows its networks: told from what it shows, at each call of them.

Before a call only the arguments are known, and rows are reckoned from them. A callback may then take guidance away, or
give the pipeline another prompt: so the rows of a call are those that stand in it, however many were expected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sdprobe.core.prompt import Prompt
from sdprobe.core.prompt_of_embeddings import PromptOfEmbeddings
from sdprobe.core.run import Role, Row, Run, side_of
from sdprobe.model.base import Model
from sdprobe.stock_pipelines.call_arguments import CallArguments

EACH_BY_ITSELF: tuple[Role, ...] = ("cond", "uncond")
"""The order of the groups of rows where a pipeline calls its denoiser, and its encoders, for each by itself."""


class ShownRows:
    """The rows of one call of a pipeline.

    Args:
        model: the model of the pipeline.
        run: the run; its roles are set to those that the arguments let expect.
        arguments: what the pipeline was asked for.
    """

    def __init__(self, model: Model, run: Run, arguments: CallArguments) -> None:
        self.model, self.run = model, run
        self.each_by_itself = model.separate_calls
        perturbed = (arguments.get("pag_scale") or 0) > 0 and getattr(model.pipe, "pag_applied_layers", None)
        self.beside_guidance: tuple[Role, ...] = ("perturbed",) if perturbed else ()
        self.may_switch = arguments.own_callback is not None
        self.called_back = False
        self.embeddings: list[tuple[Prompt, Tensor]] = []
        self.encodings = 0
        self.prompts: dict[Role, tuple[Prompt, ...]] = {}
        run.roles = (*model.roles_asked(arguments.bound.arguments, run.settings), *self.beside_guidance)
        self.roles = run.roles

    def roles_of(self, groups: int) -> tuple[Role, ...]:
        """The roles of so many groups of rows in one call; those that are left without guidance are the conditional."""
        guided = (*self.model.roles(math.inf), *self.beside_guidance)
        unguided: tuple[Role, ...] = ("cond", *self.beside_guidance)
        found = ("cond",) if groups == 1 else unguided if groups == len(unguided) < len(guided) else guided
        if len(found) != groups:
            raise ValueError(
                f"the pipeline shows its denoiser {groups} rows for each of {self.run.settings.images} images, and "
                f"what is known of it is {' or '.join(map(str, sorted({1, len(guided)})))}"
            )
        return found

    def roles_encoded(self, guided: bool | None) -> tuple[Role, ...]:
        """Whose prompts a pipeline encodes in a call: of both sides, or of one of them after the other.

        Args:
            guided: whether it encodes both; None for a pipeline that encodes each side by itself.
        """
        self.encodings += 1
        if guided is None:
            self.roles = self.run.roles = EACH_BY_ITSELF[: max(len(self.roles), self.encodings)]
            return EACH_BY_ITSELF[self.encodings - 1 : self.encodings]
        roles: tuple[Role, ...] = self.model.roles(math.inf) if guided else ("cond",)
        self.roles = self.run.roles = (*roles, *self.beside_guidance)
        return tuple(role for role in self.roles if role == side_of(role))

    def expected(self) -> tuple[Row, ...]:
        """The rows of the coming step, as those of the last one were."""
        return self._labelled(self.roles)

    def of_call(
        self, count: int, embeds: Sequence[Tensor] | None, before: Sequence[Row] = ()
    ) -> tuple[Row, ...] | None:
        """The rows of a call of the denoiser.

        Args:
            count: how many it is shown.
            embeds: what it is told of their prompts.
            before: the rows that it has been shown in this step already.

        Returns:
            None for a further call, which the pipeline makes for some guidance of its own.

        Raises:
            ValueError: for a number of rows that is not known of the pipeline.
        """
        groups = self.groups(count)
        if before and not (self.each_by_itself and groups == 1 and len(before) < 2 * self.run.settings.images):
            return None
        roles = EACH_BY_ITSELF[1:] if before else self.roles_of(groups)
        self.recognise(embeds, roles)
        if not self.each_by_itself:
            self.roles = roles
        return self._labelled(roles)

    def beside(self, count: int) -> tuple[Row, ...]:
        """The rows of a call beside the denoiser's: all rows, or the conditional ones alone."""
        every = self.expected()
        return every if len(every) == count else tuple(row for row in every if row.role == "cond")

    def groups(self, count: int) -> int:
        """How many rows there are for each image."""
        images = self.run.settings.images
        if count % images:
            raise ValueError(f"the pipeline shows {count} rows of latents for {images} images")
        return count // images

    # Prompts that a callback gives.

    def remember(self, prompts: Sequence[Prompt], embeds: Tensor | Sequence[Tensor]) -> None:
        """Remember what prompts look like when encoded: later rows are recognised by it."""
        for prompt, row in zip(prompts, embeds[:: len(embeds) // len(prompts)], strict=True):
            if not any(prompt == known and _alike(own, row) for known, own in self.embeddings):
                self.embeddings.append((prompt, row.detach().clone()))

    def expect(self, changed: dict[str, Any]) -> None:
        """Heed what a callback gives the pipeline to go on with."""
        self.called_back = True
        embeds = changed.get("prompt_embeds")
        if isinstance(embeds, Tensor) and len(embeds) % self.run.settings.images == 0:
            roles: tuple[Role, ...] = ("cond",) if self.each_by_itself else self.roles_of(self.groups(len(embeds)))
            self.recognise(embeds, roles)
            self.roles = self.roles if self.each_by_itself else roles

    def recognise(self, embeds: Tensor | Sequence[Tensor] | None, roles: Sequence[Role]) -> None:
        """Find the prompts of which embeddings were made; a prompt that nobody was seen encoding has no known words."""
        images = self.run.settings.images
        if not self.may_switch or embeds is None or len(embeds) != len(roles) * images:
            return
        each = (embeds[first : first + images] for first in range(0, len(embeds), images))
        for role, own in zip(roles, each, strict=True):
            if not self.called_back:
                self.remember(self.prompts_of(role), own)
                continue
            both = zip(own, self.prompts_of(role), strict=True)
            self.prompts[role] = tuple(self._prompt_of(row, was) for row, was in both)

    def prompts_of(self, role: Role) -> tuple[Prompt, ...]:
        """The prompts that the rows of a role are now shown, one for each image."""
        if role not in self.prompts:
            self.prompts[role] = tuple(self.run.prompt_of(i, role) for i in range(self.run.settings.images))
        return self.prompts[role]

    def _prompt_of(self, row: Tensor, was: Prompt) -> Prompt:
        found = [prompt for prompt, known in self.embeddings if _alike(known, row)]
        if any(prompt is was for prompt in found):
            return was
        return found[-1] if found else PromptOfEmbeddings.by(row[None])

    def _labelled(self, roles: Sequence[Role]) -> tuple[Row, ...]:
        return tuple(Row(i, prompt, role) for role in roles for i, prompt in enumerate(self.prompts_of(role)))


def _alike(known: Tensor, row: Tensor) -> bool:
    return known.shape == row.shape and torch.equal(known.to(row), row)
