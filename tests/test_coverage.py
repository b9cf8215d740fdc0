"""What a run says of the places inside the denoiser: asked for, seen, missing and why."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

import sdprobe
from tests.families import flux, stable_diffusion_3
from tests.tiny import stable_diffusion

SETTINGS = {"steps": 2, "height": 16, "width": 16, "seed": 3, "progress": False}


class At(sdprobe.Observer):
    """Attention, or a module's output, at some modules."""

    def __init__(self, *modules: str, strict: bool = True) -> None:
        self.modules, self.strict = modules, strict

    def attention(self, attn, site): ...


class Outputs(sdprobe.Observer):
    def __init__(self, *modules: str) -> None:
        self.modules = modules

    def activation(self, x, site): ...


def lines(run):
    return str(run.coverage).splitlines()


@pytest.mark.parametrize("make", [stable_diffusion, stable_diffusion_3, flux])
def test_every_site_is_either_seen_missed_or_not_asked_for(make):
    model = sdprobe.load(make())
    run = sdprobe.sample(
        model,
        "a star",
        hooks=[At("*blocks.0.attn")] if make is not stable_diffusion else [At("mid_block*")],
        **SETTINGS,
    )
    covered = run.coverage
    own = {name: model.attention_kind(module) for name, module in model.denoiser.named_modules()}
    assert covered.sites == {name: kind for name, kind in own.items() if kind is not None}
    assert covered.asked.items() <= covered.sites.items()
    assert set(covered.asked) == set(covered.seen)
    assert covered.missed == {}
    assert set(covered.seen.values()) == {SETTINGS["steps"]}
    hooks = 1 + len(covered.hooks)
    assert len(lines(run)) == 2 + len(covered.asked) + (covered.asked != covered.sites) + hooks
    for name, kind in covered.asked.items():
        (line,) = (line for line in lines(run) if line.split()[0] == name)
        assert line.split() == [name, kind, "2", "times"]


def test_no_hook_asks_for_anything():
    run = sdprobe.sample(stable_diffusion(), "a star", **SETTINGS)
    assert lines(run)[0] == "0 sites seen, 0 missed"
    assert lines(run)[1:] == [
        f"not asked for: {len(run.coverage.sites) // 2} self, {len(run.coverage.sites) // 2} cross"
    ]


def test_what_could_not_be_seen_is_said_with_its_reason():
    pipe = stable_diffusion()
    pipe.enable_attention_slicing("max")
    run = sdprobe.sample(pipe, "a star", hooks=[At("mid_block*", strict=False)], **SETTINGS)
    assert not run.coverage.seen
    assert set(run.coverage.missed) == set(run.coverage.asked)
    for name in run.coverage.asked:
        (line,) = (line for line in lines(run) if line.startswith(name))
        assert "disable_attention_slicing" in line
    assert all(name in run.coverage._repr_html_() for name in run.coverage.asked)


def test_a_module_that_never_ran_is_said_too():
    """A hook that waits for a module which is no part of a pass would wait for ever."""
    pipe = stable_diffusion()
    pipe.unet.add_module("spare", type(pipe.unet.conv_out)(4, 4, 1))
    run = sdprobe.sample(pipe, "a star", hooks=[Outputs("spare", "conv_out")], **SETTINGS)
    assert run.coverage.seen == {"conv_out (output)": SETTINGS["steps"]}
    assert "did not run" in run.coverage.missed["spare (output)"]
    assert lines(run)[0] == "1 sites seen, 1 missed"


class Twice(AttnProcessor2_0):
    """Attends twice and takes the mean, as an IP-Adapter attends to the text and to a picture."""

    def __call__(self, *args, **kwargs):
        return (super().__call__(*args, **kwargs) + super().__call__(*args, **kwargs)) / 2


class Kinds(sdprobe.Observer):
    """The kind of each attention call at some modules, and what it attends to."""

    def __init__(self, *modules: str) -> None:
        self.modules = modules

    def start(self, run):
        self.seen = []

    def attention(self, attn, site):
        self.seen.append((site.kind, site.attends_to, attn.key.shape[-2]))


def test_every_call_of_a_module_that_attends_twice_is_seen():
    model = sdprobe.load(stable_diffusion())
    model.pipe.unet.set_attn_processor(Twice())
    plain = sdprobe.sample(model, "a star", **SETTINGS)
    run = sdprobe.sample(model, "a star", hooks=[kinds := Kinds("mid_block.*.attn2")], **SETTINGS)
    (name,) = run.coverage.asked
    assert run.coverage.seen == {name: 2 * SETTINGS["steps"]}
    assert not run.coverage.missed
    assert run[kinds].seen == [("cross", "text", 16)] * 2 * SETTINGS["steps"]
    assert torch.equal(run.latents, plain.latents)


def test_a_transform_acts_in_every_call_of_a_module():
    """A module that attends twice and takes the mean is one that attends once, whatever is done to each call."""
    model, hook = sdprobe.load(stable_diffusion()), sdprobe.on("attention", halved, kinds=("cross",))
    once = sdprobe.sample(model, "a star", hooks=[hook], **SETTINGS)
    model.pipe.unet.set_attn_processor(Twice())
    twice = sdprobe.sample(model, "a star", hooks=[hook], **SETTINGS)
    assert torch.allclose(once.latents, twice.latents, atol=1e-5)
    assert not torch.allclose(once.latents, sdprobe.sample(model, "a star", **SETTINGS).latents, atol=1e-3)


def halved(attn):
    return attn.with_value(attn.value / 2)
