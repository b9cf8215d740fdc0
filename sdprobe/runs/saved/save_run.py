"""`save_run`: write a run to a folder, from which `sdprobe.open` reads it without its model."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

from sdprobe.core.coverage import Coverage
from sdprobe.core.hook_configuration import describe
from sdprobe.core.limits.limited_hook import LimitedHook
from sdprobe.core.run import Run
from sdprobe.core.written_prompt import write_prompt
from sdprobe.runs.begun_run import refuse_not_begun
from sdprobe.runs.hooks_of_run import images_of
from sdprobe.runs.saved.run_folder import FORMAT, SCHEMA, SIDES, NotWritten, RunFolder, folder_of_hook, refuse_pixels
from sdprobe.runs.saved.saved_hook import SavedHook


def save_run(run: Run, folder: str | Path) -> Path:
    """Write a run to a folder, and return its path. See `sdprobe.Run.save`."""
    refuse_not_begun(run)
    content = _content(run)
    for image in run.images:
        refuse_pixels(image)
    with RunFolder.begun(folder) as to:
        to.write_json("run.json", content | {"complete": False})
        to.write_json("prompts.json", {side: [*map(write_prompt, getattr(run, side))] for side in SIDES})
        to.write_json("coverage.json", _coverage(run.coverage))
        if run.latents is not None:
            to.write_tensors(".", {"latents": run.latents})
        for i, image in enumerate(run.images):
            to.write_image(f"images/{i:04d}.png", image)
        for number, (given, live) in enumerate(run.records):
            if not isinstance(live, LimitedHook):  # of which the hook inside holds the records
                _write_records(to, folder_of_hook(number), given, live)
        to.write_json("run.json", content | {"complete": True})
        return to.path


def _content(run: Run) -> dict[str, Any]:
    """Return what the folder says first: everything short, so that thousands of runs can be looked through."""
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "saved": datetime.now(UTC).isoformat(timespec="seconds"),
        "provenance": asdict(run.provenance),
        "settings": asdict(run.settings),
        "roles": list(run.roles),
        "resumed_at": run.resumed_at,
        "stopped_at": run.stopped_at,
        "attached": run.attached,
        "levels": [[own if isfinite(own) else str(own) for own in level] for level in run.levels],
        "images": len(run.images),
        "latents": run.latents is not None,
        "hooks": [_hook(run, given, live) for given, live in run.records],
    }


def _hook(run: Run, given: Any, live: Any) -> dict[str, Any]:
    description = given.description if isinstance(given, SavedHook) else describe(given)
    inner = live.inner if isinstance(live, LimitedHook) else None
    around = (own for _, own in run.records if isinstance(own, LimitedHook) and own.inner is live)
    return asdict(description) | {
        "asked_as": [name for name, own in run.names.items() if own is given],
        "inner": next((i for i, (_, own) in enumerate(run.records) if own is inner and inner is not None), None),
        "images": next((_images(run, own) for own in around), None),
    }


def _images(run: Run, limited: LimitedHook) -> list[int] | None:
    """Return the images that a hook was limited to; None for all."""
    images = images_of(run, limited)
    return None if len(images) == run.settings.images else list(images)


def _coverage(coverage: Coverage) -> dict[str, Any]:
    own = {name: getattr(coverage, name) for name in ("sites", "asked", "seen", "missed")}
    calls = [asdict(calls) for calls in coverage.hooks]
    own |= {"uncompiled": sorted(coverage.uncompiled), "hooks": calls, "unknown": list(coverage.unknown)}
    return own | {"passed": list(coverage.passed)}


def _write_records(to: RunFolder, under: str, given: Any, live: Any) -> None:
    """Write what a hook recorded. What cannot be written is said and left out, and everything else is written."""
    try:
        records = type(live).records(live)  # a hook may have recorded something under the name of the method
        values = dict(records.values)
        files = to.write_tensors(under, records.tensors)
        # What the hook was given, and holds still, is no record.
        left_out = {name: why for name, why in records.left_out.items() if _of(given, name) is not _of(live, name)}
        content = {"said": repr(live), "values": values, "tensors": files, "left_out": left_out, "why": None}
        to.write_json(f"{under}/records.json", content)
    except NotWritten:  # no space: nothing more can be written
        raise
    except Exception as error:  # a hook of somebody else can raise anything, and must not cost the run
        left_out = {"": f"{type(error).__name__}: {error}"}
        to.write_json(f"{under}/records.json", {"values": {}, "tensors": {}, "left_out": {}, "why": left_out[""]})
    if left_out:
        said = "; ".join(f"{name}: {why}" if name else why for name, why in left_out.items())
        warnings.warn(
            f"the records of {given!r} were not all saved: {said}. A hook says how by its methods records and restore",
            stacklevel=4,
        )


def _of(hook: Any, name: str) -> Any:
    return vars(hook).get(name)
