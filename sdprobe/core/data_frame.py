"""`data_frame`: columns as a data frame of pandas, which is imported only when one is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def data_frame(columns: Mapping[str, Sequence[Any] | np.ndarray]) -> Any:
    """Return a data frame with these columns, all of one length.

    >>> data_frame({"step": [0, 1], "loss": [0.5, 0.25]})
       step  loss
    0     0  0.50
    1     1  0.25

    Raises ImportError, with what to install, if pandas is not there.
    """
    try:
        import pandas  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError as error:
        raise ImportError(
            "a data frame needs pandas: pip install pandas, or all that exports need: pip install 'sdprobe[xarray]'"
        ) from error
    return pandas.DataFrame(dict(columns))


def each_cell(
    axes: Mapping[str, Sequence[Any] | np.ndarray], values: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return arrays of the same axes as columns with a row for each of their cells: the axes first, then the values.

    >>> each_cell({"step": [3, 4], "image": [0, 1]}, {"loss": np.array([[1, 2], [3, 4]])})
    {'step': array([3, 3, 4, 4]), 'image': array([0, 1, 0, 1]), 'loss': array([1, 2, 3, 4])}

    Args:
        axes: for each axis its coordinates, in the order of the axes.
        values: arrays with these axes.
    """
    places = np.meshgrid(*map(np.asarray, axes.values()), indexing="ij")
    columns = {name: place.reshape(-1) for name, place in zip(axes, places, strict=True)}
    return columns | {name: np.asarray(array).reshape(-1) for name, array in values.items()}
