"""`rows_of_record`, `mean_of_record`: the activations of another run, for the rows of this one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.activations.record import ActivationKey, ActivationRecord, RowLabel
from sdprobe.core.activations.source import Held, Source, record_of
from sdprobe.core.hook import Transform
from sdprobe.core.limits.row_subset import number_in_whole
from sdprobe.core.module_names import fits
from sdprobe.core.rows import Row
from sdprobe.core.site import Site
from sdprobe.transform.part_of_activation import rows_in, said_of


def refuse_unrecorded(hook: Transform, record: ActivationRecord) -> None:
    """Raise ValueError for a pattern of a hook that fits no module in a record."""
    for pattern in hook.modules or ():
        if not any(fits(key.name, pattern) for key in record.keys):
            names = ", ".join(dict.fromkeys(key.name for key in record.keys))
            raise ValueError(f"{hook!r}: the record has no module that fits {pattern!r}; its modules: {names}")


def record_at(hook: Transform, source: Source, site: Site, what: Held = "activations") -> ActivationRecord | None:
    """Return the record that a hook takes its values from at a site; None in a further call of the denoiser.

    A record holds the loop's own calls. A hook that was given to the further call itself, and so was not started, takes
    them from it.
    """
    held: ActivationRecord | None = vars(hook).get("_record")
    if held is None:
        return record_of(source, what)
    return None if site.further else held


def rows_of_record(record: ActivationRecord, x: Shaped[Tensor, "rows ..."], site: Site) -> Shaped[Tensor, "rows ..."]:
    """Return what was recorded at a site for each of its rows: of the image with the same number, in the same role.

    A record of one image is used for every image.

    Raises:
        KeyError: for a step, module, side or stream that was not kept.
        ValueError: for an image or role that was not kept, or of which there are several, and for another shape.
    """
    key = key_at(record, site)
    entries = entries_of_rows(record, key, rows_in(x, site), site)
    return _fitting(record.at(site.index, key)[entries], x, site)


def entries_of_rows(record: ActivationRecord, key: ActivationKey, rows: Sequence[Row], site: Site) -> list[int]:
    """Return which entries of a recorded tensor are those of some rows: of the same image, in the same role.

    Raises ValueError as `rows_of_record`.
    """
    labels = record.rows_at(site.index, key)
    images = sorted({label.image for label in labels})
    entries = []
    for row in rows:
        image = images[0] if len(images) == 1 else number_in_whole(site.run, row.image)
        found = [k for k, label in enumerate(labels) if (label.image, label.role) == (image, row.role)]
        if len(found) != 1:
            raise ValueError(
                f"the record has {len(found) or 'no'} rows of image {image} in the role {row.role!r} at "
                f"{said_of(site)}; it has {_said(labels)}. Limit the rows, as in sdprobe.only(hook, rows='cond'), or "
                f"record these rows too"
            )
        entries += found
    return entries


def mean_of_record(record: ActivationRecord, x: Shaped[Tensor, "rows ..."], site: Site) -> Shaped[Tensor, "rows ..."]:
    """Return, for each row of a site, the mean of what was recorded there over all images in the row's role.

    Raises:
        KeyError: for a step, module, side or stream that was not kept.
        ValueError: for a role that was not kept, and for another shape.
    """
    key = key_at(record, site)
    labels, values = record.rows_at(site.index, key), record.at(site.index, key)
    means = {}
    for role in {row.role for row in rows_in(x, site)}:
        of_role = [k for k, label in enumerate(labels) if label.role == role]
        if not of_role:
            raise ValueError(
                f"the record has no rows in the role {role!r} at {said_of(site)}; it has {_said(labels)}. Limit the "
                f"rows, as in sdprobe.only(hook, rows='cond'), or record these rows too"
            )
        means[role] = values[of_role].mean(0, dtype=torch.float64)
    return _fitting(torch.stack([means[row.role] for row in rows_in(x, site)]), x, site)


def key_at(record: ActivationRecord, site: Site) -> ActivationKey:
    """Return the key of a site. Raises KeyError, with what there is, if it was not kept of the site's step."""
    key = ActivationKey.of(site)
    try:
        forms = record.forms(site.index)
    except KeyError:
        steps = ", ".join(map(str, record.indices))
        raise KeyError(
            f"step {site.index} was not recorded at {said_of(site)}; recorded: {steps}. Limit the steps, as in "
            f"sdprobe.only(hook, steps=...), or record this step too"
        ) from None
    if key not in forms:
        kept = ", ".join(map(str, forms))
        raise KeyError(f"{said_of(site)} was not recorded in step {site.index}; recorded: {kept}")
    return key


def _fitting(recorded: Tensor, x: Tensor, site: Site) -> Tensor:
    if recorded.shape != x.shape:
        raise ValueError(
            f"what was recorded of {said_of(site)} is {list(recorded.shape)}, and here it is {list(x.shape)}: the "
            f"record must be of pictures of the same size, and of prompts of as many tokens where these are in it too, "
            f"whole (without reduce= and tokens=)"
        )
    return recorded.to(x)


def _said(labels: Sequence[RowLabel]) -> str:
    roles: dict[str, list[int]] = {}
    for label in labels:
        roles.setdefault(label.role, []).append(label.image)
    return ", ".join(f"{role!r} of the images {images}" for role, images in roles.items())
