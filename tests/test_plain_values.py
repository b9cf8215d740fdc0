"""Python values as JSON and tensors, and back, with their types."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sdprobe.core.plain_values import DTYPES, from_plain, to_plain

FLOATS = st.floats(allow_nan=True)
KEYS = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8), FLOATS, st.tuples(st.text(max_size=3)))
SHAPES = st.lists(st.integers(0, 3), max_size=3)
TENSOR_DTYPES = st.sampled_from(
    [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool, torch.complex64]
)


@st.composite
def tensors(draw: Any) -> torch.Tensor:
    shape, dtype = draw(SHAPES), draw(TENSOR_DTYPES)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 5)))
    return (torch.randn(shape, generator=generator) * 100).to(dtype)


@st.composite
def images(draw: Any) -> Image.Image:
    mode, size = draw(st.sampled_from(["L", "RGB", "RGBA"])), (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    count = size[0] * size[1] * len(mode)
    return Image.frombytes(mode, size, draw(st.binary(min_size=count, max_size=count)))


@st.composite
def arrays(draw: Any) -> np.ndarray:
    kind = draw(st.sampled_from([np.float64, np.float32, np.int16, np.uint8, np.bool_, np.complex128]))
    return np.array(draw(st.lists(st.integers(0, 9), max_size=4)), dtype=kind)


ONE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    FLOATS,
    st.text(max_size=20),
    st.sampled_from(sorted(DTYPES, key=str)),
    st.builds(range, st.integers(-5, 5), st.integers(-5, 5), st.integers(1, 3)),
    tensors(),
    images(),
    arrays(),
)


def several(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
        st.sets(KEYS, max_size=3),
        st.frozensets(KEYS, max_size=3),
    )


def same(a: Any, b: Any) -> bool:
    """Equal, and of the same types all the way down; NaN equals NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, Image.Image):
        return (a.mode, a.size, a.tobytes()) == (b.mode, b.size, b.tobytes())
    if isinstance(a, float):
        return repr(a) == repr(b)  # also the sign of 0, and NaN
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, (set, frozenset)):
        return sorted(map(repr, a)) == sorted(map(repr, b))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def round_trip(value: Any) -> Any:
    kept: dict[str, torch.Tensor] = {}
    return from_plain(json.loads(json.dumps(to_plain(value, kept, "kept"), allow_nan=False)), kept)


@given(st.recursive(ONE, several, max_leaves=12))
def test_a_value_comes_back_with_its_types(value):
    assert same(round_trip(value), value)


def test_the_types_are_told_apart():
    """The comparison itself: what Python calls equal is not the same here."""
    assert not same(1, True)
    assert not same([1], (1,))
    assert not same(0.0, -0.0)
    assert not same(torch.ones(1), torch.ones(1, dtype=torch.float64))
    assert same({1: {2.0, float("nan")}}, {1: {2.0, float("nan")}})


def test_each_tensor_has_a_name_that_says_where_it_is():
    kept: dict[str, torch.Tensor] = {}
    to_plain({"a": [torch.ones(1), {2: torch.ones(2)}], "b": torch.ones(3)}, kept, "seen")
    assert {name: len(x) for name, x in kept.items()} == {"seen['a'][0]": 1, "seen['a'][1][2]": 2, "seen['b']": 3}


def test_two_keys_that_print_alike_keep_their_tensors():
    value = {float("nan"): torch.ones(1), float("nan"): torch.zeros(1)}
    assert len(value) == 2  # no NaN is another
    assert same(round_trip(value), value)


def test_arrays_of_other_machines_and_scalars_of_numpy():
    found = round_trip([np.array([1.5, 2.5], dtype=">f4"), np.float32(0.5), np.int8(3), np.bool_(True)])
    assert same(found, [np.array([1.5, 2.5], dtype=np.float32), np.float32(0.5), np.int8(3), np.bool_(True)])


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), "kept is <object"),
        ({"a": [1, len]}, r"kept\['a'\]\[1\] is <built-in function len>, a builtin"),
        (np.array(["a"]), "an array of <U1"),
        (np.array([None]), "an array of object"),
        (np.ma.masked_array([1, 2], [0, 1]), "kept is a masked array of int64"),
        (Image.new("CMYK", (1, 1)), "mode 'CMYK'; those that can be written: L, RGB, RGBA"),
        ({object(): 1}, "kept is <object"),
        (1j, "a complex"),
        (torch.ones(3).to_sparse(), r"kept is a tensor without plain numbers in memory \(torch.sparse_coo\)"),
        (torch.empty(3, device="meta"), "without plain numbers in memory"),
    ],
)
def test_what_cannot_be_written_is_said(value, says):
    with pytest.raises(TypeError, match=says):
        to_plain(value, {}, "kept")


@pytest.mark.parametrize(
    "plain",
    [
        {"$tensor": "missing"},
        {"$set": [{"$dict": []}]},  # cannot be in a set
        {"$float": "one"},
        {"$dtype": "float31"},
        {"$run": None},
        {"os.system": "ls"},
        {"$tuple": 3},
        {"$dict": [[1]]},
        {"$image": "t"},
        {"$range": [1, 2, 0]},
        {},
        {"$tuple": [], "$set": []},
    ],
)
def test_anything_else_is_no_value_that_was_written(plain):
    with pytest.raises(ValueError, match="is no value that was written"):
        from_plain(plain, {"t": torch.zeros(2, 2, 2, 2)})
