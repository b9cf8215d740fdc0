"""`snapshot_of`: the folder in diffusers' format within a folder of the hub's cache."""

from __future__ import annotations

from pathlib import Path


def snapshot_of(folder: Path, revision: str | None = None) -> Path:
    """Return the snapshot in ``models--owner--name``, a folder of the hub's cache; any other folder as it is.

    Args:
        folder: a folder.
        revision: a branch, a tag or a commit; None for what ``refs/main`` names, or the only snapshot.

    Raises FileNotFoundError if there is no such snapshot, and ValueError if there are several and none is named.
    """
    snapshots = folder / "snapshots"
    if not snapshots.is_dir() or (folder / "model_index.json").is_file():
        models = sorted(path.name for path in folder.glob("models--*--*") if (path / "snapshots").is_dir())
        if models:
            raise ValueError(f"{folder} is the cache of several models: load one of {', '.join(models)} in it")
        return folder
    there = sorted(path.name for path in snapshots.iterdir() if path.is_dir())
    named = folder / "refs" / (revision or "main")
    commit = named.read_text(encoding="utf-8").strip() if named.is_file() else revision
    if commit in there:
        return snapshots / str(commit)
    known = f"its snapshots are {', '.join(there)}" if there else "it has no snapshot"
    if commit is not None:
        raise FileNotFoundError(f"{folder} has no snapshot {commit} ({revision or 'refs/main'}); {known}")
    if len(there) > 1:
        raise ValueError(f"{folder} has no refs/main, and {known}: load one of them, or give revision=")
    if not there:
        raise FileNotFoundError(f"{folder} is a folder of the hub's cache, and {known}: the download is not complete")
    return snapshots / there[0]
