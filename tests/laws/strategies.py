"""Generated hooks and runs. Every synthetic hook acts at one point, so that a failing example reads plainly."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

import sdprobe
from sdprobe import Hooks, only
from sdprobe.core.hook import POINTS
from sdprobe.core.run import Run
from sdprobe.testing.flat_records import same_run as same_run
from sdprobe.testing.synthetic_hooks import MODULES as MODULES
from sdprobe.testing.synthetic_hooks import affine as affine
from sdprobe.testing.synthetic_hooks import same as same
from sdprobe.testing.synthetic_hooks import seen as seen

PASSED = tuple(point for point in POINTS if point != "pooled_embeds")
"""Where every run comes by: the denoiser of Stable Diffusion 1 and 2 is told no vector of the whole prompt."""
CALLED = (*PASSED, "start", "finish")
TENSOR_POINTS = tuple(point for point in PASSED if point != "attention")
points = st.sampled_from(PASSED)
factors = st.sampled_from([0.5, 0.9, 1.1, 2.0])
shifts = st.sampled_from([-0.5, 0.0, 0.25])
transforms = st.builds(affine, points, factors, shifts)
identities = st.builds(same, points)
observers = st.builds(seen, points)
builtin = st.sampled_from(
    [
        sdprobe.AttentionMaps,
        sdprobe.SelfAttentionMaps,
        sdprobe.LatentRecorder,
        lambda: sdprobe.ReplaceToken("circle", with_="square"),
        lambda: sdprobe.MixTokens({"red": 0.5, "star": 0.5}, at="red"),
        lambda: sdprobe.MixPrompts({"a star": 0.5, "a ring": 0.5}),
        lambda: sdprobe.only(sdprobe.ReplaceToken("circle", with_="square"), steps={1}),
        lambda: sdprobe.only(sdprobe.ScaleToken("red", 0.5), sites="mid_block.*"),
        lambda: sdprobe.AttentionMaps(rows="cond", keep=("step", "layer", "head")),
    ]
).map(lambda make: make())
hooks = st.one_of(transforms, identities, observers, builtin)
stacks = st.lists(hooks, max_size=4)


def run(model: sdprobe.Model, *given: Any, **changed: Any) -> Run:
    """A short run with everything fixed that is not asked for."""
    settings: dict[str, Any] = {"steps": 2, "guidance_scale": 3.0, "seed": 0, "progress": False} | changed
    return sdprobe.sample(model, settings.pop("prompt", "a red circle"), hooks=given, **settings)


def same_values(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    """Whether two recordings are the very same."""
    return len(a) == len(b) and all(torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in zip(a, b, strict=True))


def within(hook, **limits):
    """A hook limited to sets of steps or rows; limited to nothing, which a run refuses, no hook at all."""
    return only(hook, **limits) if all(limits.values()) else Hooks()
