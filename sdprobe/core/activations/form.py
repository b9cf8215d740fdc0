"""`ActivationKey`, `RowLabel`, `ActivationForm`: which tensor a recorded activation is, and what its axes mean."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from sdprobe.core.grid import Grid, read_grid, said_grid
from sdprobe.core.module_names import plain
from sdprobe.core.short_repr import short_repr
from sdprobe.core.site import Site

Range = tuple[int, int]
CLIMBS = re.compile(r"\.\.|[/\\|\x00-\x1f]")  # what no module's name has, and a path outside of a folder has
CALL = re.compile(r"[0-9]{1,6}")


class ActivationKey(NamedTuple):
    """Which tensor of a network: the module's name, the side of the module, the stream, and the call (see `Site`)."""

    name: str
    side: str = "output"
    stream: str = "hidden"
    call: int = 0

    @classmethod
    def of(cls, site: Site) -> ActivationKey:
        """Return the key of the tensor at a site; the same in every version of transformers."""
        return cls(plain(site.name), site.side, site.stream, site.call)

    def __str__(self) -> str:
        return f"{self.name} ({self.side}, {self.stream}{f', call {self.call}' if self.call else ''})"


class RowLabel(NamedTuple):
    """What an entry of a recorded tensor's first axis is: the number of its image, its role, the text of its prompt."""

    image: int
    role: str
    prompt: str


@dataclass(frozen=True)
class ActivationForm:
    """What the axes of a recorded tensor of one step mean.

    Args:
        axes: the name of each axis, such as ``("rows", "channels", "h", "w")``.
        rows: what each entry of the first axis is.
        grid: ``(h, w)`` of the image positions, or None if they do not form a grid.
        image: first and past-the-last image position on the axis ``"positions"``, or None.
        text: the same of the prompt's tokens.
        positions: for each row, the token positions of the prompt that the axis ``"tokens"`` holds; None if it has no
            such axis.

    >>> form = ActivationForm(("rows", "channels", "h", "w"), (RowLabel(0, "cond", "a red circle"),), grid=(4, 4))
    >>> ActivationForm.from_plain(form.to_plain()) == form
    True
    """

    axes: tuple[str, ...]
    rows: tuple[RowLabel, ...]
    grid: Grid | None = None
    image: Range | None = None
    text: Range | None = None
    positions: tuple[tuple[int, ...], ...] | None = None

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {name: own for name, own in vars(self).items() if own is not None}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> ActivationForm:
        """Return the form that `to_plain` wrote. Raises ValueError for anything else."""
        try:
            rows = tuple(RowLabel(int(image), str(role), str(text)) for image, role, text in plain["rows"])
            ranges = {name: _pair(plain[name]) for name in ("image", "text") if name in plain}
            grid = read_grid(list(plain["grid"])) if "grid" in plain else None
            positions = plain.get("positions")
            found = None if positions is None else tuple(tuple(map(int, row)) for row in positions)
            return cls(tuple(map(str, plain["axes"])), rows, grid, **ranges, positions=found)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"no description of an activation: {error!r}") from error

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError if a tensor of this shape cannot have this form."""
        if len(self.axes) != len(shape) or self.axes[:1] != ("rows",):
            raise ValueError(f"the axes {', '.join(self.axes)} are not those of a tensor {list(shape)}")
        size = dict(zip(self.axes, shape, strict=True))
        if len(self.rows) != size["rows"]:
            raise ValueError(f"{len(self.rows)} rows are described, and the tensor {list(shape)} has {size['rows']}")
        for within in (self.image, self.text):
            if within is not None and not 0 <= within[0] <= within[1] <= size.get("positions", -1):
                raise ValueError(f"the positions {within[0]} to {within[1]} are outside of a tensor {list(shape)}")
        if self.positions is not None and [len(own) for own in self.positions] != len(self.rows) * [size.get("tokens")]:
            raise ValueError(f"the token positions described are not those of a tensor {list(shape)}")
        if self.grid is not None and not (min(self.grid) > 0 and self._fits(size)):
            raise ValueError(f"a grid of {said_grid(self.grid)} is not that of a tensor {list(shape)}")

    def _fits(self, size: Mapping[str, int]) -> bool:
        assert self.grid is not None
        if "queries" in size:
            return size["queries"] == prod(self.grid)
        if "h" in size or "positions" not in size:
            return tuple(size[axis] for axis in ("frames", "h", "w") if axis in size) == self.grid
        first, past = self.image or (0, size["positions"])
        return bool(past - first == prod(self.grid))


def written_name(key: ActivationKey) -> str:
    """Return a key as the name of a tensor in a file."""
    return "|".join(key[:3]) + f"|{key.call}" * bool(key.call)


def read_name(name: object) -> ActivationKey:
    """Return the key that a tensor's name in a file says.

    >>> read_name("mid_block|output|hidden")
    ActivationKey(name='mid_block', side='output', stream='hidden', call=0)

    Raises ValueError for a name that `written_name` does not write, such as one that is a path out of a folder.
    """
    module, *rest = name.split("|") if isinstance(name, str) else ("",)
    side, stream, call = (*rest, "0") if len(rest) == 2 else (rest if len(rest) == 3 else ("", "", ""))
    plain = (module, side, stream)
    if not all(plain) or any(CLIMBS.search(part) for part in plain) or not CALL.fullmatch(call):
        raise ValueError(
            f"{short_repr(name)} is no name of an activation, which is module|side|stream, and maybe |call"
        )
    return ActivationKey(*plain, call=int(call))


def read_json(text: str) -> dict[str, Any]:
    """Return the object that a JSON text holds. Raises ValueError for anything else."""
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"a JSON object is needed, not {type(found).__name__}")
    return found


def _pair(given: Any) -> Range:
    first, second = given
    return int(first), int(second)
