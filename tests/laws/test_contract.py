"""What is refused, when, and in which words."""

from __future__ import annotations

import pytest

import sdprobe
from sdprobe import Hooks, Observer, Transform

from .strategies import MODULES, PASSED, run


def transform(point, act):
    hook = type("Odd", (Transform,), {point: act})()
    hook.modules = MODULES.get(point)
    return hook


@pytest.mark.parametrize("point", PASSED)
def test_a_forgotten_return_is_an_error(tiny, point):
    with pytest.raises(TypeError, match=rf"Odd\(\)\.{point} returned None.*forget `return`"):
        run(tiny, transform(point, lambda self, x, place: None))


@pytest.mark.parametrize("point", [p for p in PASSED if p != "attention"])
@pytest.mark.parametrize(("what", "change"), [("shape", lambda x: x[..., :1]), ("dtype", lambda x: x.double())])
def test_a_transform_keeps_shape_and_dtype(tiny, point, what, change):
    with pytest.raises(ValueError, match=rf"Odd\(\)\.{point} changed the {what}"):
        run(tiny, transform(point, lambda self, x, place: change(x)))


@pytest.mark.parametrize("point", PASSED)
def test_an_observer_returns_nothing(tiny, point):
    hook = type("Chatty", (Observer,), {point: lambda self, x, place: x})()
    hook.modules = MODULES.get(point)
    with pytest.raises(TypeError, match=rf"Chatty\(\)\.{point} returned a value, but it is an Observer"):
        run(tiny, hook)


def test_attention_must_return_an_attention(tiny):
    with pytest.raises(TypeError, match="not an Attention"):
        run(tiny, transform("attention", lambda self, attn, site: attn.value))


def test_what_is_no_hook_is_refused():
    with pytest.raises(TypeError, match="3 is not a hook"):
        Hooks(3)
    with pytest.raises(TypeError, match=r"write AttentionMaps\(\)"):
        Hooks(sdprobe.AttentionMaps)


def test_a_hook_without_points_is_refused():
    with pytest.raises(ValueError, match="overrides no point"):
        Hooks(type("Idle", (Observer,), {"helper": lambda self: None})())


@pytest.mark.parametrize(
    ("wrong", "right"), [("latent", "latents"), ("prompt_embed", "prompt_embeds"), ("starts", "start")]
)
def test_nearly_a_point_is_refused(wrong, right):
    with pytest.raises(ValueError, match=rf"{wrong!r}.*did you mean {right!r}"):
        Hooks(type("Typo", (Observer,), {wrong: lambda self, x, step: None})())


def test_activation_needs_modules():
    with pytest.raises(ValueError, match="does not say of which modules"):
        Hooks(type("Everywhere", (Observer,), {"activation": lambda self, x, site: None})())


def test_patterns_that_match_nothing_are_refused_before_the_first_step(tiny):
    steps = []
    watcher = type("Watch", (Observer,), {"latents": lambda self, x, step: steps.append(step.index)})()
    with pytest.raises(ValueError, match=r"'up_bloks\.\*' matches no attention site.*nearest"):
        run(tiny, watcher, sdprobe.AttentionMaps(modules=("up_bloks.*",)))
    joint = sdprobe.AttentionMaps()
    joint.kinds = ("joint",)
    with pytest.raises(ValueError, match="kind joint"):
        run(tiny, joint)
    assert steps == []


def test_unknown_names_suggest_the_nearest(tiny):
    with pytest.raises(ValueError, match="did you mean 'attention-maps'"):
        run(tiny, "attention-map")


def test_results_are_asked_of_the_run_not_of_the_description(tiny):
    maps = sdprobe.AttentionMaps()
    result = run(tiny, maps)
    assert result[maps].heat_map("circle").values.shape == (8, 8)
    with pytest.raises(AttributeError, match=r"run\[hook\]"):
        maps.heat_map("circle")
    with pytest.raises(KeyError, match="not a hook of this run"):
        result[sdprobe.AttentionMaps()]


def test_a_hook_given_by_name_is_found_by_name(tiny):
    result = run(tiny, "attention-maps", "latents")
    assert result["attention-maps"].heat_map("red").values.shape == (8, 8)
    assert len(result["latents"].indices) == 2


def test_a_hook_given_twice_is_ambiguous(tiny):
    maps = sdprobe.AttentionMaps()
    with pytest.raises(KeyError, match="given 2 times"):
        run(tiny, maps, maps)[maps]


def test_a_hook_is_of_one_kind():
    both = type("Both", (Observer, Transform), {"latents": lambda self, x, step: None})
    with pytest.raises(TypeError, match="both an Observer and a Transform"):
        Hooks(both())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rows": "uncond"}, "no unconditional rows"), ({"grids": [5]}, r"no site can have a grid of \[\(5, 5\)\]")],
)
def test_maps_that_could_record_nothing_are_refused_before_the_first_step(tiny, options, message):
    steps = []
    watcher = type("Watch", (Observer,), {"latents": lambda self, x, step: steps.append(step.index)})()
    with pytest.raises(ValueError, match=message):
        run(tiny, watcher, sdprobe.AttentionMaps(**options), guidance_scale=1.0)
    assert steps == []


def test_several_hooks_hold_no_record_of_their_own(tiny):
    both = Hooks(sdprobe.AttentionMaps(), sdprobe.LatentRecorder())
    with pytest.raises(KeyError, match="ask for each of them"):
        run(tiny, both)[both]
