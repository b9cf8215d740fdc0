"""The house: floors, public names, size of files."""

from __future__ import annotations

import builtins
import re
import subprocess
import sys
from pathlib import Path

import sdprobe

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sdprobe"


def test_an_import_only_ever_goes_down():
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_foreign_names_die_in_model():
    """Only model/, and the training of the embedded model, import diffusers or transformers."""
    imported = re.compile(r"^\s*(?:from|import) (?:diffusers|transformers)\b", re.MULTILINE)
    files = (path for path in PACKAGE.rglob("*.py") if imported.search(path.read_text()))
    rooms = {path.relative_to(PACKAGE).parts[0] for path in files}
    assert rooms <= {"model", "shapes"}


def test_public_names_are_documented_and_belong_here():
    assert len(set(sdprobe.__all__)) == len(sdprobe.__all__)
    for name in sdprobe.__all__:
        public = getattr(sdprobe, name)
        assert public.__module__.startswith("sdprobe."), name
        assert public.__doc__, name


def test_a_star_leaves_the_names_of_python():
    assert not set(sdprobe.__all__) & set(dir(builtins))


def test_files_stay_short():
    long = {str(p.relative_to(ROOT)): n for p in PACKAGE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 310}
    assert long == {}


def test_the_repository_ships_at_most_15_mb_of_weights():
    from sdprobe.shapes import WEIGHTS

    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= 15e6
