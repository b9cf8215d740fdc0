"""`only`: limit a hook to some steps, some sites of the denoiser, or some rows of its batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from sdprobe.core.compose import Hook, Hooks
from sdprobe.core.hook import POINTS, Observer, Transform, overrides
from sdprobe.core.limits.limited_hook import Limit, LimitedHook, Rows, Sites, Steps
from sdprobe.core.limits.limited_text_edit import TEXT, LimitedTextEdit, text_points

SHOWN = ("token_embeds", "prompt_embeds")  # a change here can be limited to some cross-attention sites
AT_SITES = ("attention", "activation")
OF_ROWS = (*TEXT, *AT_SITES, "model_output")


def only(
    hook: Hook | Hooks, *, steps: int | Steps | None = None, sites: Sites | None = None, rows: Rows | None = None
) -> Any:
    """Limit a hook to some steps, sites or rows. Returns a hook of the same kind.

    Points outside the steps (`final_latents`, `image`, and for an observer the text points) are not limited. A
    transform of the text changes the denoiser's input in these steps and for these rows; limited to sites, it changes
    the input of the cross-attention there. This shows, for example, the effect of another word in some steps or layers
    only.

    Limited to rows, a hook gets a smaller run: the entries of these rows, and where a value has one entry per image,
    those of their images, numbered again from 0. A transform leaves the other entries unchanged.

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

    Change the second of two images only; the first stays the same:

    >>> settings = {"images_per_prompt": 2, "steps": 3, "seed": 0, "progress": False}
    >>> second = sdprobe.only(sdprobe.ScalePrompt(0.5), rows=[1])
    >>> plain, half = (sdprobe.sample(model, "a red circle", hooks=own, **settings) for own in ([], [second]))
    >>> [bool((a == b).all()) for a, b in zip(plain.latents, half.latents)]
    [True, False]

    Args:
        hook: a hook, or several as `Hooks`.
        steps: step numbers from 0 (``range(10)``, ``{0, 5}``, ``5``), or a function of the `Step` that returns True or
            False.
        sites: patterns on dotted module names (``"up_blocks.*"``), or a function of the `Site`.
        rows: a role (``"cond"``), image numbers (``[0, 2]``), or a function of the `Row`.

    Returns:
        A hook; without limits, the hook itself. Nested limits combine: the hook acts where all of them allow it. Read
        the records of the inner hook from ``run[hook]``, as usual; ``run[limited]`` returns them too.

    Raises:
        ValueError: for sites or a role if no point of the hook has one; for patterns that match no module; for a role
            that the run does not have; for rows of a hook that changes the text and acts at other points too (make two
            hooks); and for a transform of the text at sites of joint attention, where the text is one stream through
            all sites. Before the first step, for limits that never let the hook act in the run: no step, no image, or
            no site where the hook is called. What only the run can show, such as a function of the latents, is counted:
            ``run.coverage`` says how often a hook acted, and a hook that never acted gives a warning when the run ends,
            unless it has ``strict=False``.
        TypeError: for steps or rows that are neither numbers nor a function.
    """
    if isinstance(hook, Hooks):
        return Hooks(*(only(leaf, steps=steps, sites=sites, rows=rows) for leaf in hook))
    (hook,) = Hooks(hook)  # refuses an object that is not a hook
    if steps is None and sites is None and rows is None:
        return hook
    limit = Limit.of(steps, sites, rows)
    inner, limits = (hook.inner, (*hook.limits, limit)) if isinstance(hook, LimitedHook) else (hook, (limit,))
    points = tuple(point for point in POINTS if overrides(inner, point))
    _refuse(inner, points, limit)
    by_sites = any(own.sites is not None for own in limits)
    return _class(isinstance(inner, Transform), points, by_sites, _edits_text(inner, points))(inner, limits)


def _refuse(hook: Hook, points: tuple[str, ...], limit: Limit) -> None:
    """Refuse a limit that cannot apply to the hook."""
    acts = f"{hook!r} acts at {', '.join(points)}"
    if not points:
        raise ValueError(f"{hook!r} acts at no point, so there is nothing to limit")
    edits_text = _edits_text(hook, points)
    at_sites = (*AT_SITES, *(SHOWN if isinstance(hook, Transform) else ()))
    if limit.sites is not None and not any(point in at_sites for point in points):
        raise ValueError(f"{acts}, which no site has: only `steps` and `rows` can limit it")
    if edits_text and "activation" in points and limit.sites is not None:
        raise ValueError(f"{hook!r} acts on the text and on activations: to limit its sites, make two hooks of it")
    if limit.rows is None:
        return
    if isinstance(limit.rows, str) and not any(point in OF_ROWS for point in points):
        raise ValueError(f"{acts}, with one entry for each image and no role: limit it to numbers of images")
    if edits_text and any(point not in TEXT for point in points):
        raise ValueError(f"{acts}: to limit it to rows, make one hook of what it does to the text, and one of the rest")
    if isinstance(hook, Transform) and hook.needs_grad:
        raise ValueError(f"{hook!r} needs the gradient of all latents together: rows cannot limit it")


def _edits_text(hook: Hook, points: tuple[str, ...]) -> bool:
    return isinstance(hook, Transform) and not hook.reads_text and any(point in TEXT for point in points)


@cache
def _class(changes: bool, points: tuple[str, ...], by_sites: bool, edits_text: bool) -> type:
    """Return the class of a limited hook: it has the points of the inner hook, and those it needs itself."""
    methods: dict[str, Any] = {point: _passing(point) for point in points} | (
        text_points(points, by_sites) if edits_text else {}
    )
    bases = (LimitedTextEdit if edits_text else LimitedHook, Transform if changes else Observer)
    return type("Only", bases, {"limit": staticmethod(only), **methods})


def _passing(point: str) -> Callable[..., Any]:
    def act(self: Any, x: Any, place: Any) -> Any:
        return self.pass_on(point, x, place)

    return act
