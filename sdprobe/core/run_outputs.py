"""`RunOutputs`: the methods of a run that write it or turn it into something else.

What they call is above this package, so each method imports it when it is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


class RunOutputs:
    """What can be made of a run."""

    def save(self, folder: str | Path) -> Path:
        """Save the run."""
        from sdprobe.runs.save_run import save_run

        return save_run(self, folder)  # type: ignore[arg-type]

    def report(self, path: str | Path) -> Path:
        """Write the run as one HTML file."""
        from sdprobe.runs.report.write_report import write_report

        return write_report(self, path)  # type: ignore[arg-type]

    def to_xarray(self) -> Any:
        """Return the records as a dataset of xarray."""
        from sdprobe.runs.to_xarray import to_xarray

        return to_xarray(self)  # type: ignore[arg-type]

    def to_zarr(self, path: str | Path) -> Path:
        """Write the dataset to a folder in zarr's format."""
        from sdprobe.runs.to_xarray import to_zarr

        return to_zarr(self, path)  # type: ignore[arg-type]

    def numpy(self) -> Mapping[str, np.ndarray]:
        """Return the records as arrays by name."""
        from sdprobe.runs.to_numpy import to_numpy

        return to_numpy(self)  # type: ignore[arg-type]
