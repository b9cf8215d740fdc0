"""`hooks`, `create`, `register`: hooks by name, over the entry-point group ``sdprobe.hooks``.

The hooks of sdprobe are registered like those of any plugin: by an entry point of an installed distribution. A name is
loaded only when it is asked for, so a broken plugin, or two with one name, do not affect other hooks.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar

from sdprobe.core.claims import claim_in_session, claims_by_name, made_by, refuse_arguments, rivals, sole_claim
from sdprobe.core.compose import Hook, Hooks
from sdprobe.core.given_hooks import Given, each, is_pair
from sdprobe.core.hook import POINTS, Observer, Transform
from sdprobe.core.hook_listing import Listed, Listing
from sdprobe.core.installed_claims import Claim, installed_claims
from sdprobe.core.limits.after_every_when import after, every
from sdprobe.core.limits.only import only

GROUP, KIND = "sdprobe.hooks", "hook"

Made = TypeVar("Made", bound=Callable[..., Any])


_session: dict[str, Claim] = {}
_built: dict[int, tuple[weakref.ref[Any], tuple[str, dict[str, Any]]]] = {}


def names() -> dict[str, EntryPoint]:
    """Return every installed name with its (first) entry point, in alphabetical order; imports nothing."""
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        found.setdefault(entry.name, entry)
    return found


def hooks() -> Listing:
    """List every hook that can be used by name: those of sdprobe, of installed plugins, and of this session.

    A plugin that cannot be loaded is listed with the reason, and so is a name that two distributions claim.

    >>> import sdprobe
    >>> sdprobe.hooks()["replace-token"]
    Listed(name='replace-token', kind='transform', points=('token_embeds',), ...)
    >>> own = [hook for hook in sdprobe.hooks() if hook.distribution == "sdprobe"]  # whatever else is installed
    >>> [hook.name for hook in own if "attention" in hook.points and hook.kind == "observer"][:3]
    ['attention-maps', 'attention-matrices', 'attention-queries']
    >>> print(sdprobe.hooks())
    name                 kind       points ...
    """
    return Listing(_listed(name, claims) for name, claims in _claims().items())


def create(name: str, **config: Any) -> Any:
    """Create the hook that is registered under a name, with this configuration.

    The name may also be that of a combinator: ``"only"``, ``"after"`` or ``"every"``. The hooks it combines may be
    names or pairs too: ``create("after", k=10, hook=["latents", {"every": 5}])``.

    >>> import sdprobe
    >>> sdprobe.create("latents", every=5)
    LatentRecorder(every=5)
    >>> sdprobe.create("latent")
    Traceback (most recent call last):
    ValueError: no hook is called 'latent'; did you mean 'latents'? The registered names: ...

    Args:
        name: a name that `sdprobe.hooks` lists.
        config: the hook's arguments.

    Returns:
        The hook, or `Hooks` if the name means several.

    Raises:
        ValueError: for an unknown name, naming the nearest; for a name that two distributions claim, naming both; for
            arguments that the hook does not take.
        TypeError: if the result is not a hook.
    """
    if name in COMBINATORS:
        refuse_arguments(name, COMBINATORS[name], config, KIND)
        return COMBINATORS[name](**config)
    claim = sole_claim(name, _claims(), KIND)
    hook = made_by(claim, config, KIND)
    if not isinstance(hook, (Observer, Transform, Hooks)):
        raise TypeError(f"what {claim} makes under the name {name!r} is no hook but {type(hook).__name__}")
    key = id(hook)
    _built[key] = (weakref.ref(hook, lambda _: _built.pop(key, None)), (name, config))
    return hook


def built(hook: object) -> tuple[str, dict[str, Any]] | None:
    """Return the name and configuration that `create` made a hook from; None for any other hook."""
    held = _built.get(id(hook))
    return None if held is None or held[0]() is not hook else held[1]


def class_of(name: str) -> type[Observer] | type[Transform] | None:
    """Return the class that is registered under a name; None if nothing, no class or several things are."""
    claims = _claims().get(name, ())
    try:
        found = claims[0].load() if len(claims) == 1 else None
    except (Exception, SystemExit):  # a plugin can raise anything on import
        return None
    return found if isinstance(found, type) and issubclass(found, (Observer, Transform)) else None


def name_of(kind: type) -> str | None:
    """Return the name that a class of hooks is registered under; None if it has none."""
    for name, claims in _claims().items():
        # If a hook of this class exists, the module that its entry point names has been imported.
        if len(claims) == 1 and claims[0].source.partition(":")[0] in sys.modules:
            with contextlib.suppress(Exception):
                if claims[0].load() is kind:
                    return name
    return None


def register(name: str) -> Callable[[Made], Made]:
    """Register a class of hooks, or a function that makes a hook, under a name until this Python process ends.

    If the same module or notebook registers the name again, it means the new one.

    >>> import sdprobe
    >>> @sdprobe.register("brighten")
    ... class Brighten(sdprobe.Transform):
    ...     def __init__(self, factor):
    ...         self.factor = factor
    ...     def prompt_embeds(self, x, text):
    ...         return self.factor * x
    >>> sdprobe.create("brighten", factor=1.1)
    Brighten(1.1)

    Args:
        name: the name. Installed packages use entry points instead.

    Raises:
        ValueError: for a name that an installed distribution, or another module, already uses.
        TypeError: for something that is neither a class of hooks nor a function.
    """
    if not isinstance(name, str) or not name.strip():
        raise TypeError(f'give the hook a name: @sdprobe.register("my-hook"), not {name!r}')

    if name in COMBINATORS:
        raise ValueError(f"the name {name!r} is taken by sdprobe; call yours something else")

    def named(made: Made) -> Made:
        if not callable(made) or (isinstance(made, type) and not issubclass(made, (Observer, Transform))):
            raise TypeError(f"{made!r} is neither a class of hooks nor a function that makes one")
        _session[name] = claim_in_session(name, made, _claims().get(name, ()))
        return made

    return named


def resolve(hooks: Given) -> tuple[Hooks, dict[str, Hook]]:
    """Return the hooks as one, with names and pairs replaced by hooks; and the hooks given by name, or under one."""
    made: list[Any] = []
    by_name: dict[str, Any] = {}
    if isinstance(hooks, Mapping):
        for name, given in hooks.items():
            if not isinstance(name, str) or isinstance(given, Mapping):
                said = "a configuration alone: give a pair, such as ('latents', {'every': 5})"
                raise TypeError(f"hooks[{name!r}] is {said if isinstance(name, str) else 'named with no text'}")
            own = resolve(given)[0]
            by_name[name] = own.leaves[0] if len(own) == 1 else own
        return Hooks(*by_name.values()), by_name
    for given in each(hooks):
        pair: Any = (given, {}) if isinstance(given, str) else given
        if not is_pair(pair):
            made.append(given)
            continue
        name, config = pair
        made.append(create(name, **config))
        by_name[name] = Hooks(by_name[name], made[-1]) if name in by_name else made[-1]
    return Hooks(*made), by_name


def _only(hook: Given, steps: Any = None, sites: Any = None, rows: Any = None) -> Any:
    return only(resolve(hook)[0], steps=steps, sites=sites, rows=rows)


COMBINATORS: Mapping[str, Callable[..., Any]] = {
    "only": _only,
    "after": lambda k, hook: after(k)(resolve(hook)[0]),
    "every": lambda k, hook: every(k)(resolve(hook)[0]),
}
"""Functions that make hooks from hooks, by their names in pairs."""


def _claims() -> dict[str, list[Claim]]:
    """Return the registrations of every name, in alphabetical order; imports nothing."""
    installed = installed_claims(GROUP, entry_points)
    taken = [Claim(claim.name, "sdprobe", "", "a combinator", list) for claim in installed if claim.name in COMBINATORS]
    return claims_by_name([*installed, *taken, *_session.values()])


def _listed(name: str, claims: list[Claim]) -> Listed:
    who = ", ".join(claim.distribution for claim in claims)
    versions = ", ".join(claim.version for claim in claims if claim.version)
    if len(claims) > 1:
        return Listed(name, "conflict", (), rivals(name, claims, KIND), who, versions)
    try:
        factory = claims[0].load()
        kind = _kind(factory)
    except (Exception, SystemExit) as error:  # a plugin can raise anything on import
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return Listed(name, "broken", (), f"cannot be loaded from {claims[0]}: {said}", who, versions)
    summary = (factory.__doc__ or "").strip().split("\n")[0]
    if kind is None:
        return Listed(name, "function", (), summary, who, versions)
    base = Observer if kind == "observer" else Transform
    points = tuple(point for point in POINTS if getattr(factory, point) is not getattr(base, point))
    return Listed(name, kind, points, summary, who, versions)


def _kind(factory: Any) -> Literal["observer", "transform"] | None:
    """Return the kind of hook; None for a function, whose kind is known only after the call."""
    if isinstance(factory, type) and issubclass(factory, Observer):
        return "observer"
    if isinstance(factory, type) and issubclass(factory, Transform):
        return "transform"
    if isinstance(factory, type) or not callable(factory):
        raise TypeError(f"{factory!r} is neither a class of hooks nor a function that makes one")
    return None
