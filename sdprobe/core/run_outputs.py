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
        """Write the run as one HTML file, which any browser opens and which fetches nothing from elsewhere.

        It shows each picture, and over it the heat map of the word of the prompt that is pointed at or focused, from
        every `AttentionMaps` of the run; with sliders over steps, layers and heads where these were kept apart. Then
        the film of x_t and predicted x0 (`Preview`), the curves of `Statistics` and of losses, the settings, the code
        that makes the run again, coverage, and versions. What was not recorded is said, with the hook that records it.

        >>> import pathlib, tempfile
        >>> import sdprobe
        >>> hooks = [sdprobe.AttentionMaps(keep=("step",)), sdprobe.Preview(), sdprobe.Statistics()]
        >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=hooks, steps=4, seed=0, progress=False)
        >>> path = run.report(pathlib.Path(tempfile.mkdtemp()) / "circle.html")
        >>> path.name, path.stat().st_size < 1_000_000
        ('circle.html', True)

        Heat maps are embedded at their own size, in 256 levels. The file of a run of a few pictures stays under 15 MB:
        where all would be more, fewer steps, layers and heads are in it, evenly chosen, and pictures are embedded as
        JPEG; the report says so. What is left out can be asked of the run: ``run[maps].heat_map("circle", step=3)``.

        Args:
            path: the file, which ends in ``.html``. An existing file is replaced, once the new one is whole.

        Returns:
            The path.

        Raises:
            ValueError: for a path that does not end in ``.html``.
            IsADirectoryError: for a folder.
            FileNotFoundError: if the folder of the file does not exist.
        """
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
