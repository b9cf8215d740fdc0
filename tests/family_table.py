"""Families × pipelines × {sample, attach, maps exact on planted truth, activations}: what the tests themselves find.

``python -m tests.family_table`` writes what comes out into the docs; a test sees that it is what the docs say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sdprobe.stock_pipelines.pipeline_listener import family_of
from sdprobe.testing import FAMILY_LAWS, examine_family
from tests.families import ASKED, FAMILIES
from tests.further_stock_pipelines import FURTHER
from tests.later_stock_pipelines import LATER
from tests.parity.test_attach import test_looking_changes_nothing_and_every_point_changes_the_picture as looking
from tests.planted_further import map_is_patch
from tests.stock_pipelines import OTHERS, STOCK
from tests.test_planted_families import JOINT
from tests.test_planted_families import test_the_four_directions as four_directions
from tests.test_planted_families import test_the_planted_token_s_heat_map_is_the_planted_patch as planted_patch
from tests.test_planted_videos import VIDEOS
from tests.test_planted_videos import (
    test_the_planted_token_s_heat_map_is_the_planted_patch_of_its_frame as planted_patch_of_frame,
)

PAGE = Path(__file__).parent.parent / "docs" / "concepts" / "family_table.md"

HEAD = """# What works in which pipeline

The tests' own result on tiny models of the real classes, written by `python -m tests.family_table`; a test checks that
it is current.

- Sample: [`sdprobe.sample`][sdprobe.sample] makes the stock pipeline's latents and pictures bit for bit, with observers
  too, and passes every point.
- Attach: with hooks attached, the stock pipeline makes what it makes without. Every point shows the same values as in
  `sample`, and what a transform changes there reaches the picture.
- Maps: on a network whose attention is planted, the heat map of a word is the planted patch, at every site; in joint
  attention in all four directions.
- Activations: image and text are found in what modules take and give.
"""

FURTHER_HEAD = """Further pipelines of these families can be attached to, and are tried so:

- Attach: looking changes nothing, and what a transform changes at any point reaches the picture.
- Maps: on a planted network, with latents given at the beginning and nothing added (ControlNet's scale is 0), the
  heat map of a word is the planted patch in the first step, at every site. "–" is a pipeline that does not begin with
  latents that it is given: its maps are not tried.

Activations are tried on the text-to-image pipeline of each family alone, in the table above.
[Families](families.md#further-pipelines) lists all.
"""

SAMPLE = {"is the stock pipeline", "looking changes nothing", "passes every point", "ends where it predicts"}
ATTACH = {"can be attached", "every point changes the picture"}
ACTIVATIONS = {"knows its activations"}


class Line(NamedTuple):
    """What one pipeline can, by the tests; None where there is nothing to try."""

    family: str
    pipeline: str
    sample: bool | None
    attach: bool
    maps: bool | None
    activations: bool | None


def lines() -> list[Line]:
    """A line for each variant of a family, and one for each further pipeline of it."""
    found = [_of_family(name) for name in FAMILIES]
    for make in (*STOCK, *OTHERS, *FURTHER, *LATER):
        pipe = make().pipe
        family = family_of(pipe)
        assert family is not None
        maps = _found(map_is_patch, make)
        found.append(Line(family.__name__, f"`{_known_as(pipe)}`", None, _holds(looking, make), maps, None))
    return found


def _of_family(name: str) -> Line:
    make = FAMILIES[name]
    report = examine_family(make, settings=ASKED.get(name, {}))
    held = {*report.named("holds")}
    assert {law.name for law in FAMILY_LAWS} >= SAMPLE | ATTACH | ACTIVATIONS
    patch = planted_patch_of_frame if name in VIDEOS else planted_patch
    maps = _holds(patch, name) and (name not in JOINT or _holds(four_directions, name))
    return Line(name, f"`{_known_as(make())}`", held >= SAMPLE, held >= ATTACH, maps, held >= ACTIVATIONS)


def _known_as(pipe: Any) -> str:
    """The name by which the family knows a pipeline, whose class may be the tests' own."""
    family = family_of(pipe)
    assert family is not None
    names = (*family.pipelines, *family.variants)
    return next(kind.__name__ for kind in type(pipe).__mro__ if kind.__name__ in names)


def _holds(test: Callable[[Any], None], case: Any) -> bool:
    return _found(lambda own: test(own) is None, case) is True


def _found(asked: Callable[[Any], bool | None], case: Any) -> bool | None:
    try:
        return asked(case)
    except Exception:  # whatever a test raises, it does not pass
        return False


def page(found: list[Line]) -> str:
    """The table as a page of the docs."""
    return "\n".join(_written(found)) + "\n"


def _written(found: list[Line]) -> Iterator[str]:
    own = [line for line in found if line.sample is not None]
    further: dict[str, list[Line]] = {}
    for line in found:
        if line.sample is None:
            further.setdefault(line.family, []).append(line)
    yield HEAD
    yield "| family | pipeline | sample | attach | maps | activations |"
    yield "|---|---|:-:|:-:|:-:|:-:|"
    for line in own:
        marks = " | ".join("✓" if kept else "no" for kept in (line.sample, line.attach, line.maps, line.activations))
        yield f"| {line.family} | {line.pipeline} | {marks} |"
    yield ""
    yield FURTHER_HEAD
    yield "| family | pipeline | attach | maps |"
    yield "|---|---|:-:|:-:|"
    for family, several in further.items():
        for pipeline in dict.fromkeys(line.pipeline for line in several):
            tried = [line for line in several if line.pipeline == pipeline]
            maps = [line.maps for line in tried if line.maps is not None]
            marks = " | ".join(_mark(kept) for kept in ([line.attach for line in tried], maps))
            yield f"| {family} | {pipeline} | {marks} |"


def _mark(kept: list[bool]) -> str:
    return ("✓" if all(kept) else "no") if kept else "–"


if __name__ == "__main__":
    torch.set_num_threads(1)
    PAGE.write_text(page(lines()), encoding="utf-8")
