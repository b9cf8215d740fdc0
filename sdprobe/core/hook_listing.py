"""`Listing`: the registered hooks, printed as a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

from sdprobe.core.data_frame import data_frame
from sdprobe.plot.table import as_html, as_text

HEAD = ("name", "kind", "points", "distribution", "summary")


@dataclass(frozen=True)
class Listed:
    """A hook that can be used by name.

    Args:
        name: what `sdprobe.sample` and `sdprobe.create` take.
        kind: ``"observer"`` or ``"transform"``; ``"function"`` if a function makes it (the kind is known only after the
            call); ``"broken"`` if it cannot be loaded; ``"conflict"`` if two distributions claim the name.
        points: the points it overrides.
        summary: the first line of its docstring, or why it cannot be used.
        distribution: the installed package that provides it, or ``"this session"``.
        version: the version of that package.
    """

    name: str
    kind: Literal["observer", "transform", "function", "broken", "conflict"]
    points: tuple[str, ...]
    summary: str
    distribution: str
    version: str

    @property
    def usable(self) -> bool:
        """Whether `sdprobe.create` can make it."""
        return self.kind not in ("broken", "conflict")

    def row(self) -> tuple[str, ...]:
        """Return its row of the table."""
        who = f"{self.distribution} {self.version}".strip()
        return (self.name, self.kind, ", ".join(self.points), who, self.summary)


class Listing(Sequence[Listed]):
    """Registered hooks by name or number; prints as a table."""

    def __init__(self, listed: Iterable[Listed]) -> None:
        self._listed = tuple(listed)

    @overload
    def __getitem__(self, key: int | str) -> Listed: ...

    @overload
    def __getitem__(self, key: slice) -> Listing: ...

    def __getitem__(self, key: int | str | slice) -> Listed | Listing:
        if isinstance(key, slice):
            return Listing(self._listed[key])
        if isinstance(key, int):
            return self._listed[key]
        for listed in self._listed:
            if listed.name == key:
                return listed
        raise KeyError(f"no hook is called {key!r}; the registered names: {', '.join(self.names)}")

    def __len__(self) -> int:
        return len(self._listed)

    def __iter__(self) -> Iterator[Listed]:
        return iter(self._listed)

    def __contains__(self, asked: object) -> bool:
        return any(asked in (listed, listed.name) for listed in self._listed)

    @property
    def names(self) -> tuple[str, ...]:
        """The names only."""
        return tuple(listed.name for listed in self._listed)

    def to_pandas(self) -> Any:
        """Return a data frame of pandas with a row for each hook.

        >>> import sdprobe
        >>> table = sdprobe.hooks().to_pandas()
        >>> table[table.name == "statistics"][["name", "kind", "points", "distribution"]].values.tolist()
        [['statistics', 'observer', 'noise_pred', 'sdprobe']]

        Raises ImportError if pandas is not installed.
        """
        columns: dict[str, list[str]] = {
            "name": [own.name for own in self._listed],
            "kind": [own.kind for own in self._listed],
            "points": [", ".join(own.points) for own in self._listed],
            "distribution": [own.distribution for own in self._listed],
            "version": [own.version for own in self._listed],
            "summary": [own.summary for own in self._listed],
        }
        return data_frame(columns)

    def _rows(self) -> list[Any]:
        return [HEAD, *(listed.row() for listed in self._listed)]

    def __repr__(self) -> str:
        return "\n".join(as_text(self._rows()))

    def _repr_html_(self) -> str:
        return as_html(self._rows(), f"{len(self)} hooks")
