"""Methods of attribution by name, over the entry-point group ``sdprobe.attributions``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

from sdprobe.core.attribution import Attribution
from sdprobe.core.claims import claim_in_session, claims_by_name, made_by, sole_claim
from sdprobe.core.given_hooks import is_pair
from sdprobe.core.installed_claims import Claim, installed_claims

GROUP, KIND = "sdprobe.attributions", "method of attribution"
Method = str | tuple[str, Mapping[str, Any]] | Attribution
"""A method of attribution: its name, its name with its arguments, or the object."""

Made = TypeVar("Made", bound=Callable[..., Attribution])

_session: dict[str, Claim] = {}


def methods() -> dict[str, str]:
    """Return the name of every method of attribution that is installed or registered, with the package it is from.

    >>> from sdprobe import attributions
    >>> found = attributions.methods()
    >>> found["daam"], sorted(name for name, package in found.items() if package == "sdprobe")
    ('sdprobe', ['daam', ...])
    """
    return {name: ", ".join(claim.distribution for claim in claims) for name, claims in _claims().items()}


def create(name: str, **config: Any) -> Attribution:
    """Create the method of attribution that is registered under a name.

    >>> from sdprobe import attributions
    >>> attributions.create("self_refined", power=2)
    SelfRefined(power=2, grid=None)
    >>> attributions.create("dam")
    Traceback (most recent call last):
    ValueError: no method of attribution is called 'dam'; did you mean 'daam'? The registered names: ...

    Args:
        name: a name that `methods` lists.
        config: the method's arguments.

    Raises:
        ValueError: for an unknown name, naming the nearest; for a name that two distributions claim; for arguments that
            the method does not take.
        TypeError: if the result is no `Attribution`.
    """
    claim = sole_claim(name, _claims(), KIND)
    made = made_by(claim, config, KIND)
    if not isinstance(made, Attribution):
        raise TypeError(f"what {claim} makes under the name {name!r} is no Attribution but {type(made).__name__}")
    return made


def attribution(method: Method) -> Attribution:
    """Return a method of attribution that was given as itself, by its name, or as a pair of name and arguments."""
    if isinstance(method, Attribution):
        return method
    if isinstance(method, str):
        return create(method)
    if is_pair(method):
        return create(method[0], **method[1])
    raise TypeError(
        f"a method of attribution is a name, a pair such as ('self_refined', {{'power': 2}}), or an Attribution, not "
        f"{method!r}"
    )


def register(name: str) -> Callable[[Made], Made]:
    """Register a class, or a function that makes a method, under a name until this Python process ends.

    >>> import sdprobe
    >>> @sdprobe.attributions.register("squared")
    ... class Squared(sdprobe.attributions.Mean):
    ...     def attribute(self, run, asked):
    ...         return super().attribute(run, asked).square()
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=["attention-maps"], steps=2, seed=0, progress=False)
    >>> run["attention-maps"].heat_map("circle", method="squared")
    HeatMap('circle', 16×16)

    Args:
        name: the name. Installed packages use entry points of the group ``sdprobe.attributions`` instead.

    Raises ValueError for a name that an installed distribution, or another module, already uses.
    """

    def named(made: Made) -> Made:
        if not callable(made) or (isinstance(made, type) and not issubclass(made, Attribution)):
            raise TypeError(f"{made!r} is neither a class of attributions nor a function that makes one")
        _session[name] = claim_in_session(name, made, _claims().get(name, ()))
        return made

    return named


def _claims() -> dict[str, list[Claim]]:
    return claims_by_name([*installed_claims(GROUP, entry_points), *_session.values()])
