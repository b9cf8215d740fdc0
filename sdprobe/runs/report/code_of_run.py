"""`code_of`: the Python that makes a run again."""

from __future__ import annotations

import json
import math
from pprint import pformat
from typing import Any

import torch
from safetensors import safe_open

from sdprobe import shapes
from sdprobe.core.hook_configuration import to_config
from sdprobe.core.run import Run
from sdprobe.observe.progress import Progress
from sdprobe.runs.report.kept_records import is_limited

WIDTH = 100


def code_of(run: Run) -> str:
    """Return Python that makes a run again, with every setting; what it cannot write, it names in comments.

    The model is written as `sdprobe.load()` if it is the model in this package; a run knows no other's place. Hooks are
    written as pairs of name and configuration (`sdprobe.to_config`).

    >>> import sdprobe
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=["statistics"], steps=3, seed=0, progress=False)
    >>> print(code_of(run))
    import sdprobe
    <BLANKLINE>
    model = sdprobe.load()
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
    hooks, unwritten = _hooks(run)
    lines = ["import sdprobe", ""]
    if run.latents is not None and run.latents.dtype != torch.float32:
        lines.insert(0, "import torch")
    lines += _model(run)
    if getattr(run, "begun", False):  # only a run that was attached to a pipeline has it
        lines += _comment(
            "The run was a call of a stock pipeline, with sdprobe.attach. What the pipeline was given beside these "
            "settings is not in the record of the run."
        )
    lines += _comment(
        "Not here, since a run does not keep them: initial latents that were given, the configuration of a scheduler."
    )
    for reason in unwritten:
        lines += _comment(f"Left out: {reason}")
    if any("folder" in json.dumps(own) for own in hooks):
        lines += _comment("Give another folder: one that holds files is refused.")
    return "\n".join([*lines, *(_resumed(run, hooks) if run.resumed_at else _sampled(run, hooks))])


def _model(run: Run) -> list[str]:
    given = {}
    if run.latents is not None:
        if run.latents.dtype != torch.float32:
            given["dtype"] = str(run.latents.dtype)
        if run.latents.device.type != "cpu":
            given["device"] = repr(run.latents.device.type)
    said = ", ".join(f"{name}={value}" for name, value in given.items())
    if run.model_name == embedded_name():
        return [f"model = sdprobe.load({said})", ""]
    return [
        *_comment(
            f"The run was made by {run.model_name}, and does not know where that is. In place of the dots, write its "
            f"folder, file or hub id, or a live pipeline."
        ),
        f"model = sdprobe.load({', '.join(filter(None, ('...', said)))})",
        "",
    ]


def embedded_name() -> str:
    """Return the name of the model in this package, without loading it."""
    kind = json.loads((shapes.WEIGHTS / "model_index.json").read_text())["_class_name"]
    with safe_open(next((shapes.WEIGHTS / "unet").glob("*.safetensors")), "pt") as weights:
        count = sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return f"StableDiffusion({kind}, denoiser {count / 1e6:.1f} M parameters)"


def _hooks(run: Run) -> tuple[list[list[Any]], list[str]]:
    """Return the hooks as pairs, and why others cannot be written."""
    inside = {id(live.inner) for _, live in run.records if is_limited(live)}
    pairs: list[list[Any]] = []
    unwritten: list[str] = []
    for given, live in run.records:
        if id(live) in inside or isinstance(given, Progress):  # a bar is shown without being asked for
            continue
        try:
            pairs += to_config([given])
        except (ValueError, TypeError) as error:
            unwritten.append(str(error))
    return pairs, unwritten


def _sampled(run: Run, hooks: list[list[Any]]) -> list[str]:
    return _call("run = sdprobe.sample(", [None, *_settings(run, hooks)])


def _settings(run: Run, hooks: list[list[Any]]) -> list[tuple[str, Any]]:
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
    return found


def _resumed(run: Run, hooks: list[list[Any]]) -> list[str]:
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
