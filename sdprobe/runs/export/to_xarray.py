"""`to_xarray` and `to_zarr`: all that a run recorded, as a dataset of xarray, and as a folder in zarr's format."""

from __future__ import annotations

import shutil
import uuid
import warnings
from pathlib import Path
from typing import Any

from sdprobe.core.run import Run
from sdprobe.runs.export.labelled_arrays import labelled_arrays

NEEDS = "pip install 'sdprobe[xarray]'"


def to_xarray(run: Run) -> Any:
    """Return all that a run recorded as a dataset of xarray; see `sdprobe.Run.to_xarray`.

    Raises:
        ImportError: if xarray is not installed.
        ValueError: for a run that has not been made yet.
    """
    try:
        import xarray
    except ImportError as error:
        raise ImportError(f"a dataset needs xarray: {NEEDS}") from error
    found = labelled_arrays(run)
    coords: dict[str, Any] = {}
    for array in found.arrays:
        coords |= array.coords
    variables = {array.name: xarray.Variable(array.dims, array.values, array.attrs) for array in found.arrays}
    return xarray.Dataset(variables, coords, found.attrs)


def to_zarr(run: Run, path: str | Path) -> Path:
    """Write the dataset of a run to a folder in zarr's format, which appears when it is whole.

    Raises:
        FileExistsError: for a file, or a folder that is not empty.
        FileNotFoundError: if there is no folder to put it in.
        ImportError: if xarray or zarr is not installed.
        ValueError: for a run that has not been made yet.
    """
    path = Path(path)
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        what = "is a file" if path.is_file() else "has something in it"
        raise FileExistsError(f"{str(path)!r} {what}, and a run is written to a folder of its own: give another path")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r} to write {path.name!r} to")
    try:
        import zarr  # noqa: F401
    except ImportError as error:
        raise ImportError(f"zarr's format needs zarr: {NEEDS}") from error
    dataset = to_xarray(run)
    beside = path.absolute().with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        # Texts of a fixed length are not in the specification of zarr's format 3.
        texts = {name: own.astype(object) for name, own in dataset.coords.items() if own.dtype.kind == "U"}
        with warnings.catch_warnings():
            # Nor are the metadata of all arrays together; xarray looks for them, and warns where they are missing.
            warnings.filterwarnings("ignore", "Consolidated metadata")
            dataset.assign_coords(texts).to_zarr(beside, zarr_format=3, consolidated=True)
        if path.is_dir():
            path.rmdir()  # it is empty
        beside.replace(path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return path
