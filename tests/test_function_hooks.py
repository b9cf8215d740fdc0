"""Functions as hooks: what they do is what a class of one's own would do, under the function's name."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from sdprobe import on, watch
from tests.laws.strategies import MODULES, PASSED, affine, run, same_run, same_values, seen

points = st.sampled_from(PASSED)


def halve(x, place):
    return x.with_value(x.value * 0.5 + 0.25) if isinstance(x, sdprobe.Attention) else x * 0.5 + 0.25


@given(point=points)
def test_a_function_acts_as_a_class_does(tiny, point):
    assert same_run(run(tiny, on(point, halve, modules=MODULES.get(point))), run(tiny, affine(point, 0.5, 0.25)))


@given(point=points)
def test_a_watcher_is_shown_what_a_class_is_shown(tiny, point):
    values, recorder = [], seen(point)

    def keep(x):
        values.append(
            torch.cat([x.probs().flatten(), x.value.flatten()]) if isinstance(x, sdprobe.Attention) else x.clone()
        )

    result = run(tiny, watch(point, keep, modules=MODULES.get(point)), recorder)
    assert same_run(result, run(tiny))
    assert same_values(values, result[recorder].values)


@given(point=points, both=st.booleans())
def test_one_argument_is_the_value_and_the_second_the_place(tiny, point, both):
    places = []
    function = (lambda x, place: places.append(type(place))) if both else (lambda x: places.append(None))
    run(tiny, watch(point, function, modules=MODULES.get(point)))
    kinds = {sdprobe.Text, sdprobe.Step, sdprobe.Site, sdprobe.Run} if both else {None}
    assert places
    assert set(places) <= kinds


@given(point=points)
def test_an_error_names_the_function(tiny, point):
    def fails(x, place):
        raise RuntimeError("no")

    for made in (on, watch):
        with pytest.raises(RuntimeError, match="no") as caught:
            run(tiny, made(point, fails, modules=MODULES.get(point)))
        (note,) = caught.value.__notes__
        said = f"{made.__name__}({point!r}, fails"
        assert said in note
        assert f"at the point {point!r}" in note


def test_the_contract_is_held_by_name(tiny):
    with pytest.raises(TypeError, match=r"on\('latents', nothing\).latents returned None.*forget `return`"):
        run(tiny, on("latents", nothing))
    with pytest.raises(TypeError, match=r"watch\('latents', halve\).latents returned a value"):
        run(tiny, watch("latents", halve))


def nothing(x, place):
    pass


def test_names_of_functions():
    class Callable:
        def __call__(self, x, step):
            return x

    assert repr(on("latents", Callable())) == "on('latents', Callable)"
    assert repr(watch("latents", [].append)) == "watch('latents', list.append)"
    assert repr(on("attention", halve, kinds="cross")) == "on('attention', halve, kinds=('cross',))"
    assert "lambda of line" in repr(on("latents", lambda x: x))


def test_lists_can_watch(tiny):
    kept = []
    run(tiny, watch("latents", kept.append), steps=3)
    assert [tuple(x.shape) for x in kept] == [(1, 4, 8, 8)] * 3


def test_it_comes_back_from_a_pickle(tiny):
    hook = on("activation", halve, modules="mid_block")
    again = pickle.loads(pickle.dumps(hook))
    assert repr(again) == repr(hook) == "on('activation', halve, modules=('mid_block',))"
    assert same_run(run(tiny, again), run(tiny, hook))


@pytest.mark.parametrize("made", [on, watch])
def test_what_could_never_act_is_refused(made):
    with pytest.raises(ValueError, match="no point 'noise_preds'; did you mean 'noise_pred'"):
        made("noise_preds", halve)
    with pytest.raises(ValueError, match="must say of which modules"):
        made("activation", halve)
    with pytest.raises(ValueError, match="modules say where attention and activation listen"):
        made("latents", halve, modules="mid_block")
    with pytest.raises(ValueError, match="kinds say where attention listen"):
        made("activation", halve, modules="mid_block", kinds="cross")
    with pytest.raises(TypeError, match="takes a function of the value and the place, not 3"):
        made("latents", 3)
    with pytest.raises(TypeError, match="must take the value, or the value and the place"):
        made("latents", lambda a, b, c: a)
