"""`reduced`, `at_tokens`, `form_of`: what of an activation is kept, and what its axes mean then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Literal

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.activations.form import ActivationForm, Range, RowLabel
from sdprobe.core.limits.row_subset import number_in_whole
from sdprobe.core.rows import Row
from sdprobe.core.short_repr import said
from sdprobe.core.site import Site, is_map

Reduce = Literal["mean", "max"] | Callable[[Tensor, Site], Tensor]
AXES = {
    2: ("rows", "width"),
    3: ("rows", "positions", "width"),
    4: ("rows", "channels", "h", "w"),
    5: ("rows", "channels", "frames", "h", "w"),
}


def form_of(x: Shaped[Tensor, "rows ..."], site: Site, rows: Sequence[Row]) -> ActivationForm:
    """Return what the axes of a tensor at a site mean, with these rows."""
    labels = tuple(RowLabel(number_in_whole(site.run, row.image), row.role, row.prompt.text) for row in rows)
    form = ActivationForm(_axes(x.shape, plain=x.ndim == 4 and not is_map(x, site)), labels)
    if is_map(x, site):
        return replace(form, grid=site.grid)
    if x.ndim != 3:
        return form
    text = None if site.text is None else _range(site.text, x.shape[1])
    image = _range(site.image, x.shape[1])
    if site.grid is None or image[1] - image[0] != prod(site.grid):  # a stream of text alone
        return replace(form, text=text)
    return replace(form, grid=site.grid, image=image, text=text)


def at_tokens(
    x: Shaped[Tensor, "rows positions width"], form: ActivationForm, site: Site, rows: Sequence[Row], tokens: object
) -> tuple[Shaped[Tensor, "rows tokens width"], ActivationForm]:
    """Return only the positions of these words or token positions of each row's prompt.

    Raises:
        ValueError: for a tensor without positions of the text, and where rows differ in the number of tokens.
        WordNotInPrompt: for a word that a row's prompt does not have.
    """
    if form.text is None:
        raise ValueError(
            f"{site.name} has no positions of the text in its {site.side} {site.stream!r}, so tokens={tokens!r} cannot "
            f"be kept of it: choose other modules, or streams, such as streams='text'"
        )
    asked = (tokens,) if isinstance(tokens, (str, int)) else tuple(tokens)  # type: ignore[arg-type]
    found = [tuple(position for word in asked for position in row.prompt.positions(word)) for row in rows]
    if len({len(own) for own in found}) > 1:
        counts = ", ".join(f"{len(own)} in {row.prompt.text!r}" for own, row in zip(found, rows, strict=True))
        raise ValueError(f"tokens={tokens!r} are not equally many in all rows ({counts}): choose rows=, or positions")
    past = max((position for own in found for position in own), default=-1)
    if past >= form.text[1] - form.text[0]:
        raise ValueError(f"token {past} is outside of the {form.text[1] - form.text[0]} text positions of {site.name}")
    at = torch.tensor(found, dtype=torch.long).to(x.device, non_blocking=True) + form.text[0]
    kept = x.gather(1, at.unsqueeze(-1).expand(-1, -1, x.shape[2]))
    return kept, ActivationForm(("rows", "tokens", "width"), form.rows, positions=tuple(found))


def reduced(
    x: Shaped[Tensor, "rows ..."], form: ActivationForm, site: Site, reduce: Reduce | None
) -> tuple[Shaped[Tensor, "rows ..."], ActivationForm]:
    """Return the mean or maximum over all positions, or what a function makes of the tensor.

    Raises:
        TypeError, ValueError: for a function that returns no tensor, or one that has not one entry for each row.
    """
    if reduce is None:
        return x, form
    if callable(reduce):
        made = reduce(x, site)
        if not isinstance(made, Tensor):
            raise TypeError(f"reduce returned {type(made).__name__} at {site.name}, and a tensor is kept")
        if made.ndim < 2 or len(made) != len(x):
            raise ValueError(
                f"reduce returned {said(made)} at {site.name}: its first axis has to be the {len(x)} rows of what it "
                f"was given, and it has to have another one"
            )
        return made, form if made.shape == x.shape else ActivationForm(_axes(made.shape, plain=True), form.rows)
    over = tuple(axis for axis, name in enumerate(form.axes) if name in ("positions", "tokens", "frames", "h", "w"))
    if not over:
        return x, form
    # In half precision a mean over many positions is summed in single precision.
    mean = x.mean(over, dtype=torch.promote_types(x.dtype, torch.float32)).to(x.dtype)
    return (mean if reduce == "mean" else x.amax(over)), ActivationForm(("rows", "width"), form.rows)


def _axes(shape: Sequence[int], plain: bool = False) -> tuple[str, ...]:
    if len(shape) == 1 or (not plain and len(shape) in AXES):
        return AXES.get(len(shape), ("rows",))
    return ("rows", *(f"axis {k}" for k in range(1, len(shape) - 1)), "width")


def _range(of: slice, size: int) -> Range:
    first, past, _ = of.indices(size)
    return first, past
