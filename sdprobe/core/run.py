"""`Run`: the record of one run of the loop.

Rows of the denoiser's batch have labels (`Row`), so no code has to know in which order a pipeline stacks its
conditional and unconditional rows.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL.Image import Image

from sdprobe.core.coverage import Coverage as Coverage
from sdprobe.core.encoded_prompts import Conditioned as Conditioned
from sdprobe.core.nan_trace import NanTrace
from sdprobe.core.prompt import Prompt
from sdprobe.core.provenance import Provenance
from sdprobe.core.resume_state import State as State
from sdprobe.core.rows import Role as Role
from sdprobe.core.rows import Row as Row
from sdprobe.core.rows import as_slice as as_slice
from sdprobe.core.rows import rows_of as rows_of
from sdprobe.core.rows import side_of as side_of
from sdprobe.core.run_control import RunControl
from sdprobe.core.run_outputs import RunOutputs
from sdprobe.core.run_settings import Settings as Settings
from sdprobe.core.schedule import Schedule
from sdprobe.core.short_repr import short_repr
from sdprobe.plot.notebook import as_run


class Run(RunOutputs):
    """One run of the loop: its settings, its results, and the records of each hook.

    Attributes:
        settings: `Settings`, with every default filled in.
        model: the model.
        prompts: one `Prompt` per text; `prompt_of(image)` returns the prompt of an image.
        negative_prompts: the negative prompts, likewise.
        roles: the roles of the denoiser's rows, in their order.
        images: the images (PIL), prompt by prompt; of videos all frames.
        latents: the final latents ``[images, channels, h, w]``; None until the loop has ended.
        levels: timestep, sigma, signal and noise of each step, and of the end; `schedule` is made of them.
        coverage: which attention sites were asked for and seen, and how often each hook acted.
        stopped_at: the step after which a hook ended it (`Step.stop`); None if none did.
        resumed_at: the step it began at; 0 unless it continues another run.
        attached: whether it is a call of a stock pipeline, with `attach`.
        records: each hook given, with this run's own copy of it.
        names: the hooks that were given by name.
    """

    attached = False
    stopped_at: int | None

    def __init__(
        self,
        model: Any,
        settings: Settings,
        prompts: Sequence[Prompt],
        negative_prompts: Sequence[Prompt],
    ) -> None:
        self.model, self._weights_state = model, model.weights_state
        self.settings = settings
        self.prompts = tuple(prompts)
        self.negative_prompts = tuple(negative_prompts)
        self.roles: tuple[Role, ...] = model.roles(settings.guidance_scale)
        self.images: list[Image] = []
        self.latents: torch.Tensor | None = None
        self.levels: Sequence[tuple[float, float, float, float]] = ()
        self.coverage, self.nan_trace = Coverage(), NanTrace()
        self.resumed_at, self.stopped_at = 0, None
        self.control = RunControl()
        self.records: list[tuple[object, Any]] = []
        self.names: dict[str, object] = {}

    @property
    def seed(self) -> int | tuple[int, ...]:
        """The seed, or one seed per image. If none was given, the one that was drawn, so every run can be repeated.

        Raises ValueError in an attached pipeline that got no generator, or one that had already been drawn from.
        """
        if self.settings.seed is None:
            raise ValueError(
                "the noise of this run came from no seed that is known: give the pipeline a new generator, as in "
                "generator=torch.Generator().manual_seed(0)"
            )
        return self.settings.seed

    def prompt_of(self, image: int, role: Role = "cond") -> Prompt:
        """Return the prompt of an image's row of a role; for ``"uncond"``, the negative prompt."""
        if not 0 <= image < self.settings.images:
            raise ValueError(f"image {image} is not in this run of {self.settings.images} images, counted from 0")
        prompts = self.negative_prompts if side_of(role) == "uncond" else self.prompts
        return prompts[image // self.settings.images_per_prompt]

    def __getitem__(self, hook: object) -> Any:
        """Return this run's copy of a hook, with its records: ask by the hook, its name, or its class if one has it."""
        asked = self.names.get(hook) if isinstance(hook, str) else hook
        if isinstance(asked, type):
            found = [live for given, live in self.records if isinstance(given, asked)]
        else:
            found = [live for given, live in self.records if given is asked]
        if not found and isinstance(asked, Iterable):
            raise KeyError("several hooks as one hold no record of their own: ask for each of them")
        if len(found) == 1:
            # For a limited hook, return the hook inside it, which has the records.
            return found[0].inner if getattr(type(found[0]), "counts_its_calls", False) else found[0]
        if found:
            raise KeyError(f"{hook!r} was given {len(found)} times to this run: give one object for each")
        names = ", ".join(str(given) for given, _ in self.records) or "(none)"
        raise KeyError(f"{hook!r} is not a hook of this run; its hooks are {names}")

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a pickle: all but the model, of which the name and the provenance are kept."""
        own = {name: value for name, value in vars(self).items() if name not in ("model", "_weights_state", "control")}
        return own | {"_model_name": self.model_name, "_provenance": self.provenance}

    def __copy__(self) -> Run:
        vars(copied := object.__new__(type(self))).update(vars(self))
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Run:
        # Do not copy the model, nor the hooks given, which are the keys of the records.
        given = [hook for hook, _ in vars(self).get("records", ())]
        memo |= {id(own): own for own in (vars(self).get("model"), *given)}
        copied = object.__new__(type(self))
        memo[id(self)] = copied
        vars(copied).update({name: copy.deepcopy(value, memo) for name, value in vars(self).items()})
        return copied

    @property
    def videos(self) -> list[list[Image]]:
        """The frames of each video, of a run of a model of videos; `images` has those of all, one after the other.

        Raises ValueError for a run of images.
        """
        if self.settings.frames is None:
            raise ValueError("this run made images, and no videos: run.images")
        each = len(self.images) // self.settings.images
        return [self.images[first : first + each] for first in range(0, len(self.images), each or 1)]

    @property
    def schedule(self) -> Schedule:
        """The noise levels of this run: at each of its steps, and at the end (`Schedule`)."""
        timesteps, *others = torch.tensor(self.levels, dtype=torch.float64).reshape(-1, 4).T.float()
        return Schedule(self.settings.scheduler, self.settings.steps, timesteps[:-1], *others)

    @property
    def provenance(self) -> Provenance:
        """The model, a hash of its weights, and the versions of the packages that made the run (`Provenance`).

        The hash is computed when it is asked for, as by `save`. It is None if the weights are others since the run.
        """
        held = vars(self)
        if "model" in held:
            found: Provenance = self.model.provenance
            return found if self._weights_state == self.model.weights_state else replace(found, weights=None)
        kept: Provenance | None = held.get("_provenance")
        return kept or Provenance(self.model_name)

    @property
    def model_name(self) -> str:
        """The model's repr; also known after unpickling."""
        held = vars(self)
        return repr(held["model"]) if "model" in held else str(held.get("_model_name", "not known"))

    def __getattr__(self, name: str) -> Any:
        if name == "model":
            raise AttributeError(
                f"this run came out of a pickle, which holds no model; it was made by {self.model_name}"
            )
        raise AttributeError(f"a run has no {name!r}")

    def __repr__(self) -> str:
        s = self.settings
        seed = "not known" if s.seed is None else short_repr(s.seed)
        said = s.said
        texts = short_repr(s.prompt)[1:-1].rstrip(",")  # without the brackets of a tuple
        return (
            f"Run({texts}, {said['images']} of {said['size']}, {said['steps']}, guidance {said['guidance']}, "
            f"seed {seed}"
            f"{f', from step {self.resumed_at}' * bool(self.resumed_at)}"
            f"{f', stopped after step {self.stopped_at}' * (self.stopped_at is not None)})"
        )

    def _repr_html_(self) -> str:
        return as_run(repr(self), self.settings, self.images, [hook for hook, _ in self.records])
