"""`Observer` and `Transform`: the two kinds of hook. An observer records; a transform returns a replacement.

A hook is an object whose methods are named after the points of the loop. It overrides the points it needs:

==================================  =============================================  ===================
point                               value                                          second argument
==================================  =============================================  ===================
``token_embeds(x, text)``           ``[batch, tokens, width]`` before positions    `sdprobe.Text`
``prompt_embeds(x, text)``          ``[batch, tokens, width]``                     `sdprobe.Text`
``pooled_embeds(x, text)``          ``[batch, width]``, of the whole prompt        `sdprobe.Text`
``latents(x, step)``                x_t, ``[images, channels, h, w]``              `sdprobe.Step`
``attention(attn, site)``           `sdprobe.Attention`, at every site asked for   `sdprobe.Site`
``activation(x, site)``             a tensor that a named module gives or takes    `sdprobe.Site`
``model_output(x, step)``           ``[rows, channels, h, w]``, before guidance    `sdprobe.Step`
``noise_pred(x, step)``             ``[images, channels, h, w]``, after guidance   `sdprobe.Step`
``sample(x, step)``                 x_t again, as the scheduler gets it            `sdprobe.Step`
``final_latents(x, run)``           ``[images, channels, h, w]``                   `sdprobe.Run`
``image(x, run)``                   ``[images, 3, H, W]`` in [0, 1]                `sdprobe.Run`
==================================  =============================================  ===================

``pooled_embeds`` is called in the model families whose denoiser also gets one vector for the whole prompt:
Stable Diffusion XL and 3, and Flux.

``start(run)`` is called before the first point, and ``finish(run)`` after the last, also after an error. An observer
of ``attention`` may also have ``expect_sites(sites)``, which is called once, before the first step, when it is known at
which sites the observer will be called: an `sdprobe.Site` for each of them in each step. Their grid is None where it
does not follow from the site's name.

A hook is a *description*: the run works on its own shallow copy, made before ``start``. A hook creates its records
in ``start``; after the run, read them from ``run[hook]``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.concept import Concept
from sdprobe.core.hook_records import KeepsRecords
from sdprobe.core.module_names import fits
from sdprobe.core.run import Run
from sdprobe.core.short_repr import short_repr
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.core.text import Text

POINTS = (
    "token_embeds",
    "prompt_embeds",
    "pooled_embeds",
    "latents",
    "attention",
    "activation",
    "model_output",
    "noise_pred",
    "sample",
    "final_latents",
    "image",
)


LEAVES = ("latents", "prompt_embeds", "token_embeds")
"""The values for which a transform can ask gradients."""

SIDES = ("input", "output")
"""What a module takes, and what it gives."""

PLAIN = (str, int, float, bool, tuple, list, dict, set, type(None))


def _described(hook: object) -> str:
    """Return a hook's repr: its class and the arguments that differ from their defaults."""
    if "_said" in vars(hook):  # of a saved run, where not every argument is what it was
        return str(vars(hook)["_said"])
    said = []
    for name, parameter in inspect.signature(type(hook)).parameters.items():
        kept = [vars(hook)[own] for own in (name, f"_{name}") if own in vars(hook)]
        value = kept[0] if kept else parameter.default
        if kept and (value is parameter.default or (isinstance(value, PLAIN) and value == parameter.default)):
            continue
        shown = short_repr(value) if kept else "..."  # the hook keeps it under another name
        said.append(shown if kept and parameter.default is parameter.empty else f"{name}={shown}")
    return f"{type(hook).__name__}({', '.join(said)})"


def _no_results(hook: object, name: str) -> AttributeError:
    kind = type(hook).__name__
    return AttributeError(
        f"this {kind} has no {name!r}. A hook only describes what to do; what happened is held by the run: "
        f"run = sample(..., hooks=[hook]), then run[hook]"
    )


class Observer(KeepsRecords):
    """A hook that observes. Its points return nothing and do not change their value.

    Attributes:
        modules: fnmatch patterns on dotted module names, for ``attention`` and ``activation``. None for all attention
            sites; required for ``activation``.
        kinds: kinds of attention, of ``"cross"``, ``"self"``, ``"joint"``, ``"image_prompt"``. None for all.
        sides: for ``activation``: ``"output"`` for what the modules give, ``"input"`` for what they take.
        streams: for ``activation``, patterns on the streams of a module of several tensors (`Site.stream`). None for
            all.
        strict: raise an error if an attention site asked for cannot be seen (False: only list it in ``run.coverage``).

    >>> import sdprobe
    >>> class Norms(sdprobe.Observer):
    ...     def start(self, run):
    ...         self.norms = []
    ...     def noise_pred(self, x, step):
    ...         self.norms.append(x.norm().item())
    >>> norms = Norms()
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[norms], steps=3, seed=0, progress=False)
    >>> len(run[norms].norms)
    3
    """

    modules: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None
    sides: tuple[str, ...] = ("output",)
    streams: tuple[str, ...] | None = None
    strict: bool = True

    def start(self, run: Run) -> None: ...
    def expect_sites(self, sites: Sequence[Site]) -> None: ...
    def token_embeds(self, x: Tensor, text: Text) -> None: ...
    def prompt_embeds(self, x: Tensor, text: Text) -> None: ...
    def pooled_embeds(self, x: Tensor, text: Text) -> None: ...
    def latents(self, x: Tensor, step: Step) -> None: ...
    def attention(self, attn: Attention, site: Site) -> None: ...
    def activation(self, x: Tensor, site: Site) -> None: ...
    def model_output(self, x: Tensor, step: Step) -> None: ...
    def noise_pred(self, x: Tensor, step: Step) -> None: ...
    def sample(self, x: Tensor, step: Step) -> None: ...
    def final_latents(self, x: Tensor, run: Run) -> None: ...
    def image(self, x: Tensor, run: Run) -> None: ...
    def finish(self, run: Run) -> None: ...

    def __repr__(self) -> str:
        return _described(self)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise _no_results(self, name)


class Transform(KeepsRecords):
    """A hook that changes a value. Its points return a value of the same shape, dtype and device.

    To return the same object that was passed in changes nothing, exactly, at every point. The attributes are those of
    `Observer`, and:

    Attributes:
        needs_grad: run the denoiser with gradients, so that ``model_output`` and ``noise_pred`` depend on leaf tensors:
            True for ``step.latents``; or names among ``"latents"``, ``"prompt_embeds"`` and ``"token_embeds"``, for the
            tensors in ``step.leaves``.
        reads_text: True for a transform that returns what it is given at the points of the text, and acts at others.
        brings: words that it adds to the prompts of its run, each with its token embeddings (see `UseConcept`).

    >>> import sdprobe
    >>> class Brighten(sdprobe.Transform):
    ...     def prompt_embeds(self, x, text):
    ...         return x * 1.1
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[Brighten()], steps=3, seed=0, progress=False)
    >>> run.images[0].size
    (64, 64)
    """

    modules: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None
    sides: tuple[str, ...] = ("output",)
    streams: tuple[str, ...] | None = None
    strict: bool = True
    needs_grad: bool | tuple[str, ...] = False
    reads_text: bool = False
    brings: Mapping[str, Concept] = MappingProxyType({})

    def start(self, run: Run) -> None: ...
    def token_embeds(self, x: Tensor, text: Text) -> Tensor:
        return x

    def prompt_embeds(self, x: Tensor, text: Text) -> Tensor:
        return x

    def pooled_embeds(self, x: Tensor, text: Text) -> Tensor:
        return x

    def latents(self, x: Tensor, step: Step) -> Tensor:
        return x

    def attention(self, attn: Attention, site: Site) -> Attention:
        return attn

    def activation(self, x: Tensor, site: Site) -> Tensor:
        return x

    def model_output(self, x: Tensor, step: Step) -> Tensor:
        return x

    def noise_pred(self, x: Tensor, step: Step) -> Tensor:
        return x

    def sample(self, x: Tensor, step: Step) -> Tensor:
        return x

    def final_latents(self, x: Tensor, run: Run) -> Tensor:
        return x

    def image(self, x: Tensor, run: Run) -> Tensor:
        return x

    def finish(self, run: Run) -> None: ...

    def __repr__(self) -> str:
        return _described(self)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise _no_results(self, name)


def patterns(given: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Return patterns or kinds as a tuple; None means no limit."""
    return (given,) if isinstance(given, str) else None if given is None else tuple(given)


OUTSIDE = ("text_encoder", "vae.")
"""How the names of modules outside the denoiser begin."""


def matches(name: str, pattern: str) -> bool:
    """Whether a module's name matches a pattern. Outside the denoiser, a pattern must begin with the part's name."""
    return fits(name, pattern) and (pattern.startswith(OUTSIDE) or not name.startswith(OUTSIDE))


def asks(hook: Observer | Transform, name: str, kind: str | None) -> bool:
    """Whether a module matches a hook's patterns and kinds."""
    named = hook.modules is None or any(matches(name, pattern) for pattern in hook.modules)
    return named and (hook.kinds is None or kind is None or kind in hook.kinds)


def overrides(hook: Observer | Transform, point: str) -> bool:
    """Whether a hook overrides a point."""
    base = Observer if isinstance(hook, Observer) else Transform
    return getattr(type(hook), point) is not getattr(base, point)
