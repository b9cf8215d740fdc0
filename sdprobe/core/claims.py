"""What is registered under names: the one claim of a name, what rivals for a name are told, and what is made by it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sdprobe.core.installed_claims import Claim

SESSION = "this session"
"""What stands for a distribution where a name was registered in this process."""


def claims_by_name(claims: Iterable[Claim]) -> dict[str, list[Claim]]:
    """Return the registrations of every name, in alphabetical order; imports nothing."""
    found: dict[str, list[Claim]] = {}
    for claim in sorted(claims, key=lambda claim: claim.name):
        found.setdefault(claim.name, []).append(claim)
    return found


def sole_claim(name: str, found: Mapping[str, Sequence[Claim]], kind: str) -> Claim:
    """Return the registration of a name.

    Args:
        name: the name.
        found: all registrations, by name.
        kind: what is registered, as an error calls it, such as ``"hook"``.

    Raises ValueError for an unknown name, naming the nearest, and for one that two distributions claim, naming both.
    """
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no {kind} is called {name!r}; {hint}The registered names: {', '.join(found)}")
    claim, *others = found[name]
    if others:
        raise ValueError(rivals(name, found[name], kind))
    return claim


def claim_in_session(name: str, made: Any, taken: Iterable[Claim]) -> Claim:
    """Return the registration of a class or a function under a name, until this Python process ends.

    Args:
        name: the name.
        made: the class or the function.
        taken: what is registered under this name already.

    Raises ValueError for a name that an installed distribution, or another module, already uses.
    """
    for other in taken:
        if other.distribution != SESSION or other.source.partition(":")[0] != made.__module__:
            raise ValueError(f"the name {name!r} is taken by {other}; call yours something else")
    return Claim(name, SESSION, "", f"{made.__module__}:{made.__qualname__}", lambda: made)


def rivals(name: str, claims: Iterable[Claim], kind: str) -> str:
    """Return what is said of a name that several distributions claim."""
    return f"two distributions register the {kind} {name!r}: {' and '.join(map(str, claims))}; uninstall one of them"


def made_by(claim: Claim, config: Mapping[str, Any], kind: str) -> Any:
    """Return what a registered class or function makes of a configuration.

    Raises ValueError for arguments that it does not take. Any other error of it gains a note that names the claim.
    """
    try:
        factory = claim.load()
    except (Exception, SystemExit) as error:
        error.add_note(f"while loading the {kind} {claim.name!r} from {claim}")
        raise
    refuse_arguments(claim.name, factory, config, kind)
    try:
        return factory(**config)
    except Exception as error:
        error.add_note(f"while making the {kind} {claim.name!r} from {claim}")
        raise


def refuse_arguments(name: str, factory: Callable[..., Any], config: Mapping[str, Any], kind: str) -> None:
    """Raise ValueError for arguments that a class or a function does not take."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return  # without a signature, the call itself raises the error
    try:
        signature.bind(**config)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "none"
        raise ValueError(
            f"the {kind} {name!r} cannot be built with {dict(config)}: {error}; its arguments: {takes}"
        ) from error
