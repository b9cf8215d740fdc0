"""`to_numpy`: all that a run recorded, as plain arrays of numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdprobe.core.run import Run
from sdprobe.runs.export.labelled_arrays import labelled_arrays


def to_numpy(run: Run) -> dict[str, NDArray[Any]]:
    """Return the arrays of `sdprobe.runs.export.to_xarray.to_xarray` and their coordinates by name, without labels.

    Raises ValueError for a run that has not been made yet.
    """
    found: dict[str, NDArray[Any]] = {}
    for array in labelled_arrays(run).arrays:
        found[array.name] = array.values
        found |= {name: np.asarray(values) for name, (_, values) in array.coords.items()}
    return found
