"""What happened and where we are: the run, and the frozen places a hook is told about.

A hook reads its place from these records; it cannot steer through them. Rows of the denoiser's batch carry labels, so
that nobody has to know, or guess, in which order a pipeline stacks its conditional and unconditional halves.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Shaped
from PIL.Image import Image
from torch import Tensor

from sdprobe.core.coverage import Coverage as Coverage
from sdprobe.core.encoded_prompts import Conditioned as Conditioned
from sdprobe.core.nan_trace import NanTrace
from sdprobe.core.prompt import Prompt
from sdprobe.core.resume_state import State as State
from sdprobe.core.rows import Role as Role
from sdprobe.core.rows import Row as Row
from sdprobe.core.rows import as_slice as as_slice
from sdprobe.core.rows import rows_of as rows_of
from sdprobe.core.rows import side_of as side_of
from sdprobe.core.run_settings import Settings as Settings
from sdprobe.core.short_repr import short_repr
from sdprobe.plot.notebook import as_run


@dataclass(frozen=True)
class Text:
    """Where we are on the text side.

    Args:
        encoder: the name of the pipeline's encoder, for example ``"text_encoder"``. A pipeline of several passes
            ``token_embeds`` once for each, and ``prompt_embeds`` once, of all together: there it is the names of those
            that made them, ``"text_encoder+text_encoder_2"``; at ``pooled_embeds`` of those that made the vector.
        prompts: one prompt per batch entry, as this encoder reads it; its positions are those of the value's tokens.
        role: ``"cond"`` for the prompts, ``"uncond"`` for the negative ones.
        run: the run.
        lookup: gives a word's own token embeddings ``[tokens, width]`` from this encoder's table.
        encode: gives what other texts would be at ``prompt_embeds``, ``[texts, tokens, width]``, or, asked there, at
            ``pooled_embeds``, ``[texts, width]``; past no hook.
        layers: gives every layer's hidden states of these prompts, past the transforms at ``token_embeds`` and through
            the encoder's final norm; the last are ``prompt_embeds`` as they enter that point.
        again: gives what has become of these prompts, encoded anew past every transform as it now is (`Conditioned`).
    """

    encoder: str
    prompts: tuple[Prompt, ...]
    role: Role
    run: Run = field(repr=False)
    lookup: Callable[[str], Float[Tensor, "tokens width"]] = field(repr=False)
    encode: Callable[[Sequence[str]], Shaped[Tensor, "texts ..."]] = field(repr=False)
    layers: Callable[[], tuple[Shaped[Tensor, "batch tokens width"], ...]] = field(repr=False)
    again: Callable[[], Conditioned] = field(repr=False)


@dataclass(frozen=True)
class Step:
    """Where we are in the loop.

    Args:
        index: 0 is the first step, at the highest noise.
        total: how many steps there are (calls of the denoiser).
        timestep: the scheduler's own number for the noise level.
        sigma: noise over signal, σ = sqrt((1 - ᾱ) / ᾱ); of a flow its own σ, in [0, 1].
        signal: how much of the picture is in the latents, x_t = signal · x0 + noise · ε, in the scheduler's own scale.
        noise: how much of the noise.
        latents: x_t, ``[images, channels, h, w]``, in the scheduler's own scale.
        rows: what each row of the denoiser's batch is.
        run: the run.
        model_output: at ``noise_pred``, what the denoiser returned for every row, as the hooks at ``model_output`` left
            it; None before.
        further: whether it is told of a further call of the denoiser, which a hook has asked for by `predict`.
        leaves: what transforms need gradients for (`Transform.needs_grad`), by name: ``"latents"``; ``"prompt_embeds"``
            ``[rows, tokens, width]``, as the denoiser is told them; ``"token_embeds"`` ``[prompts, tokens, width]``,
            and under ``"token_embeds_2"``, ``"negative_token_embeds"``, ... those of further encoders and of the
            negative prompts.
    """

    index: int
    total: int
    timestep: float
    sigma: float
    signal: float = field(repr=False)
    noise: float = field(repr=False)
    latents: Shaped[Tensor, "images channels h w"] = field(repr=False)
    rows: tuple[Row, ...] = field(repr=False)
    run: Run = field(repr=False)
    to_denoised: Callable[[Tensor, Tensor], Tensor] = field(repr=False)
    to_output: Callable[[Tensor, Tensor], Tensor] = field(repr=False)
    to_state: Callable[[Tensor], State] = field(repr=False)
    to_prediction: Callable[[Step, Tensor, tuple[Any, ...], Role | None], Tensor] = field(repr=False)
    model_output: Shaped[Tensor, "rows channels h w"] | None = field(default=None, repr=False)
    further: bool = field(default=False, repr=False)
    leaves: Mapping[str, Shaped[Tensor, ...]] = field(default_factory=dict, repr=False)

    def denoised(self, noise_pred: Shaped[Tensor, "images channels h w"]) -> Shaped[Tensor, "images channels h w"]:
        """Predicted x0: the clean latents this output of the denoiser speaks of, at this step.

        Right for the run's scheduler and prediction type; differentiable; never advances the scheduler.
        """
        return self.to_denoised(noise_pred, self.latents)

    def output_for(
        self, x0: Shaped[Tensor, "images channels h w"], latents: Shaped[Tensor, "images channels h w"]
    ) -> Shaped[Tensor, "images channels h w"]:
        """What the denoiser would have to say of these latents to predict this x0: `denoised` the other way round.

        It is linear: for a change of x0 and of the latents, it is the change of ``noise_pred``.
        """
        return self.to_output(x0, latents)

    def predict(
        self, latents: Shaped[Tensor, "images channels h w"], *hooks: Any, role: Role | None = None
    ) -> Shaped[Tensor, "rows channels h w"]:
        """What the denoiser says of any latents at this step: a further call, beside the loop's own.

        The run's transforms inside the denoiser act in it as ever; its observers do not see it. Differentiable, where
        gradients are enabled; so is the attention that a further transform among ``hooks`` is shown.

        Args:
            latents: in the scheduler's own scale.
            hooks: what is to act inside the denoiser in this call only, after the run's own transforms.
            role: only the rows of this role (``"cond"``), one for each image; None for all, as in `rows`.

        Raises:
            RuntimeError: from inside the denoiser, at ``attention`` or ``activation``.
            ValueError: for a role that no row of this run has.
        """
        return self.to_prediction(self, latents, hooks, role)

    def rows_of(self, role: Role) -> slice | list[int]:
        """Where the rows of a role stand, in the order of their images: ``x[step.rows_of("uncond")]``."""
        return rows_of(self.rows, role)

    def state(self) -> State:
        """A copy of where the run now stands; at ``latents``, of where it stood before any hook of this step."""
        return self.to_state(self.latents)


@dataclass(frozen=True)
class Site:
    """Where we are inside the denoiser.

    Args:
        name: the module's dotted name.
        kind: ``"cross"``, ``"self"`` or ``"joint"`` for attention; ``"activation"`` for a module's output.
        place: the block group, the first part of the module's name: ``"down"``, ``"mid"``, ``"up"`` in a U-Net.
        grid: ``(h, w)`` of the picture's tokens there, or None where they are not laid out as a picture.
        heads: attention heads; 0 for an activation.
        step: the step.
        image: where the picture's positions stand on the axis of queries; at self- and joint attention of keys too.
        text: where the prompt's tokens stand on the axis of keys; at joint attention of queries too. None where there
            are none.

    At joint attention every part looks at every part: ``attn.probs(queries=site.image, tokens=site.text)`` is where
    the picture looks at the text, and the three other directions are asked for alike.
    """

    name: str
    kind: str
    place: str
    grid: tuple[int, int] | None
    heads: int
    step: Step = field(repr=False)
    image: slice = field(default_factory=lambda: slice(None), repr=False, compare=False)
    text: slice | None = field(default=None, repr=False, compare=False)

    def tokens(self, of: str | Sequence[int] | None = None) -> list[int]:
        """Where on the axis of keys the prompt's tokens stand.

        Args:
            of: token positions of the prompt; a text encoder's name, such as ``"text_encoder_3"``, for the tokens that
                come from it; None for every token.

        Raises:
            ValueError: at a site without text, and for an encoder whose tokens the denoiser is not shown.
        """
        if self.text is None:
            raise ValueError(f"{self.name} is {self.kind}-attention, where no prompt is looked at")
        every = range(self.text.start, self.text.stop)
        if of is None:
            return list(every)
        if isinstance(of, str):
            of = self.step.rows[0].prompt.of(of)
        return [every[position] for position in of]


class Run:
    """One run of the loop: its settings, what came out, and what each hook recorded.

    Attributes:
        settings: `Settings`, every default filled in.
        model: the model.
        prompts: one `Prompt` per text; `prompt_of(image)` gives the one of a picture.
        negative_prompts: the same for the negative side.
        roles: which groups of rows the denoiser is shown, in their order.
        images: the pictures (PIL), in the order prompt by prompt.
        latents: the final latents ``[images, channels, h, w]``, None until the loop has ended.
        coverage: which attention sites were asked for and seen.
        resumed_at: the step it began at; 0 but for a run that goes on from another.
        records: each hook given, with this run's own copy of it.
        names: the hooks that were given by name.
    """

    def __init__(
        self,
        model: Any,
        settings: Settings,
        prompts: Sequence[Prompt],
        negative_prompts: Sequence[Prompt],
    ) -> None:
        self.model = model
        self.settings = settings
        self.prompts = tuple(prompts)
        self.negative_prompts = tuple(negative_prompts)
        self.roles: tuple[Role, ...] = model.roles(settings.guidance_scale)
        self.images: list[Image] = []
        self.latents: torch.Tensor | None = None
        self.coverage, self.nan_trace = Coverage(), NanTrace()
        self.resumed_at = 0
        self.records: list[tuple[object, Any]] = []
        self.names: dict[str, object] = {}

    @property
    def seed(self) -> int | tuple[int, ...]:
        """The seed, or the seeds, one per image; drawn where none was given, so that every run can be repeated.

        Raises ValueError in an attached pipeline that was given no generator, or one that had been drawn from before.
        """
        if self.settings.seed is None:
            raise ValueError(
                "the noise of this run came from no seed that is known: give the pipeline a new generator, as in "
                "generator=torch.Generator().manual_seed(0)"
            )
        return self.settings.seed

    def prompt_of(self, image: int, role: Role = "cond") -> Prompt:
        """The prompt that a picture's row of a role is shown; for ``"uncond"``, the negative one."""
        if not 0 <= image < self.settings.images:
            raise ValueError(f"image {image} is not in this run of {self.settings.images} images, counted from 0")
        prompts = self.negative_prompts if side_of(role) == "uncond" else self.prompts
        return prompts[image // self.settings.images_per_prompt]

    def __getitem__(self, hook: object) -> Any:
        """This run's copy of a hook, which holds what it recorded.

        A hook given by name is found by that name; and any by its class, where it is the only one of it.
        """
        asked = self.names.get(hook) if isinstance(hook, str) else hook
        if isinstance(asked, type):
            found = [live for given, live in self.records if isinstance(given, asked)]
        else:
            found = [live for given, live in self.records if given is asked]
        if not found and isinstance(asked, Iterable):
            raise KeyError("several hooks as one hold no record of their own: ask for each of them")
        if len(found) == 1:
            # Of a limited hook, what the hook within it recorded.
            return found[0].inner if getattr(type(found[0]), "counts_its_calls", False) else found[0]
        if found:
            raise KeyError(f"{hook!r} was given {len(found)} times to this run: give one object for each")
        names = ", ".join(str(given) for given, _ in self.records) or "(none)"
        raise KeyError(f"{hook!r} is not a hook of this run; its hooks are {names}")

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle holds: all but the model, which is only named."""
        state = {**vars(self), "_model_name": self.model_name}
        state.pop("model", None)
        return state

    def __deepcopy__(self, memo: dict[int, Any]) -> Run:
        # The model is nobody's record, and a hook that was given is what its records are asked for by.
        memo |= {id(own): own for own in (vars(self).get("model"), *(given for given, _ in self.records))}
        copied = object.__new__(type(self))
        memo[id(self)] = copied
        vars(copied).update({name: copy.deepcopy(value, memo) for name, value in vars(self).items()})
        return copied

    @property
    def model_name(self) -> str:
        """The model, as it prints; known of a run out of a pickle too."""
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
        texts = short_repr(s.prompt)[1:-1].rstrip(",")  # without the brackets of a tuple
        return (
            f"Run({texts}, {s.images} image{'s' * (s.images != 1)} of {s.height}×{s.width}, {s.steps} steps of "
            f"{s.scheduler}, guidance {s.guidance_scale:g}, seed {seed}"
            f"{f', from step {self.resumed_at}' * bool(self.resumed_at)})"
        )

    def _repr_html_(self) -> str:
        return as_run(repr(self), self.settings, self.images, [hook for hook, _ in self.records])
