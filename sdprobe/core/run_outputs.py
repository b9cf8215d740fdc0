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
        """Save the run to a folder, from which `sdprobe.open` reads it without its model; return the path.

        >>> import tempfile
        >>> import sdprobe
        >>> maps, settings = sdprobe.AttentionMaps(), {"steps": 2, "seed": 0, "progress": False}
        >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[maps], **settings)
        >>> folder = run.save(tempfile.mkdtemp())
        >>> sorted(path.name for path in folder.iterdir())
        ['coverage.json', 'hooks', 'images', 'prompts.json', 'run.json', 'tensors-0000.safetensors']
        >>> sdprobe.open(folder)[maps].heat_map("circle")
        HeatMap('circle', 16×16)

        Tensors are written as safetensors, images as PNG, everything else as JSON: settings, prompts, coverage, hooks
        as pairs of name and configuration, versions of the packages, the model's name and a hash of its weights. There
        is no pickle. Every file is written completely or not at all, and the folder says whether it was saved to its
        end. Recordings in folders of their own are copied into it.

        What a hook recorded is written as its method `records` says (`Observer`). What cannot be written is left out
        with a warning, and said when it is asked for; all else is saved.

        Args:
            folder: a new or empty folder.

        Raises:
            ValueError: for a folder that is not empty.
            OSError: if the disk is full, or the folder cannot be written to.
        """
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
