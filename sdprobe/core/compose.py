"""`Hooks`: several hooks as one, and the checks that apply to every hook.

`Hooks(a, b)` is itself a hook. At every point its transforms act in the order given, each on the output of the one
before; then its observers receive the result. So observers may be anywhere in the list, and there are no priorities:
to observe an earlier value, write a transform that returns its input.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

from sdprobe.core.attention import Attention
from sdprobe.core.call_hook import called, checked, name_of, step_of
from sdprobe.core.concept import Concept
from sdprobe.core.hook import LEAVES, POINTS, SIDES, Observer, Transform, asks, overrides
from sdprobe.core.run import Run
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.core.text import Text

Hook = Observer | Transform
Value = TypeVar("Value")
METHODS = (*POINTS, "start", "finish")


class Hooks:
    """Several hooks as one. `Hooks()` changes nothing and observes nothing.

    Nesting does not matter: ``Hooks(a, Hooks(b, c)) == Hooks(Hooks(a, b), c) == Hooks(a, b, c)``.

    Args:
        hooks: observers, transforms, or further `Hooks`.

    Raises:
        TypeError: for an object that is not a hook.
        ValueError: for a hook that could never act: it overrides no point, has a method whose name is almost that of
            a point, or has a method ``activation`` without ``modules``.

    >>> import sdprobe
    >>> sdprobe.Hooks(sdprobe.AttentionMaps(), sdprobe.Hooks(sdprobe.LatentRecorder()))
    Hooks(AttentionMaps(), LatentRecorder())
    """

    def __init__(self, *hooks: Hook | Hooks) -> None:
        self.leaves: tuple[Hook, ...] = tuple(leaf for hook in hooks for leaf in _leaves(hook))
        self.run: Run | None = None  # set for the hooks of a run, which records what they do
        self._found: dict[str, tuple[tuple[Hook, ...], list[Transform], list[Observer]]] = {}

    def token_embeds(self, x: Tensor, text: Text) -> Tensor:
        return self._pass("token_embeds", x, text)

    def prompt_embeds(self, x: Tensor, text: Text) -> Tensor:
        return self._pass("prompt_embeds", x, text)

    def pooled_embeds(self, x: Tensor, text: Text) -> Tensor:
        return self._pass("pooled_embeds", x, text)

    def latents(self, x: Tensor, step: Step) -> Tensor:
        return self._pass("latents", x, step)

    def attention(self, attn: Attention, site: Site) -> Attention:
        return self._pass("attention", attn, site)

    def activation(self, x: Tensor, site: Site) -> Tensor:
        return self._pass("activation", x, site)

    def model_output(self, x: Tensor, step: Step) -> Tensor:
        return self._pass("model_output", x, step)

    def noise_pred(self, x: Tensor, step: Step) -> Tensor:
        return self._pass("noise_pred", x, step)

    def sample(self, x: Tensor, step: Step) -> Tensor:
        return self._pass("sample", x, step)

    def final_latents(self, x: Tensor, run: Run) -> Tensor:
        return self._pass("final_latents", x, run)

    def image(self, x: Tensor, run: Run) -> Tensor:
        return self._pass("image", x, run)

    @contextmanager
    def open(self, run: Run) -> Iterator[Hooks]:
        """Copy the hooks for this run and start them in order; at the end or after an error, finish them in reverse."""
        try:
            with ExitStack() as ending:
                live = Hooks()
                live.run = run
                for given in self.leaves:
                    own = copy.copy(given)
                    run.records.append((given, own))
                    called(own, "start", run)
                    ending.callback(called, own, "finish", run)
                    live.leaves = (*live.leaves, own)
                    acting: Any = getattr(own, "inner") if _counts_its_calls(own) else own  # noqa: B009 only limited hooks have it
                    points = [point for point in POINTS if overrides(acting, point)]
                    run.coverage.count_calls_of(own, name_of(own), points, own.strict)
                yield live
            run.coverage.warn_of_idle()
            for own in live.at("activation"):
                run.coverage.warn_of_unseen(own, own.modules or ())
            run.nan_trace.warn(run.latents)
        finally:
            run.nan_trace.forget()

    def at(self, point: str, name: str | None = None, kind: str | None = None) -> Hooks:
        """Return only the hooks that override a point and, if given, ask for a module of that name and kind."""
        return self.where(lambda leaf: overrides(leaf, point) and (name is None or asks(leaf, name, kind)))

    @property
    def transforms(self) -> Hooks:
        """Only the transforms."""
        return self.where(lambda leaf: isinstance(leaf, Transform))

    def where(self, chosen: Callable[[Hook], bool]) -> Hooks:
        """Return only the hooks for which a function returns True."""
        found = Hooks()
        found.leaves, found.run = tuple(filter(chosen, self.leaves)), self.run
        return found

    @property
    def needs_grad(self) -> bool:
        """Whether any transform needs the denoiser to run with gradients."""
        return bool(self.grad_leaves)

    @property
    def grad_leaves(self) -> frozenset[str]:
        """The names, among `LEAVES`, of the values for which transforms need gradients."""
        asked = [leaf.needs_grad for leaf in self.leaves if isinstance(leaf, Transform) and leaf.needs_grad]
        return frozenset(name for names in asked for name in (LEAVES[:1] if names is True else names))  # type: ignore[union-attr]

    @property
    def brings(self) -> Mapping[str, Concept]:
        """The words that transforms add to the prompts. Raises ValueError if two transforms add the same word."""
        found: dict[str, Concept] = {}
        for leaf in self.leaves:
            for word, concept in leaf.brings.items() if isinstance(leaf, Transform) else ():
                if word in found:
                    raise ValueError(f"{leaf!r} brings the word {word!r}, which another hook brings too")
                found[word] = concept
        return found

    def _pass(self, point: str, value: Value, place: Any) -> Value:
        if self.run is not None and isinstance(place, Step) and isinstance(value, Tensor) and point == "latents":
            before = f"step {place.index - 1}" if place.index else "the initial latents"
            self.run.nan_trace.note(value, partial(str, f"in {before}, before step {place.index}"))
        transforms, observers = self._acting(point)
        for leaf in transforms:
            given, value = value, checked(leaf, point, value, called(leaf, point, value, place))
            self._count(leaf, point)
            if self.run is not None and value is not given and isinstance(value, Tensor):
                self.run.nan_trace.note(value, partial(_broken_in, leaf, f"{point}{step_of(place)}"))
        for observer in observers:
            called(observer, point, value, place)
            self._count(observer, point)
        return value

    def _acting(self, point: str) -> tuple[list[Transform], list[Observer]]:
        """Return the transforms and the observers at a point; found once for the same hooks."""
        found = self._found.get(point)
        if found is None or found[0] is not self.leaves:
            here = [leaf for leaf in self.leaves if overrides(leaf, point)]
            transforms = [leaf for leaf in here if isinstance(leaf, Transform)]
            found = self._found[point] = (
                self.leaves,
                transforms,
                [leaf for leaf in here if isinstance(leaf, Observer)],
            )
        return found[1], found[2]

    def _count(self, leaf: Hook, point: str) -> None:
        if self.run is not None and not _counts_its_calls(leaf):
            self.run.coverage.count(leaf, point)

    def __iter__(self) -> Iterator[Hook]:
        return iter(self.leaves)

    def __len__(self) -> int:
        return len(self.leaves)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hooks) and self.leaves == other.leaves

    def __hash__(self) -> int:
        return hash(self.leaves)

    def __repr__(self) -> str:
        return f"Hooks({', '.join(map(repr, self.leaves))})"


def _leaves(hook: object) -> tuple[Hook, ...]:
    if isinstance(hook, Hooks):
        return hook.leaves
    if isinstance(hook, type) and issubclass(hook, (Observer, Transform, Hooks)):
        raise TypeError(f"{hook.__name__} is a class, not a hook: write {hook.__name__}()")
    if not isinstance(hook, (Observer, Transform)):
        raise TypeError(
            f"{hook!r} is not a hook. A hook is an object of a subclass of sdprobe.Observer or sdprobe.Transform, "
            f"with a method for each point it cares for: {', '.join(POINTS)}"
        )
    if isinstance(hook, Observer) and isinstance(hook, Transform):
        raise TypeError(f"{type(hook).__name__} is both an Observer and a Transform: derive it from one of them")
    _refuse_misspelt(hook)
    if not any(overrides(hook, point) for point in METHODS):
        raise ValueError(f"{hook!r} overrides no point, so it would never act. The points: {', '.join(POINTS)}")
    if overrides(hook, "activation") and not hook.modules:
        raise ValueError(
            f"{hook!r} has a method activation but does not say of which modules: give it "
            f"modules = ('mid_block.*', ...), fnmatch patterns on dotted module names"
        )
    if hidden := [name for name in METHODS if name in vars(hook)]:
        raise ValueError(
            f"{type(hook).__name__} keeps a setting under self.{hidden[0]}, which hides its method {hidden[0]!r}: keep "
            f"it under another name, such as self._{hidden[0]}"
        )
    if isinstance(hook, Transform):
        _refuse_unknown_leaves(hook)
    if any(isinstance(own, str) for own in (hook.modules, hook.kinds, hook.sides, hook.streams)):
        raise TypeError(f"{hook!r}: modules, kinds, sides and streams are tuples, not one string")
    if not hook.sides or not set(hook.sides) <= set(SIDES):
        raise ValueError(f"{hook!r}: its sides are {hook.sides!r}; a module has the sides {' and '.join(SIDES)}")
    return (hook,)


def _refuse_misspelt(hook: Hook) -> None:
    for cls in type(hook).__mro__:
        if cls in (Observer, Transform):
            return
        for name, member in vars(cls).items():
            if name.startswith("_") or name in METHODS or not callable(member) or isinstance(member, type):
                continue
            if near := difflib.get_close_matches(name, METHODS, n=1, cutoff=0.88):
                raise ValueError(
                    f"{type(hook).__name__} has a method {name!r}, which is no point and would never be called; "
                    f"did you mean {near[0]!r}?"
                )


def _refuse_unknown_leaves(hook: Transform) -> None:
    asked = hook.needs_grad
    names = () if isinstance(asked, bool) else asked
    if isinstance(names, str) or not all(name in LEAVES for name in names):
        raise ValueError(
            f"{hook!r}: needs_grad is True, False, or a tuple of leaves among {', '.join(map(repr, LEAVES))}, not "
            f"{asked!r}"
        )


def _broken_in(hook: Hook, where: str) -> str:
    return f"in {name_of(hook)}.{where}"


def _counts_its_calls(hook: Any) -> bool:
    """Whether a hook contains another hook and counts that one's calls itself."""
    return bool(getattr(type(hook), "counts_its_calls", False))
