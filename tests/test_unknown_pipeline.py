"""`attach` to pipelines that no family knows: pictures, video, sound, 3-D, and a pipeline of one's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest
import torch
from torch import nn

import sdprobe
from sdprobe.core.hook import POINTS
from sdprobe.testing import footprint
from tests.unknown_pipelines import EVERY, STEPS, Unknown, attached, unconditional

pytestmark = pytest.mark.filterwarnings("ignore:Should have:UserWarning")  # of torchsde, at the ends of its interval


@pytest.fixture(scope="module", params=EVERY)
def unknown(request) -> Unknown:
    return EVERY[request.param]()


@pytest.fixture(scope="module")
def ddpm() -> Unknown:
    return unconditional()


def looked_at(unknown: Unknown) -> nn.Module:
    """The module to look at."""
    return unknown.network.get_submodule(unknown.module.removeprefix(f"{unknown.part}."))


def traces(pipe: Any) -> dict[str, Any]:
    """The footprint, of the scheduler without its state, which a call changes and an error leaves as it was then."""
    scheduler = pipe.scheduler
    return footprint(pipe) | {"scheduler": (id(scheduler), type(scheduler), sorted(vars(scheduler)))}


@contextmanager
def patched(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """While this is open, a method is another one, made of the stock one: as somebody without sdprobe would do it."""
    stock = getattr(owner, name)
    setattr(owner, name, make(stock))
    try:
        yield
    finally:
        delattr(owner, name)


def steps_seen(unknown: Unknown) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What the scheduler is given in a plain call: the output, and the latents."""
    outputs, latents = [], []

    def make(stock):
        @wraps(stock)  # pipelines read the signature
        def step(*args, **kwargs):
            given = inspect.signature(stock).bind(*args, **kwargs).arguments
            outputs.append(given["model_output"].clone())
            latents.append(given["sample"].clone())
            return stock(*args, **kwargs)

        return step

    with patched(unknown.pipe.scheduler, "step", make):
        unknown()
    return outputs, latents


class Keeps(sdprobe.Observer):
    """Keeps what passes latents and noise_pred."""

    def start(self, run):
        self.x, self.predicted = [], []

    def latents(self, x, step):
        self.x.append(x.clone())

    def noise_pred(self, x, step):
        self.predicted.append(x.clone())


# The same pipeline.


def test_without_hooks_it_is_the_stock_pipeline_and_so_it_is_while_others_look(unknown):
    plain, before = unknown(), traces(unknown.pipe)
    assert torch.equal(attached(unknown)[1], plain)
    every = [sdprobe.watch(point, lambda x, place: None) for point in ("latents", "attention", "noise_pred")]
    same = [sdprobe.on(point, lambda x: x) for point in ("latents", "attention", "noise_pred")]
    both = [make("activation", lambda x: x, modules="*") for make in (sdprobe.on,)]
    run, found = attached(unknown, *every, *same, *both, sdprobe.watch("final_latents", lambda x, run: None))
    assert torch.equal(found, plain)
    assert traces(unknown.pipe) == before
    assert all(own.total for own in run.coverage.hooks)


def test_a_module_gives_what_a_plain_forward_hook_is_given(unknown):
    kept = []
    handle = looked_at(unknown).register_forward_hook(lambda module, args, output: kept.append(output.clone()))
    unknown()
    handle.remove()
    activations = sdprobe.Activations(unknown.module)
    run, _ = attached(unknown, activations)
    assert len(kept) >= 2
    assert torch.equal(run[activations][unknown.module].flatten(0, 1), torch.cat(kept))


def test_latents_and_noise_pred_are_what_the_scheduler_is_given(unknown):
    outputs, latents = steps_seen(unknown)
    keeps, recorder = Keeps(), sdprobe.LatentRecorder(keep=("latents", "noise_pred"))
    run, _ = attached(unknown, keeps, recorder)
    assert len(run[keeps].x) == len(latents) >= STEPS
    for ours, theirs in zip(run[keeps].x, latents, strict=True):
        assert torch.equal(ours.flatten(), theirs.flatten())  # one pipeline gives its latents another form meanwhile
    assert torch.equal(torch.stack(run[keeps].predicted), torch.stack(outputs))
    assert torch.equal(run[recorder]["latents"], torch.stack(latents))
    assert torch.equal(run[recorder]["noise_pred"], torch.stack(outputs))
    assert run[recorder].final.isfinite().all()
    assert torch.equal(run[recorder].final, run.latents)


# Transforms.


def test_a_change_of_noise_pred_is_that_of_a_patched_scheduler(unknown):
    def make(stock):
        @wraps(stock)  # pipelines read the signature
        def step(*args, **kwargs):
            given = inspect.signature(stock).bind(*args, **kwargs)
            given.arguments["model_output"] = given.arguments["model_output"] * 0.5
            return stock(*given.args, **given.kwargs)

        return step

    with patched(unknown.pipe.scheduler, "step", make):
        theirs = unknown()
    ours = attached(unknown, sdprobe.on("noise_pred", lambda x: x * 0.5))[1]
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, unknown())


def test_a_change_of_latents_is_that_of_a_patched_pipeline(two):
    class Scaled(type(two.pipe)):
        def prepare_latents(self, *args, **kwargs):
            return super().prepare_latents(*args, **kwargs) * 0.9

    def make(stock):
        def step(output, timestep, x, **kwargs):
            made = stock(output, timestep, x, **kwargs)
            return (made[0] * (0.9 if timestep > 0 else 1.0),)

        return step

    by_hand = two._replace(pipe=Scaled(**two.pipe.components))
    with patched(by_hand.pipe.scheduler, "step", make):
        theirs = by_hand()
    assert torch.equal(attached(two, sdprobe.on("latents", lambda x: x * 0.9))[1], theirs)


@pytest.mark.parametrize("name", ["picture", "video", "sound", "3-D"])
def test_a_change_of_the_first_latents_is_that_of_other_latents(name):
    unknown = EVERY[name]()
    keeps = Keeps()
    first = attached(unknown, keeps)[0][keeps].x[0]
    change = sdprobe.only(sdprobe.on("latents", lambda x: x * 0.5), steps=0)
    changed = Keeps()
    run, found = attached(unknown, change, changed)
    assert torch.equal(run[changed].x[0], first * 0.5)
    assert not torch.equal(found, unknown())
    if name == "picture":  # the others scale what they are given, or take it in another form
        assert torch.equal(found, unknown(latents=first * 0.5))


def test_a_change_inside_the_network_is_that_of_a_forward_hook(unknown):
    handle = looked_at(unknown).register_forward_hook(lambda module, args, output: output * 1.5)
    theirs = unknown()
    handle.remove()
    assert torch.equal(
        attached(unknown, sdprobe.on("activation", lambda x: x * 1.5, modules=unknown.module))[1], theirs
    )


def test_attention_can_be_replaced(unknown):
    run, found = attached(unknown, sdprobe.on("attention", lambda attn: attn.with_value(attn.value * 2)))
    assert not torch.equal(found, unknown())
    assert set(run.coverage.seen) == {own for kinds in run.model.kinds_of.values() for own in kinds}
    uniform = sdprobe.on("attention", lambda attn: attn.with_probs(torch.ones_like(attn.probs()) / attn.key.shape[2]))
    assert attached(unknown, uniform)[1].isfinite().all()


def test_the_first_latents_of_a_pipeline_that_prepares_none_are_seen_late_and_not_changed(ddpm):
    change = sdprobe.on("latents", lambda x: x * 0.9)
    with pytest.raises(RuntimeError, match=r"latents of step 0 are first seen when the scheduler.*steps=lambda"):
        attached(ddpm, change)
    run, found = attached(ddpm, sdprobe.only(change, steps=lambda step: step.index > 0), Keeps())
    assert not torch.equal(found, ddpm())
    assert "the latents of step 0 before the networks are called with them" in run.coverage.unknown


def test_latents_that_a_callback_changes_are_said_and_refused_to_transforms(kandinsky):
    def callback(pipe, index, timestep, values):
        return {"latents": values["latents"] * 0.5} if index == 0 else values

    run, found = attached(kandinsky, Keeps(), callback_on_step_end=callback)
    assert torch.equal(found, kandinsky(callback_on_step_end=callback))
    assert any("the latents of step 1: those that the scheduler was given" in own for own in run.coverage.unknown)
    with pytest.raises(RuntimeError, match="latents of step 1 are not those that a transform"):
        attached(kandinsky, sdprobe.on("latents", lambda x: x * 0.9), callback_on_step_end=callback)


def test_what_a_callback_calls_is_not_heard(kandinsky):
    def callback(pipe, index, timestep, values):
        embeds = kandinsky.given["image_embeds"]
        pipe.unet(values["latents"], timestep, None, added_cond_kwargs={"image_embeds": embeds})
        return {}

    plain, asked = (
        attached(kandinsky, sdprobe.Activations("mid_block"), **own)[0]
        for own in ({}, {"callback_on_step_end": callback})
    )
    assert plain.coverage.seen == asked.coverage.seen


# What cannot be had.


@pytest.mark.parametrize("point", sorted({*POINTS} - {"latents", "attention", "activation", "noise_pred"}))
def test_points_that_there_are_not_are_refused_before_anything_runs(kandinsky, point):
    with pytest.raises(
        ValueError, match=rf"{point}, which cannot be had in KandinskyV22Pipeline.*: attention, activation"
    ):
        attached(kandinsky, sdprobe.on(point, lambda x: x))


def test_an_observer_is_called_where_there_is_a_point_and_what_it_does_without_is_said(kandinsky):
    class Several(sdprobe.Observer):
        def model_output(self, x, step): ...
        def noise_pred(self, x, step): ...

    run, _ = attached(kandinsky, several := Several())
    assert [own.calls for own in run.coverage.hooks] == [{"model_output": 0, "noise_pred": STEPS}]
    assert f"{several!r} is not called at model_output" in run.coverage.unknown
    with pytest.raises(ValueError, match="acts at final_latents"):
        attached(kandinsky, sdprobe.on("final_latents", lambda x: x))


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda x, step: step.predict(x), "step.predict cannot be had"),
        (lambda x, step: step.leave_out("unlabelled"), "step.leave_out cannot be had"),
        (lambda x, step: step.state(), "step.state cannot be had"),
        (lambda x, step: step.stop(), "KandinskyV22Pipeline has none"),
        (lambda x, step: step.run.model.guide(x, (), 1.0), "no family knows KandinskyV22Pipeline, so its 'guide'"),
        (
            lambda x, step: step.run.prompt_of(0).positions("red"),
            "no family knows this pipeline, so which of its tokens",
        ),
    ],
    ids=["predict", "leave_out", "state", "stop", "model", "words"],
)
def test_what_a_step_cannot_do_it_says(kandinsky, ask, said):
    with pytest.raises((RuntimeError, AttributeError, KeyError), match=said):
        attached(kandinsky, sdprobe.watch("latents", ask))


def test_a_pipeline_that_can_be_interrupted_is_stopped(latte):
    def stop(x, step):
        if step.index == 1:
            step.stop()

    run, _ = attached(latte, watch := sdprobe.watch("noise_pred", stop))
    assert run.stopped_at == 1
    assert run.coverage.hooks[0].total == 2, watch


def test_gradients_are_refused(kandinsky):
    class Wants(sdprobe.Transform):
        needs_grad = True

        def noise_pred(self, x, step):
            return x

    with pytest.raises(ValueError, match="needs gradients"):
        attached(kandinsky, Wants())


def test_after_an_error_the_pipeline_is_as_it_was(unknown):
    plain, before = unknown(), traces(unknown.pipe)
    for point, more in (
        ("latents", {}),
        ("attention", {}),
        ("activation", {"modules": unknown.module}),
        ("noise_pred", {}),
    ):
        with pytest.raises(ZeroDivisionError):
            attached(unknown, sdprobe.watch(point, lambda x: 1 / 0, **more))
        assert traces(unknown.pipe) == before
    assert torch.equal(unknown(), plain)


def test_a_second_call_is_refused(two):
    with sdprobe.attach(two.pipe):
        two()
        with pytest.raises(RuntimeError, match="a second time"):
            two()


def test_x0_is_predicted_where_the_scheduler_tells_enough(ddpm):
    recorder = sdprobe.LatentRecorder(keep=("latents", "noise_pred", "denoised"))
    run, _ = attached(ddpm, recorder, "statistics")
    signal, noise = (torch.tensor([own[k] for own in run.levels[:-1]]).view(-1, 1, 1, 1, 1) for k in (2, 3))
    x0 = (run[recorder]["latents"] - noise * run[recorder]["noise_pred"]) / signal
    assert torch.allclose(run[recorder]["denoised"], x0.clamp(-1, 1), atol=1e-4)


# What is said.


def test_what_is_not_known_reads_so(two, latte, reopened):
    run, _ = attached(two, acts := sdprobe.Activations("mid_block"))
    assert repr(run) == "Run('', 2 outputs of size not known, steps not known, guidance not known, seed 1)"
    assert "height=not known" in repr(run.settings)
    assert str(run.coverage).splitlines()[-1].startswith("not known of this pipeline: which rows are which; ")
    assert repr(run.model) == "UnknownPipeline(TwoNetworks, unet and unet_2 0.1 M parameters)"
    again = reopened(run)
    assert repr(again) == repr(run)
    assert again.settings == run.settings
    assert again.coverage.unknown == run.coverage.unknown
    assert again.prompts == run.prompts
    assert torch.equal(again[acts]["mid_block"], run[acts]["mid_block"])
    run, _ = attached(latte)
    assert (
        repr(run) == "Run('a red circle', 1 video of 2 frames of 16×16, 3 steps of DDIMScheduler, guidance 7.5, seed 1)"
    )
    assert reopened(run).prompts == run.prompts


def test_a_report_says_what_is_not_known(two, tmp_path):
    run, _ = attached(two, sdprobe.Activations("mid_block"))
    page = run.report(tmp_path / "run.html").read_text()
    assert "a size not known" in page
    assert "which no family knows" in page
