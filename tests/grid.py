"""Families × built-in hooks × {sample, attach}: which pairs work, and why the others cannot.

``python -m tests.grid`` writes what comes out into the docs; a test sees that it is what the docs say.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import sdprobe
from sdprobe.core.run import Run
from sdprobe.model.diffusion.schedulers import fresh_scheduler
from sdprobe.stock_pipelines.attach import attach
from sdprobe.testing import LAWS, Report, examine, stock_arguments
from sdprobe.testing.flat_records import difference, records_of, same_run
from sdprobe.testing.reuse_laws import seeded
from tests.attribution_grid import attribution_grid
from tests.configured import made, ours, side_of, tried
from tests.families import ASKED, FAMILIES

PAGE = Path(__file__).parent.parent / "docs" / "concepts" / "grid.md"
PACKAGE = str(Path(sdprobe.__file__).parent)

SHOWN = (
    "Stable Diffusion 1",
    "Stable Diffusion XL",
    "Stable Diffusion 3.5",
    "Flux.1 dev",
    "PixArt-Σ",
)
"""One variant of each family: the others differ in weights and schedules, which hooks do not ask about."""

NEWER = (
    *("AuraFlow", "Sana", "Krea 2", "Qwen-Image", "Lumina 2", "Z-Image", "Flux.2 klein"),
    *("LTX-Video", "CogVideoX", "HunyuanVideo", "Wan 2.2"),
)
"""Further families: tried with every hook, and held to every law at night, with some hooks by ``make grid``."""

SETTINGS = {"steps": 2, "guidance_scale": 3.0, "seed": 0, "progress": False}


def attached(
    model: sdprobe.Model,
    prompt: str | list[str],
    *,
    hooks: Any = (),
    seed: int | list[int] = 0,
    scheduler: Any = None,
    progress: bool = False,
    image: Any = None,
    **settings: Any,
) -> Run:
    """`sample` by other means: the family's stock pipeline runs, and hooks are attached to it."""
    pipe = model.pipe
    if image is not None:
        if model.img2img is None:
            raise ValueError(f"diffusers has no image-to-image pipeline for {type(model).__name__}")
        parts = {**pipe.components, "scheduler": fresh_scheduler(pipe, None)}
        pipe = model.img2img(**parts, **model.img2img_options)
        settings["image"] = image
    asked = stock_arguments(model, settings | {"prompt": prompt})
    asked.pop("prompt")
    if image is not None and "Flux" not in type(pipe).__name__:
        del asked["height"], asked["width"]  # it takes the picture's
    numbers = [seed] if isinstance(seed, int) else seed
    generators = [torch.Generator().manual_seed(number) for number in numbers]
    own, bars = pipe.scheduler, getattr(pipe, "_progress_bar_config", {})
    pipe.set_progress_bar_config(disable=not progress)
    pipe.scheduler = fresh_scheduler(pipe, scheduler)
    try:
        # A pipeline of a flow tells its scheduler of no generator: the noise of its steps is torch's own.
        with seeded(numbers[0]) if scheduler is not None else nullcontext(), attach(pipe, hooks) as run:
            pipe(prompt=prompt, generator=generators[0] if isinstance(seed, int) else generators, **asked)
    finally:
        pipe.scheduler, pipe._progress_bar_config = own, bars
    return run


WAYS: Mapping[str, Callable[..., Run]] = {"sample": sdprobe.sample, "attach": attached}


@dataclass(frozen=True)
class Pair:
    """What became of one hook in one family, by each way of running it.

    Args:
        reason: why it cannot; None where it works.
        agrees: whether `sample` and `attach` came to the same, or could not for the same reason.
        acts: whether the run is another one than without the hook.
    """

    reason: str | None
    agrees: bool
    acts: bool


def settings_of(model: sdprobe.Model) -> dict[str, Any]:
    """The settings of a run, with what a model's pipeline must be told to be guided: whether it was told is one."""
    told = {} if model.guidance_argument == "guidance_scale" else {"negative_prompt": ""}
    frames = {} if model.default_frames is None else {"frames": 5}
    return {**SETTINGS, "height": side_of(model), "width": side_of(model), **told, **frames}


def paired(model: sdprobe.Model, name: str, plain: Run | None = None) -> Pair:
    """One hook in one family; ``plain`` is the run without it. An error that is no refusal in words is raised on."""
    sampled, attached = (_ended(model, name, way) for way in WAYS.values())
    if isinstance(sampled, str) or isinstance(attached, str):
        return Pair(str(sampled if isinstance(sampled, str) else attached), sampled == attached, False)
    kept = [records_of(run.records[0][1], tried(name).unrepeatable) for run in (sampled, attached)]
    agrees = same_run(sampled, attached) and difference(*kept) is None
    usual = tried(name).prompt == tried("latents").prompt
    without = plain if plain is not None and usual else sdprobe.sample(model, tried(name).prompt, **settings_of(model))
    return Pair(None, agrees, not same_run(sampled, without))


def _ended(model: sdprobe.Model, name: str, way: Callable[..., Run]) -> Run | str:
    try:
        return way(model, tried(name).prompt, hooks=made(name, model), **settings_of(model))
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        if not last.startswith(PACKAGE) or isinstance(error, (AttributeError, AssertionError)):
            raise
        return f"{error}"


def held(family: str, name: str, way: str) -> Report:
    """One hook held to every law on a model of a family, run one way."""
    model = sdprobe.load(FAMILIES[family]())
    # The pipeline itself says which rows are which, and nothing can turn them round.
    laws = [law for law in LAWS if way == "sample" or law.name != "goes by the labels of rows"]
    return examine(
        lambda: made(name, model),
        prompt=tried(name).prompt,
        unrepeatable=tried(name).unrepeatable,
        laws=laws,
        pipeline=FAMILIES[family],
        way=asked_for(family, WAYS[way]),
    )


def asked_for(family: str, way: Callable[..., Run]) -> Callable[..., Run]:
    """A way of running, with what runs of a family are asked for beside what a law asks for."""

    def run(model: sdprobe.Model, prompt: str | list[str], **settings: Any) -> Run:
        return way(model, prompt, **{**settings, **ASKED.get(family, {})})

    return run if family in ASKED else way


def grid() -> dict[str, dict[str, Pair]]:
    """Every hook in every family."""
    found: dict[str, dict[str, Pair]] = {name: {} for name in ours()}
    for family in (*SHOWN, *NEWER):
        model = sdprobe.load(FAMILIES[family]())
        plain = sdprobe.sample(model, tried("latents").prompt, **settings_of(model))
        for name in found:
            found[name][family] = paired(model, name, plain)
    return found


def page(found: Mapping[str, Mapping[str, Pair]], attributed: Mapping[str, Mapping[str, str | None]]) -> str:
    """The grid as a page of the docs, with that of the methods of attribution."""
    return "\n".join([*_lines(found), "", *_attributed(attributed)]) + "\n"


def _lines(found: Mapping[str, Mapping[str, Pair]]) -> Iterator[str]:
    reasons = {name: {family: pair.reason for family, pair in pairs.items()} for name, pairs in found.items()}
    yield "# Which hook in which family"
    yield ""
    yield "Every built-in hook is run on every family of models, with `sample` and with `attach` in the family's stock"
    yield "pipeline. ✓: it works both ways, with bit-identical results, and both ways it keeps every law of"
    yield "[`check_hook`](writing.md). A number: it raises the error below, both ways. This page is written by"
    yield "`python -m tests.grid` from these runs. Tests check that it is current, and `make grid` checks the laws of"
    yield "every ✓; with `attach` all laws but one, since the order of a pipeline's rows cannot be reversed."
    yield ""
    yield from _table("hook", reasons, SHOWN)
    yield ""
    yield "Stable Diffusion 2 runs as 1, 3 as 3.5, Flux.1 schnell as dev, and PixArt-α as PixArt-Σ: they differ in"
    yield "weights and schedules, on which hooks do not depend."
    yield ""
    yield "## Further families"
    yield ""
    yield "Tried with every hook in the same way. `make grid` holds some hooks to the laws in each of these families,"
    yield "and a run at night all. HunyuanVideo, LTX-Video, CogVideoX and Wan make videos."
    yield ""
    yield from _table("hook", reasons, NEWER)


def _attributed(found: Mapping[str, Mapping[str, str | None]]) -> Iterator[str]:
    yield "## Which method of attribution in which family"
    yield ""
    yield "Each [method](attributions.md) is tried on a model of each family whose truth is planted: one token and one"
    yield "patch of the picture see each other, alone. ✓: cut in the middle, the map of that word is the patch and"
    yield "nothing else; of `rise`, which is an estimate, the highest place is in it. A number: it raises this error."
    yield ""
    yield from _table("method", found, SHOWN)


def _table(head: str, found: Mapping[str, Mapping[str, str | None]], families: Sequence[str]) -> Iterator[str]:
    """A line for each name, with a tick or the number of the reason why not; then the reasons."""
    numbers: dict[str, int] = {}
    yield f"| {head} | {' | '.join(families)} |"
    yield f"|---|{':-:|' * len(families)}"
    for name, own in found.items():
        said = [None if own[family] is None else _plain(str(own[family])) for family in families]
        cells = ["✓" if why is None else str(numbers.setdefault(why, len(numbers) + 1)) for why in said]
        yield f"| `{name}` | {' | '.join(cells)} |"
    if numbers:
        yield ""
    for why, number in numbers.items():
        yield f"{number}. {why}"


def _plain(reason: str) -> str:
    return reason.replace("\n", " ").replace("|", "\\|").replace("<", "\\<")


if __name__ == "__main__":
    torch.set_num_threads(1)
    PAGE.write_text(page(grid(), attribution_grid(SHOWN)), encoding="utf-8")
