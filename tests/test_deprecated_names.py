"""Old names of modules still import, warn, and give the very same things."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import sdprobe
from sdprobe.core.deprecated_names import RENAMED


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_gives_what_the_new_one_holds(old):
    sys.modules.pop(f"sdprobe.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"sdprobe.{old} is called sdprobe.{RENAMED[old]} now"):
        found = importlib.import_module(f"sdprobe.{old}")
    new = importlib.import_module(f"sdprobe.{RENAMED[old]}")
    names = [name for name in vars(new) if not name.startswith("__")]
    assert names
    assert all(getattr(found, name) is getattr(new, name) for name in names)


def test_no_public_name_is_in_the_way():
    assert not set(RENAMED) & set(sdprobe.__all__)


def test_what_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("sdprobe.nothing")


@pytest.mark.slow
def test_classes_of_the_families_page(tmp_path):
    script = (
        "from sdprobe.model.unet import UNetModel\nfrom sdprobe.model.base import Model\n"
        "from sdprobe.model.loading import family\nfrom sdprobe.heatmap import HeatMap\nimport sdprobe\n"
        "assert HeatMap is sdprobe.HeatMap and issubclass(UNetModel, Model) and Model is sdprobe.Model\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
