"""What there is in a pipeline that no family knows, and what not: hooks are refused before it begins, or it is said."""

from __future__ import annotations

from sdprobe.core.compose import Hooks
from sdprobe.core.coverage import Coverage
from sdprobe.core.hook import POINTS, Transform, overrides
from sdprobe.model.denoiser.unmatched_hooks import refuse_unmatched
from sdprobe.model.unknown.attention_kinds import possible_kinds
from sdprobe.model.unknown.unknown_pipeline import UnknownPipeline


def points_of(model: UnknownPipeline) -> tuple[str, ...]:
    """Return the points that there are in a pipeline that no family knows."""
    attention = ("attention",) if any(model.kinds_of.values()) else ()
    return (*attention, "activation", *(("latents", "noise_pred") if model.scheduler is not None else ()))


def refuse_points(model: UnknownPipeline, hooks: Hooks, coverage: Coverage) -> None:
    """Refuse hooks that ask for what cannot be had, and note the points that others do without.

    Args:
        model: the pipeline.
        hooks: the hooks as they were given.
        coverage: notes what a hook does without.

    Raises:
        ValueError: for a transform with a point that there is not, unless it has ``strict=False``; for a hook without
            any that there is; for one that needs gradients or brings words; for modules and kinds that there are not.
    """
    there = points_of(model)
    for hook in hooks:
        acting = getattr(hook, "inner", hook)  # a limited hook acts where the one inside it does
        own = [point for point in POINTS if overrides(acting, point)]
        ended = not isinstance(hook, Transform) and "noise_pred" in there  # what was made last can be looked at
        missing = [point for point in own if point not in (*there, *(("final_latents",) if ended else ()))]
        if missing and (len(missing) == len(own) or (isinstance(hook, Transform) and hook.strict)):
            raise ValueError(
                f"{hook!r} acts at {', '.join(missing)}, which cannot be had in {model.kind}, since no family knows "
                f"it; the points that there are: {', '.join(there)}"
            )
        if missing:
            coverage.note_unknown(f"{hook!r} is not called at {', '.join(missing)}")
        if isinstance(hook, Transform) and hook.needs_grad:
            raise ValueError(f"{hook!r} needs gradients, which cannot be had in {model.kind}: no family knows it")
        if isinstance(hook, Transform) and hook.brings:
            raise ValueError(
                f"{hook!r} brings words, and how {model.kind} reads words is not known: no family knows it"
            )
    kinds = {name: possible_kinds(kind) for own in model.kinds_of.values() for name, kind in own.items()}
    refuse_unmatched(hooks, "attention", kinds)
    refuse_unmatched(hooks, "activation", dict.fromkeys((*model.modules, *model.modules_outside), ()))


def note_what_is_unknown(model: UnknownPipeline, coverage: Coverage, rows_told: bool) -> None:
    """Note what is not known of a pipeline.

    Args:
        model: the pipeline.
        coverage: notes it.
        rows_told: whether the user says what the rows are.
    """
    if not rows_told:
        coverage.note_unknown("which rows are which")
    coverage.note_unknown("which tokens are those of which words")
    coverage.note_unknown("where the places of a picture stand among the positions of attention, and their grid")
    if not model.networks:
        coverage.note_unknown("which part is called in the loop")
    if model.scheduler is None:
        coverage.note_unknown("the latents and noise_pred: it has no part named scheduler that makes steps")
    else:
        coverage.note_unknown("whether the latents after the last step are what is decoded")
