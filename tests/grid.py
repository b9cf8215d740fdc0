"""Families × built-in hooks × {sample, attach}: which pairs work, and why the others cannot.

``python -m tests.grid`` writes what comes out into the docs; a test sees that it is what the docs say.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import sdprobe
from sdprobe.attaching import attach
from sdprobe.compose import Hook
from sdprobe.model.encoding import table_of
from sdprobe.run import Run
from sdprobe.testing.records import difference, records_of, same_run
from tests.families import FAMILIES
from tests.stock_pipelines import picture

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

PROMPT, NEW = "a red circle", "a red circle <new>"
SIZE = 16


def _width(model: sdprobe.Model, encoder: str | None = None) -> int:
    return int(table_of(getattr(model.pipe, encoder or model.text_encoders[0])).weight.shape[1])


def _concept(model: sdprobe.Model) -> sdprobe.Concept:
    encoders = [name for name in model.text_encoders if name in ("text_encoder", "text_encoder_2")]
    return sdprobe.Concept({name: torch.ones(1, _width(model, name)) for name in encoders})


def _blue(pictures: torch.Tensor) -> torch.Tensor:
    return (pictures[:, 2] - 0.9).abs().mean((1, 2))


ARGUMENTS: Mapping[str, Callable[[sdprobe.Model], Mapping[str, Any]]] = {
    "replace-token": lambda model: {"word": "circle", "with_": "star"},
    "mix-tokens": lambda model: {"weights": {"red": 0.5, "star": 0.5}, "at": "red"},
    "add-vector": lambda model: {"word": "red", "vector": torch.ones(_width(model))},
    "scale-token": lambda model: {"word": "red", "factor": 0.5},
    "randomize-token": lambda model: {"word": "red"},
    "mix-prompts": lambda model: {"weights": {"a star": 0.5, "a ring": 0.5}},
    "scale-prompt": lambda model: {"factor": 0.5},
    "noise-prompt": lambda model: {"amount": 0.5},
    "read-layer": lambda model: {"layer": 1},
    "use-concept": lambda model: {"concept": _concept(model), "token": "<new>"},
    "loss-guidance": lambda model: {"loss": _blue, "scale": 5.0},
    "guidance": lambda model: {"scale": 2.0},
    "inpaint": lambda model: {"picture": picture(SIZE), "mask": torch.eye(SIZE, dtype=torch.bool)},
    "attend-and-excite": lambda model: {"words": ["circle"]},
    "layout-guidance": lambda model: {"boxes": {"circle": (0.0, 0.0, 0.5, 0.5)}},
}
"""What a hook is built with that cannot do without arguments."""


TIMES = ("bar",)
"""Records that differ between equal runs."""


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


def hooks() -> list[str]:
    """The names of the hooks that come with the package."""
    return [name for name, entry in sdprobe.registry.names().items() if entry.value.startswith("sdprobe.")]


def tried(pipe: Any, name: str, plain: Run | None = None) -> Pair:
    """One hook in one family; ``plain`` is the run without it. An error that is no refusal in words is raised on."""
    model = sdprobe.load(pipe)
    sampled, attached = (_ended(model, name, each) for each in (_sampled, _attached))
    if isinstance(sampled, str) or isinstance(attached, str):
        return Pair(str(sampled if isinstance(sampled, str) else attached), sampled == attached, False)
    kept = [records_of(run.records[0][1], TIMES) for run in (sampled, attached)]
    agrees = same_run(sampled, attached) and difference(*kept) is None
    return Pair(None, agrees, not same_run(sampled, plain or _sampled(model, (), name)))


def _ended(model: sdprobe.Model, name: str, way: Callable[[sdprobe.Model, Any, str], Run]) -> Run | str:
    try:
        return way(model, _made(model, name), name)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        if not last.startswith(PACKAGE) or isinstance(error, (AttributeError, AssertionError)):
            raise
        return f"{error}"


def _made(model: sdprobe.Model, name: str) -> Hook:
    arguments = ARGUMENTS.get(name, lambda model: {})(model)
    made: Hook = sdprobe.create(name, **arguments)
    return made


def _prompt(name: str) -> str:
    return NEW if name == "use-concept" else PROMPT


def _sampled(model: sdprobe.Model, hook: Any, name: str) -> Run:
    settings = {"steps": 2, "guidance_scale": 3.0, "seed": 0, "height": SIZE, "width": SIZE, "progress": False}
    return sdprobe.sample(model, _prompt(name), hooks=hook, **settings)


def _attached(model: sdprobe.Model, hook: Any, name: str) -> Run:
    own = {"use_resolution_binning": False} if "PixArt" in type(model.pipe).__name__ else {}
    asked = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": SIZE, "width": SIZE, **own}
    with attach(model.pipe, hook) as run:
        model.pipe(_prompt(name), generator=torch.Generator().manual_seed(0), **asked)
    return run


def grid() -> dict[str, dict[str, Pair]]:
    """Every hook in every family."""
    found: dict[str, dict[str, Pair]] = {name: {} for name in hooks()}
    for family in SHOWN:
        pipe = FAMILIES[family]()
        pipe.set_progress_bar_config(disable=True)
        plain = _sampled(sdprobe.load(pipe), (), "")
        for name in found:
            found[name][family] = tried(pipe, name, plain if _prompt(name) == PROMPT else None)
    return found


def page(found: Mapping[str, Mapping[str, Pair]]) -> str:
    """The grid as a page of the docs."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Mapping[str, Mapping[str, Pair]]) -> Iterator[str]:
    reasons: dict[str, int] = {}
    yield "# Which hook in which family"
    yield ""
    yield "Every built-in hook is run on every family of models, by `sample` and in the family's stock pipeline by"
    yield "`attach`. ✓: it works by both, and both come to the same, bit for bit. A number: it cannot, and says why, in"
    yield "the words below; again by both. This page is written by `python -m tests.grid` from the runs themselves, and"
    yield "a test sees that it is current."
    yield ""
    yield f"| hook | {' | '.join(SHOWN)} |"
    yield f"|---|{':-:|' * len(SHOWN)}"
    for name, pairs in found.items():
        cells = []
        for family in SHOWN:
            reason = pairs[family].reason
            cells.append("✓" if reason is None else str(reasons.setdefault(_plain(reason), len(reasons) + 1)))
        yield f"| `{name}` | {' | '.join(cells)} |"
    yield ""
    for reason, number in reasons.items():
        yield f"{number}. {reason}"
    yield ""
    yield "Stable Diffusion 2 runs as 1, 3 as 3.5, Flux.1 schnell as dev, and PixArt-α as PixArt-Σ: they differ in"
    yield "weights and schedules, which hooks do not ask about."


def _plain(reason: str) -> str:
    return reason.replace("\n", " ").replace("|", "\\|").replace("<", "\\<")


if __name__ == "__main__":
    torch.set_num_threads(1)
    PAGE.write_text(page(grid()), encoding="utf-8")
