"""What is installed is read once, and again once something else is installed."""

import shutil
from importlib.metadata import entry_points

from sdprobe.core.installed_claims import installed_claims


def names():
    return {claim.name: claim for claim in installed_claims("sdprobe.hooks", entry_points)}


def test_what_is_installed_meanwhile_is_found_and_what_is_removed_is_not(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    assert "late" not in names()
    info = tmp_path / "late_hooks-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: late-hooks\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[sdprobe.hooks]\nlate = late_hooks:Late\n")
    late = names()["late"]
    assert (late.distribution, late.version, late.source) == ("late-hooks", "1.2", "late_hooks:Late")
    shutil.rmtree(info)
    assert "late" not in names()


def test_it_is_read_once():
    asked = []

    def read(group):
        asked.append(group)
        return entry_points(group=group)

    assert installed_claims("sdprobe.hooks", read) == installed_claims("sdprobe.hooks", read)
    assert asked == ["sdprobe.hooks"]
