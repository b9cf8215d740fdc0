"""After any run, error or interrupt the model's footprint is what it was."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
import sdprobe.core.hook
from sdprobe.testing import footprint

from .strategies import CALLED, MODULES, PASSED, hooks, run, same_run, seen, stacks


class Deliberate(Exception):
    pass


def raising(kind: type, method: str, error: type[BaseException]) -> sdprobe.Observer | sdprobe.Transform:
    def act(self, *args):
        raise error("on purpose")

    hook = type("Raising", (kind,), {method: act})()
    hook.modules = MODULES.get(method)
    return hook


@given(stack=stacks)
def test_a_run_leaves_nothing(tiny, stack):
    before = footprint(tiny.pipe)
    run(tiny, *stack)
    assert footprint(tiny.pipe) == before


@given(
    stack=st.lists(hooks, max_size=2),
    kind=st.sampled_from([sdprobe.Observer, sdprobe.Transform]),
    method=st.sampled_from(CALLED),
    error=st.sampled_from([Deliberate, KeyboardInterrupt]),
    at=st.integers(0, 2),
)
def test_an_error_at_any_point_leaves_nothing_and_says_where(tiny, stack, kind, method, error, at):
    bad = raising(kind, method, error)
    before, expected = footprint(tiny.pipe), run(tiny)
    with pytest.raises(error, match="on purpose") as raised:
        run(tiny, *stack[:at], bad, *stack[at:])
    assert any(f"Raising() at the point {method!r}" in note for note in raised.value.__notes__)
    assert footprint(tiny.pipe) == before
    assert same_run(run(tiny), expected)


@pytest.mark.parametrize("failing", [None, *PASSED])
def test_finish_is_called_in_reverse_for_every_hook_that_started(tiny, failing):
    log = []

    class Logged(sdprobe.Observer):
        def __init__(self, name):
            self.name = name

        def start(self, run):
            log.append(f"start {self.name}")

        def finish(self, run):
            log.append(f"finish {self.name}")

    stack = [Logged("a"), Logged("b")]
    if failing is None:
        run(tiny, *stack)
    else:
        with pytest.raises(Deliberate):
            run(tiny, *stack, raising(sdprobe.Observer, failing, Deliberate))
    assert log == ["start a", "start b", "finish b", "finish a"]


def test_finish_is_not_called_for_a_hook_that_did_not_start(tiny):
    log = []

    class Logged(sdprobe.Observer):
        def start(self, run):
            log.append("start")

        def finish(self, run):
            log.append("finish")

    with pytest.raises(Deliberate):
        run(tiny, raising(sdprobe.Observer, "start", Deliberate), Logged())
    assert log == []


@pytest.mark.parametrize("point", PASSED)
def test_a_hook_that_writes_in_place_is_refused_by_name(tiny, point):
    def act(self, x, place):
        (x.query if point == "attention" else x).mul_(2)

    scribbler = type("Scribbler", (sdprobe.Observer,), {point: act})()
    scribbler.modules = MODULES.get(point)
    before = footprint(tiny.pipe)
    with pytest.raises(ValueError, match=rf"Scribbler\(\)\.{point} wrote into its value in place"):
        run(tiny, scribbler)
    assert footprint(tiny.pipe) == before


def write_latents(self, x, step):
    step.latents.mul_(3)


def write_site_latents(self, attn, site):
    site.step.latents.mul_(3)


def write_output(self, attn, site):
    attn.output().mul_(0)


def write_probs(self, attn, site):
    attn.probs().mul_(0)


def write_replaced(self, attn, site):
    attn.replaced[0].mul_(0)


class Halve(sdprobe.Transform):
    def attention(self, attn, site):
        return attn.with_probs(attn.probs() / 2)


@pytest.mark.parametrize(
    ("point", "act"),
    [
        ("noise_pred", write_latents),
        ("attention", write_site_latents),
        ("attention", write_output),
        ("attention", write_replaced),
    ],
)
def test_what_a_hook_reaches_around_its_value_is_shared_too(tiny, point, act):
    scribbler = type("Scribbler", (sdprobe.Observer,), {point: act})()
    with pytest.raises(ValueError, match="wrote into its value in place"):
        run(tiny, Halve(), scribbler)


@pytest.mark.parametrize("before", [(), (Halve(),)], ids=["the call's own", "replaced"])
def test_probabilities_a_hook_asks_for_are_its_own_to_write_into(tiny, before):
    scribbler = type("Scribbler", (sdprobe.Observer,), {"attention": write_probs})()
    assert same_run(run(tiny, *before, scribbler), run(tiny, *before))


class Backward(sdprobe.Transform):
    """The plain way to a gradient: backward, and the leaf's grad."""

    needs_grad = True

    def start(self, run):
        self.norms = []

    def noise_pred(self, x, step):
        step.denoised(x).square().sum().backward()
        self.norms.append(step.latents.grad.norm().item())
        return x


def test_gradients_reach_the_latents_alone(tiny):
    before = footprint(tiny.pipe)
    hook, maps, self_maps = Backward(), sdprobe.AttentionMaps(), sdprobe.SelfAttentionMaps()
    result = run(tiny, hook, maps, self_maps, seen("attention"))
    assert min(result[hook].norms) > 0
    assert footprint(tiny.pipe) == before
    assert not result[maps].heat_map("circle").values.requires_grad
    result[maps].heat_map("circle").overlay()
    with pytest.raises(Deliberate):
        run(tiny, Backward(), raising(sdprobe.Observer, "attention", Deliberate))
    assert footprint(tiny.pipe) == before


def test_looking_does_not_cut_the_gradient(tiny):
    """An observer that asks for an attention's output must not put one without gradients in the model's way."""
    asks = type("Asks", (sdprobe.Observer,), {"attention": lambda self, attn, site: attn.output() is None or None})
    alone, watched = Backward(), Backward()
    expected = run(tiny, alone)[alone].norms
    assert run(tiny, asks(), sdprobe.AttentionMaps(), watched)[watched].norms == pytest.approx(expected, rel=1e-4)


def test_a_run_works_under_inference_mode(tiny):
    expected = run(tiny)
    with torch.inference_mode():
        assert same_run(run(tiny, sdprobe.AttentionMaps(), sdprobe.Progress()), expected)


def test_an_error_survives_a_hook_whose_repr_fails(tiny):
    class Odd(sdprobe.Observer):
        def __init__(self, array):
            self.array = array

        def latents(self, x, step):
            raise KeyError("the user's own")

        def __repr__(self):
            raise RuntimeError("no repr")

    with pytest.raises(KeyError, match="the user's own"):
        run(tiny, Odd(torch.zeros(3)))
    assert repr(sdprobe.core.hook._described(Odd(torch.zeros(3)))) == "'Odd(Tensor(3,))'"


def test_a_run_from_inside_a_hook_of_the_same_model_is_refused(tiny, tiny_v):
    class Nested(sdprobe.Observer):
        def __init__(self, model):
            self.model = model

        def latents(self, x, step):
            if step.index == 0:
                self.inner = run(self.model)

    before = footprint(tiny.pipe)
    with pytest.raises(RuntimeError, match="cannot start another run of the model"):
        run(tiny, Nested(tiny))
    assert footprint(tiny.pipe) == before
    other = Nested(tiny_v)
    assert same_run(run(tiny, other)[other].inner, run(tiny_v))


def test_runs_on_one_model_take_turns(tiny):
    expected, results = [run(tiny, seed=seed) for seed in range(4)], {}

    def make(seed):
        torch.set_num_threads(1)
        results[seed] = run(tiny, seen("attention"), seed=seed)

    threads = [threading.Thread(target=make, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same_run(results[seed], expected[seed]) for seed in range(4))


def test_a_denoiser_called_from_within_its_attention_leaves_nothing(tiny):
    class Nested(sdprobe.Observer):
        modules, strict = ("mid_block.*",), False

        def start(self, run):
            self.model, self.done = run.model, False

        def attention(self, attn, site):
            if not self.done:
                self.done = True
                self.model.denoiser(torch.zeros(1, 4, 8, 8), 1, torch.zeros(1, 16, 16))

    before, plain = footprint(tiny.pipe), run(tiny)
    assert same_run(run(tiny, Nested()), plain)
    assert footprint(tiny.pipe) == before
    assert same_run(run(tiny), plain)
