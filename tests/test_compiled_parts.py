"""A compiled denoiser runs compiled where no hook looks, and as written where one does; and is compiled afterwards.

The compiler's own rounding is left out: its backend ``"eager"`` runs what it captured with torch's kernels.
"""

from __future__ import annotations

import pytest
import torch

import sdprobe
from tests.families import flux
from tests.tiny import stable_diffusion

SETTINGS = {"steps": 2, "height": 16, "width": 16, "seed": 3, "progress": False}


def whole(pipe):
    name = "unet" if hasattr(pipe, "unet") else "transformer"
    setattr(pipe, name, torch.compile(getattr(pipe, name), backend="eager"))


def in_place(pipe):
    getattr(pipe, "unet", None).compile(backend="eager")


def in_regions(pipe):
    pipe.transformer.compile_repeated_blocks(backend="eager")


def middle(pipe):
    pipe.unet.mid_block = torch.compile(pipe.unet.mid_block, backend="eager")


WAYS = [(stable_diffusion, whole, {""}), (stable_diffusion, in_place, {""}), (stable_diffusion, middle, {"mid_block"})]
WAYS += [(flux, in_regions, {"transformer_blocks.0", "single_transformer_blocks.0"}), (flux, whole, {""})]


class Outputs(sdprobe.Observer):
    def __init__(self, *modules: str) -> None:
        self.modules = modules

    def start(self, run):
        self.seen = []

    def activation(self, x, site):
        self.seen.append(site.name)


class Gradient(sdprobe.Transform):
    needs_grad = True

    def noise_pred(self, x, step):
        (slope,) = torch.autograd.grad(x.square().sum(), step.latents)
        assert slope.abs().sum() > 0
        return x


def stock(pipe):
    pipe.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "latent"}
    return pipe("a star", generator=torch.Generator().manual_seed(3), **settings).images


@pytest.fixture(autouse=True)
def forget_what_was_compiled():
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(("make", "compiled", "parts"), WAYS)
def test_hooks_within_a_compiled_denoiser_act_as_in_one_that_is_not(make, compiled, parts):
    hooks = [sdprobe.AttentionMaps(), Gradient(), sdprobe.on("attention", lambda attn: attn.with_value(attn.value / 2))]
    pipe = make()
    expected = sdprobe.sample(pipe, "a star", hooks=hooks, **SETTINGS)
    plain = sdprobe.sample(pipe, "a star", **SETTINGS)
    compiled(pipe)
    for _ in range(2):  # the second time with what was compiled the first time
        assert torch.equal(sdprobe.sample(pipe, "a star", **SETTINGS).latents, plain.latents)
        run = sdprobe.sample(pipe, "a star", hooks=hooks, **SETTINGS)
        assert torch.equal(run.latents, expected.latents)
        assert torch.equal(run[hooks[0]].heat_map("star").values, expected[hooks[0]].heat_map("star").values)
        assert run.coverage.uncompiled == parts
        assert "ran without torch.compile, since hooks look inside" in str(run.coverage)
        assert run.coverage.seen == expected.coverage.seen


@pytest.mark.parametrize(("make", "compiled", "parts"), WAYS)
def test_attached_to_a_compiled_pipeline(make, compiled, parts):
    pipe = make()
    plain, maps = stock(pipe), sdprobe.AttentionMaps()
    compiled(pipe)
    for hook, looks_inside in ((maps, True), (sdprobe.on("noise_pred", lambda x: x), False)):
        with sdprobe.attach(pipe, [hook]) as run:
            assert torch.equal(stock(pipe), plain)
        assert run.coverage.uncompiled == (parts if looks_inside else set())
        assert run.coverage.hooks[0].total
    assert torch.equal(stock(pipe), plain)


def test_only_the_parts_that_hooks_look_into_run_as_written():
    pipe = flux()
    in_regions(pipe)
    run = sdprobe.sample(pipe, "a star", hooks=[Outputs("transformer_blocks.0.attn.to_q", "x_embedder")], **SETTINGS)
    assert run.coverage.uncompiled == {"transformer_blocks.0"}
    run = sdprobe.sample(pipe, "a star", hooks=[Outputs("x_embedder")], **SETTINGS)
    assert run.coverage.uncompiled == set()
    assert "torch.compile" not in str(run.coverage)


def test_names_are_those_of_the_modules_as_written():
    pipe = stable_diffusion()
    names = set(sdprobe.sample(pipe, "a star", **SETTINGS).coverage.sites)
    middle(pipe)
    whole(pipe)
    hook = Outputs("mid_block", "mid_block.resnets.0")
    run = sdprobe.sample(pipe, "a star", hooks=[hook], **SETTINGS)
    assert set(run.coverage.sites) == names
    assert run[hook].seen == ["mid_block.resnets.0", "mid_block"] * SETTINGS["steps"]


def test_limits_name_modules_as_written():
    pipe = stable_diffusion()
    middle(pipe)
    hook = sdprobe.AttentionMaps()
    run = sdprobe.sample(pipe, "a star", hooks=[sdprobe.only(hook, sites="mid_block.attentions.*")], **SETTINGS)
    assert run.coverage.hooks[0].total == SETTINGS["steps"]


@pytest.mark.parametrize(("make", "compiled", "parts"), WAYS)
def test_after_an_error_it_is_compiled_as_before(make, compiled, parts):
    def fail(attn):
        raise RuntimeError("no")

    pipe = make()
    compiled(pipe)
    network = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    before = [(vars(module).get("forward"), vars(module).get("_compiled_call_impl")) for module in network.modules()]
    for run in (
        lambda: sdprobe.sample(pipe, "a star", hooks=[sdprobe.on("attention", fail)], **SETTINGS),
        lambda: attached(pipe, sdprobe.on("attention", fail)),
    ):
        with pytest.raises(RuntimeError, match="no"):
            run()
        after = [(vars(module).get("forward"), vars(module).get("_compiled_call_impl")) for module in network.modules()]
        assert after == before


def attached(pipe, hook):
    with sdprobe.attach(pipe, [hook]):
        stock(pipe)
