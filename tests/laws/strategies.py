"""Generated hooks and runs. Every synthetic hook acts at one point, so that a failing example reads plainly."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

import sdprobe
from sdprobe.hook import POINTS
from sdprobe.run import Run

TENSOR_POINTS = tuple(point for point in POINTS if point != "attention")
MODULES = {"activation": ("mid_block.resnets.*",)}


class Affine(sdprobe.Transform):
    """x → a x + b at one point; at ``attention`` the same for the value."""

    def __init__(self, point: str, a: float, b: float) -> None:
        self.point, self.a, self.b = point, a, b
        self.modules = MODULES.get(point)

    def __repr__(self) -> str:
        return f"Affine({self.point!r}, {self.a}, {self.b})"


class Same(sdprobe.Transform):
    """Returns what it is given."""

    def __init__(self, point: str) -> None:
        self.point = point
        self.modules = MODULES.get(point)

    def __repr__(self) -> str:
        return f"Same({self.point!r})"


class Seen(sdprobe.Observer):
    """Keeps a copy of every value that passes one point."""

    def __init__(self, point: str) -> None:
        self.point = point
        self.modules = MODULES.get(point)

    def start(self, run: Run) -> None:
        self.values: list[torch.Tensor] = []

    def __repr__(self) -> str:
        return f"Seen({self.point!r})"


def _acting(base: type, point: str, act: Any) -> type:
    return type(base.__name__, (base,), {point: act})


def affine(point: str, a: float, b: float) -> sdprobe.Transform:
    def act(self: Affine, x: Any, place: object) -> Any:
        return x.with_value(x.value * self.a + self.b) if point == "attention" else x * self.a + self.b

    made: sdprobe.Transform = _acting(Affine, point, act)(point, a, b)
    return made


def same(point: str) -> sdprobe.Transform:
    made: sdprobe.Transform = _acting(Same, point, lambda self, x, place: x)(point)
    return made


def seen(point: str) -> sdprobe.Observer:
    def act(self: Seen, x: Any, place: object) -> None:
        self.values.append(torch.cat([x.probs().flatten(), x.value.flatten()]) if point == "attention" else x.clone())

    made: sdprobe.Observer = _acting(Seen, point, act)(point)
    return made


points = st.sampled_from(POINTS)
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


def same_run(a: Run, b: Run) -> bool:
    """Whether two runs came to the very same latents and pictures."""
    assert a.latents is not None
    assert b.latents is not None
    equal = torch.equal(a.latents.nan_to_num(), b.latents.nan_to_num())
    return equal and [i.tobytes() for i in a.images] == [i.tobytes() for i in b.images]


def same_values(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    """Whether two recordings are the very same."""
    return len(a) == len(b) and all(torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in zip(a, b, strict=True))
