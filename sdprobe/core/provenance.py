"""`Provenance`: what made a run: the model and its weights, and the versions of the packages."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("sdprobe", "torch", "diffusers", "transformers", "numpy")


@dataclass(frozen=True)
class Provenance:
    """What made a run.

    Args:
        model: the repr of the model.
        source: what `sdprobe.load` was given: a folder, a hub id, ``"shapes"`` for the embedded model; None if it was a
            pipeline in memory.
        weights: a hash of all weights, as ``"sha256:..."``. Two models with the same hash have the same weights, bit
            for bit. None if it is not known, as where they were changed after the run and before it was saved.
        dtype: the dtype of the denoiser, such as ``"float16"``.
        device: where it ran.
        versions: of Python and the packages that matter.
    """

    model: str
    source: str | None = None
    weights: str | None = None
    dtype: str | None = None
    device: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter to a run.

    >>> list(versions())
    ['python', 'sdprobe', 'torch', 'diffusers', 'transformers', 'numpy']
    """
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


@cache  # reading the metadata of a package takes longer than all the rest
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout that is on the path and not installed
        return "not installed"
