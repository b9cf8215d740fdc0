"""`only`: a hook at some steps, at some sites of the denoiser, or for some rows of its batch."""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import cache
from typing import Any, get_args

from sdprobe.core.compose import Hook, Hooks
from sdprobe.core.hook import POINTS, Observer, Transform, overrides
from sdprobe.core.limits.limited_hook import Limit, LimitedHook, Rows, Sites, Steps
from sdprobe.core.limits.limited_text_edit import TEXT, LimitedTextEdit, text_points
from sdprobe.core.run import Role

SHOWN = ("token_embeds", "prompt_embeds")  # a change of which a site of cross-attention can be shown
AT_SITES = ("attention", "activation")
OF_ROWS = (*TEXT, *AT_SITES, "model_output")


def only(
    hook: Hook | Hooks, *, steps: int | Steps | None = None, sites: Sites | None = None, rows: Rows | None = None
) -> Any:
    """The hook, acting at these steps, at these sites and for these rows only; it is a hook of the same kind.

    Points that lie outside the steps (`final_latents`, `image`, and the text for an observer) stay as they are. A
    transform of the text changes what the denoiser is told in these steps and for these rows; limited to sites, what
    the cross-attention there is shown. What if only these steps, or only these layers, had seen the other word?

    Limited to rows, a hook is shown a smaller run: the entries of these rows, and where there is one entry for each
    image, those of their images, numbered anew from 0. A transform leaves the other entries as they are.

    >>> import sdprobe
    >>> model, late = sdprobe.load(), range(4, 8)
    >>> swap = sdprobe.only(sdprobe.ReplaceToken("circle", with_="star"), steps=late)
    >>> coarse = sdprobe.only(sdprobe.ReplaceToken("red", with_="blue"), sites=lambda site: site.grid == (8, 8))
    >>> maps = sdprobe.AttentionMaps()
    >>> run = sdprobe.sample(
    ...     model, "a red circle", hooks=[swap, coarse, sdprobe.only(maps, steps=late)], steps=8, progress=False
    ... )
    >>> run[maps].heat_map("circle")
    HeatMap('circle', 16×16)

    The second of two pictures only, the first being what it would have been:

    >>> settings = {"images_per_prompt": 2, "steps": 3, "seed": 0, "progress": False}
    >>> second = sdprobe.only(sdprobe.ScalePrompt(0.5), rows=[1])
    >>> plain, half = (sdprobe.sample(model, "a red circle", hooks=own, **settings) for own in ([], [second]))
    >>> [bool((a == b).all()) for a, b in zip(plain.latents, half.latents)]
    [True, False]

    Args:
        hook: a hook, or several as one.
        steps: step numbers, 0 the first (``range(10)``, ``{0, 5}``, ``5``), or a function of the `Step` that says yes
            or no.
        sites: patterns on the dotted names of modules (``"up_blocks.*"``), or a function of the `Site`.
        rows: a role (``"cond"``), numbers of images (``[0, 2]``), or a function of the `Row`.

    Returns:
        A hook; with no limit given, the hook itself. A limit within a limit is both: the hook acts where both let it.
        What the hook within recorded is read as ever, from ``run[hook]``; the limited hook stands for it there.

    Raises:
        ValueError: for sites or a role where the hook says nothing that has one, for patterns that match no module,
            for a role that the run has not, for rows of a hook that changes the text and acts elsewhere too (make two
            hooks of it), and for a transform of the text at sites of joint attention, through all
            of which the text goes as one stream. Before the first step, for limits that never let the hook act in
            the run: none of its steps, images, or sites at which the hook is called. What only the run itself can
            show, such as a function of the latents, is counted: ``run.coverage`` says how often a hook acted, and
            one that never did warns when the run ends, unless it has ``strict=False``.
        TypeError: for steps or rows that are neither numbers nor a function.
    """
    if isinstance(hook, Hooks):
        return Hooks(*(only(leaf, steps=steps, sites=sites, rows=rows) for leaf in hook))
    (hook,) = Hooks(hook)  # refuses what is no hook
    if steps is None and sites is None and rows is None:
        return hook
    if isinstance(steps, int) and not isinstance(steps, bool):
        steps = (steps,)
    if steps is not None and not callable(steps) and (isinstance(steps, str) or not isinstance(steps, Container)):
        raise TypeError(
            f"steps are numbers such as 5, [0, 5] or range(10), or a function of the Step that says yes or no, not "
            f"{steps!r}"
        )
    limit = Limit(steps, (sites,) if isinstance(sites, str) else sites, rows)
    inner, limits = (hook.inner, (*hook.limits, limit)) if isinstance(hook, LimitedHook) else (hook, (limit,))
    points = tuple(point for point in POINTS if overrides(inner, point))
    _refuse(inner, points, limit)
    by_sites = any(own.sites is not None for own in limits)
    return _class(isinstance(inner, Transform), points, by_sites)(inner, limits)


def _refuse(hook: Hook, points: tuple[str, ...], limit: Limit) -> None:
    """Refuse what could never limit the hook."""
    acts = f"{hook!r} acts at {', '.join(points)}"
    if not points:
        raise ValueError(f"{hook!r} acts at no point, so there is nothing to limit")
    edits_text = isinstance(hook, Transform) and any(point in TEXT for point in points)
    at_sites = (*AT_SITES, *(SHOWN if isinstance(hook, Transform) else ()))
    if limit.sites is not None and not any(point in at_sites for point in points):
        raise ValueError(f"{acts}, which no site has: only `steps` and `rows` can limit it")
    if edits_text and "activation" in points and limit.sites is not None:
        raise ValueError(f"{hook!r} acts on the text and on activations: to limit its sites, make two hooks of it")
    if limit.rows is None:
        return
    if isinstance(limit.rows, str) and limit.rows not in get_args(Role):
        raise ValueError(f"{limit.rows!r} is no role of a row; the roles: {', '.join(get_args(Role))}")
    if not isinstance(limit.rows, Container) and not callable(limit.rows):
        raise TypeError(f"rows are a role, numbers of images such as [0], or a function of the Row, not {limit.rows!r}")
    if isinstance(limit.rows, str) and not any(point in OF_ROWS for point in points):
        raise ValueError(f"{acts}, with one entry for each image and no role: limit it to numbers of images")
    if edits_text and any(point not in TEXT for point in points):
        raise ValueError(f"{acts}: to limit it to rows, make one hook of what it does to the text, and one of the rest")
    if isinstance(hook, Transform) and hook.needs_grad:
        raise ValueError(f"{hook!r} needs the gradient of all latents together: rows cannot limit it")


@cache
def _class(changes: bool, points: tuple[str, ...], by_sites: bool) -> type:
    """The class of a limited hook: it has the points of the hook within, and no others but those it needs itself."""
    edits_text = changes and any(point in TEXT for point in points)
    methods: dict[str, Any] = {point: _passing(point) for point in points} | (
        text_points(points, by_sites) if edits_text else {}
    )
    bases = (LimitedTextEdit if edits_text else LimitedHook, Transform if changes else Observer)
    return type("Only", bases, {"limit": staticmethod(only), **methods})


def _passing(point: str) -> Callable[..., Any]:
    def act(self: Any, x: Any, place: Any) -> Any:
        return self.pass_on(point, x, place)

    return act
