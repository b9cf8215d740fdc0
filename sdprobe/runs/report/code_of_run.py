"""`code_of`: the Python that makes a run again."""

from __future__ import annotations

import json
from pprint import pformat
from typing import Any

import torch

from sdprobe.core.run import Run
from sdprobe.core.run_settings import OF_VIDEOS
from sdprobe.runs.hooks_of_run import hooks_of_run

WIDTH = 100
NAMES_OF_DTYPES = {name for name, own in vars(torch).items() if isinstance(own, torch.dtype)}


def code_of(run: Run) -> str:
    """Return Python that makes a run again, with every setting; what it cannot write, it names in comments.

    The model is written as what it was loaded from, with the hash of its weights as a comment. Hooks are written as
    pairs of name and configuration (`sdprobe.to_config`), under the names that they were given.

    >>> import sdprobe
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=["statistics"], steps=3, seed=0, progress=False)
    >>> print(code_of(run))
    import sdprobe
    <BLANKLINE>
    model = sdprobe.load('shapes')
    # Its weights: sha256:...
    <BLANKLINE>
    # Not here, since a run does not keep them: initial latents that were given, the configuration of a scheduler.
    run = sdprobe.sample(
        model,
        ['a red circle'],
        hooks=[['statistics', {}]],
        steps=3,
        guidance_scale=7.5,
        seed=0,
        scheduler='DDIMScheduler',
        height=64,
        width=64,
    )
    """
    if run.coverage.unknown:
        return "\n".join(
            _comment(
                f"The run was a call of {run.model_name}, which no family knows, with sdprobe.attach. What the "
                f"pipeline was given is not in the record of the run, so no code is written that makes it again."
            )
        )
    hooks, unwritten = _hooks(run)
    lines = [*_model(run), ""]
    if run.attached:
        lines += _comment(
            "The run was a call of a stock pipeline, with sdprobe.attach. What the pipeline was given beside these "
            "settings is not in the record of the run."
        )
    lines += _comment(
        "Not here, since a run does not keep them: initial latents that were given, the configuration of a scheduler."
    )
    for reason in unwritten:
        lines += _comment(f"Left out: {reason}")
    if '"folder": ' in json.dumps(hooks):
        lines += _comment("Give another folder: one that holds files is refused.")
    return "\n".join([*lines, *(_resumed(run, hooks) if run.resumed_at else _sampled(run, hooks))])


def _model(run: Run) -> list[str]:
    made_by = run.provenance
    given = [repr(made_by.source) if made_by.source is not None else "..."]
    # Whoever wrote the folder of a saved run may have written anything here, and the reader runs this code.
    if made_by.dtype in NAMES_OF_DTYPES - {"float32"}:  # in which diffusers loads unless it is told another
        given.append(f"dtype=torch.{made_by.dtype}")
    if made_by.device is not None and made_by.device.partition(":")[0] != "cpu":
        given.append(f"device={made_by.device!r}")
    lines = ["import sdprobe", "", f"model = sdprobe.load({', '.join(given)})"]
    if any(own.startswith("dtype") for own in given):
        lines.insert(0, "import torch")
    if made_by.source is None:
        lines[-1:-1] = _comment(
            f"The run was made by {made_by.model}, and does not know where that is. In place of the dots, write its "
            f"folder, file or hub id, or a live pipeline."
        )
    return lines + (_comment(f"Its weights: {made_by.weights}") if made_by.weights is not None else [])


def _hooks(run: Run) -> tuple[Any, list[str]]:
    """Return the hooks as pairs, by name if they were given names of one's own; and why others cannot be written."""
    pairs: list[tuple[str, Any]] = []
    unwritten: list[str] = []
    for own in hooks_of_run(run):
        said = own.description
        if said.name == "progress":  # a bar is shown without being asked for
            continue
        if said.pair is None:
            why = [f"its argument {name!r} is {what}" for name, what in said.left_out.items()]
            unwritten.append(f"{said.said}: {', '.join(why) or 'it has no registered name'}")
        else:
            pairs.append((own.names[0] if own.names else "", said.pair))
    named = {name: pair for name, pair in pairs if name}
    if len(named) == len(pairs) and any(name != pair[0] for name, pair in pairs):
        return named, unwritten
    return [pair for _, pair in pairs], unwritten


def _sampled(run: Run, hooks: Any) -> list[str]:
    return _call("run = sdprobe.sample(", [None, *_settings(run, hooks)])


def _settings(run: Run, hooks: Any) -> list[tuple[str, Any]]:
    own = run.settings
    found: list[tuple[str, Any]] = [("", list(own.prompt)), ("hooks", hooks)]
    if own.negative_given:
        found.append(("negative_prompt", list(own.negative_prompt)))
    found += [("steps", own.steps), ("guidance_scale", own.guidance_scale)]
    found.append(("seed", list(own.seed) if isinstance(own.seed, tuple) else own.seed))
    found += [("scheduler", own.scheduler), ("height", own.height), ("width", own.width)]
    if own.images_per_prompt != 1:
        found.append(("images_per_prompt", own.images_per_prompt))
    if own.strength is not None:
        found += [("image", ...), ("start_step", own.start_step)]
    if own.chunks:
        found.append(("chunks", True))
    if own.weights:
        found.append(("weights", True))
    found += [(name, getattr(own, name)) for name in OF_VIDEOS if getattr(own, name) is not None]
    return found


def _resumed(run: Run, hooks: Any) -> list[str]:
    own = run.settings
    first = _call("before = sdprobe.sample(", [None, *_settings(run, [["checkpoints", {}]])])
    changed: list[tuple[str, Any]] = [("step", run.resumed_at), ("hooks", hooks), ("prompt", list(own.prompt))]
    if own.negative_given:
        changed.append(("negative_prompt", list(own.negative_prompt)))
    changed.append(("guidance_scale", own.guidance_scale))
    return [
        *_comment(
            f"The run continued another from step {run.resumed_at}, of which it keeps no prompt, guidance scale or "
            f"hooks: write here what that run had."
        ),
        *first,
        *_call("run = sdprobe.resume(", ["before", *changed]),
    ]


def _call(begin: str, arguments: list[Any]) -> list[str]:
    lines = [begin]
    for argument in arguments:
        if argument is None or isinstance(argument, str):
            lines.append(f"    {argument or 'model'},")
            continue
        name, value = argument
        said = f"{name}=" if name else ""
        text = "..." if value is ... else pformat(value, width=WIDTH - 4 - len(said), sort_dicts=False)
        note = {"image": "  # the picture that it began from, which a run does not keep"}.get(name, "")
        if name == "seed" and value is None:
            note = "  # not known: the noise came from no seed that the run was told of"
        first, *more = text.splitlines()
        indented = [" " * (4 + len(said)) + line for line in more]
        lines += [f"    {said}{first}", *indented]
        lines[-1] += f",{note}"
    return [*lines, ")"]


def _comment(text: str) -> list[str]:
    """Return a text as lines of comment: no part of it can end the comment."""
    lines = ["#"]
    for word in (own if own.isprintable() else ascii(own)[1:-1] for own in text.split()):
        if len(lines[-1]) + 1 + len(word) > 1.2 * WIDTH - 8 and lines[-1] != "#":
            lines.append("#")
        lines[-1] += f" {word}"
    return lines
