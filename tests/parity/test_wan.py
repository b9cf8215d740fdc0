"""What is special to Wan: two denoisers, a timestep for each token, latents in float32, a picture beside the text."""

from __future__ import annotations

import pytest
import torch
from diffusers import FirstBlockCacheConfig, FlowMatchEulerDiscreteScheduler

import sdprobe
from sdprobe.experiments.parts_of_model import blocks_of
from sdprobe.stock_pipelines.attach import attach
from tests.parity.test_families import assert_same
from tests.stock_pipelines import FILMED, Stock, called
from tests.tiny_models.wan import wan, wan_image_to_video

USUAL = {"steps": 2, "guidance_scale": 3.0, "seed": 5, "height": 16, "width": 16, "frames": 5}


def sampled(pipe, *hooks, **settings):
    return sdprobe.sample(sdprobe.load(pipe), "a red circle", hooks=hooks, progress=False, **USUAL | settings)


class Sites(sdprobe.Observer):
    """The sites of each step, and what they are told."""

    def __init__(self, *modules: str) -> None:
        self.modules = modules or None

    def start(self, run):
        self.seen = {}

    def attention(self, attn, site):
        self.seen.setdefault(site.index, []).append(site)

    def names(self, index):
        return {site.name for site in self.seen.get(index, ())}


def test_each_step_is_heard_in_the_denoiser_that_runs_there():
    model = sdprobe.load(wan(two=True))
    first, second = (f"{prefix}blocks.0.attn2" for prefix in ("", "transformer_2."))
    assert model.modules[first] is model.pipe.transformer.blocks[0].attn2
    assert model.modules[second] is model.pipe.transformer_2.blocks[0].attn2
    every, lower, activations = Sites(), Sites("transformer_2.*"), sdprobe.Activations("*blocks.0.attn2.to_q")
    run = sampled(model.pipe, every, lower, activations)
    before, after = (run[every].names(index) for index in (0, 1))
    assert {f"transformer_2.{name}" for name in before} == after
    assert (run[lower].names(0), run[lower].names(1)) == (set(), after)
    assert run.coverage.missed == {}
    assert run.coverage.seen[first] == run.coverage.seen[second] == 2  # calls: one for each role
    kept = {key.name for key in run[activations].record.keys}
    assert kept == {f"{first}.to_q", f"{second}.to_q"}


def test_a_denoiser_that_never_runs_is_told():
    pipe = wan(two=True)
    pipe.register_to_config(boundary_ratio=0.1)
    look = Sites("*attn2")
    with pytest.warns(UserWarning, match="never acted"):
        run = sampled(pipe, look, Sites("transformer_2.*attn2"))
    assert run.coverage.missed == {f"transformer_2.blocks.{n}.attn2": "transformer_2 ran in no step" for n in (0, 1)}
    with pytest.raises(ValueError, match="would never act"):
        sampled(pipe, sdprobe.only(Sites("transformer_2.*"), sites="*attn2"))


def test_the_middle_and_the_blocks_are_those_of_both():
    one, two = (sdprobe.load(wan(two=two)) for two in (False, True))
    assert (one.middle, two.middle) == ("blocks.1.*", "*blocks.1.*")
    assert list(blocks_of(one)) == ["blocks.0", "blocks.1"]
    assert list(blocks_of(two))[2:] == ["transformer_2.blocks.0", "transformer_2.blocks.1"]


def test_what_a_hook_changes_in_the_second_denoiser_leaves_the_first_step_alone():
    class Louder(sdprobe.Transform):
        modules = ("transformer_2.blocks.1.attn2",)

        def attention(self, attn, site):
            return attn.with_value(attn.value * 2)

    record = sdprobe.LatentRecorder(keep=("noise_pred",))
    plain, louder = (sampled(wan(two=True), *hooks, record) for hooks in ((), (Louder(),)))
    for index in (0, 1):
        same = torch.equal(*(run[record].at(index)["noise_pred"] for run in (plain, louder)))
        assert same == (index == 0)


def test_the_scale_of_the_second_denoiser():
    assert_same(sdprobe.load(wan(two=True)), prompt="a red circle", **USUAL, guidance_scale_2=1.5)
    with pytest.raises(ValueError, match="second denoiser"):
        sampled(wan(), guidance_scale_2=2.0)


def test_a_timestep_for_each_token():
    assert_same(sdprobe.load(wan(expand_timesteps=True)), prompt="a red circle", **USUAL)


def test_another_scheduler_of_flows():
    pipe = wan()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert_same(sdprobe.load(pipe), prompt="a red circle", **USUAL)


def test_a_cache_of_each_denoiser():
    pipe = wan(two=True)
    for network in (pipe.transformer, pipe.transformer_2):
        network.enable_cache(FirstBlockCacheConfig(threshold=0.5))
    assert_same(sdprobe.load(pipe), prompt="a red circle", **USUAL | {"steps": 4})


def test_latents_are_in_float32_whatever_the_denoiser_computes_in():
    class Types(sdprobe.Observer):
        def start(self, run):
            self.seen = {}

        def latents(self, x, step):
            self.seen["latents"] = x.dtype

        def model_output(self, x, step):
            self.seen["model_output"] = x.dtype

        def sample(self, x, step):
            self.seen["sample"] = x.dtype

    pipe, look, record = wan(), Types(), sdprobe.LatentRecorder()
    pipe.transformer.to(torch.bfloat16)
    expected = called(Stock(pipe, FILMED_ALONE), num_inference_steps=2)
    with attach(pipe, [look, record]) as run:
        assert torch.equal(called(Stock(pipe, FILMED_ALONE), num_inference_steps=2), expected)
    ours = sampled(pipe, look, record, seed=0)
    for one in (run, ours):
        assert one[look].seen == {"latents": torch.float32, "model_output": torch.bfloat16, "sample": torch.float32}
    assert torch.equal(run.latents, ours.latents)
    assert torch.equal(run[record]["latents"], ours[record]["latents"])


FILMED_ALONE = {name: value for name, value in FILMED.items() if name != "image"}


def test_a_picture_is_attended_to_before_the_text():
    stock, look = Stock(wan_image_to_video(), FILMED), Sites("*attn2")
    activations = sdprobe.Activations("*blocks.0", sides="input")
    with attach(stock.pipe, [look, activations]) as run:
        called(stock, num_inference_steps=1)
    calls = [(site.kind, site.attends_to) for site in run[look].seen[0] if site.name == "blocks.0.attn2"]
    assert calls == [("image_prompt", "image prompt 0"), ("cross", "text")] * 2
    by_kind = {site.kind: site for site in run[look].seen[0]}
    assert by_kind["cross"].tokens() == list(range(512))
    assert by_kind["image_prompt"].text is None
    assert by_kind["cross"].grid == by_kind["image_prompt"].grid == (3, 4, 4)


class Streams(sdprobe.Observer):
    """Of each stream of each module: its grid, and how many places are of the video and which are of the text."""

    def __init__(self, *modules: str, sides: str = "output") -> None:
        self.modules, self.sides = modules, (sides,)

    def start(self, run):
        self.seen = {}

    def activation(self, x, site):
        video = len(range(x.shape[1])[site.image]) if x.ndim > 1 else 0
        self.seen[site.name, site.stream] = (site.grid, video, site.text)


def test_streams_of_text_and_video_and_picture_are_told_apart():
    stock = Stock(wan_image_to_video(), FILMED)
    gives = Streams("blocks.0", "blocks.0.attn1.to_q", "blocks.0.attn2.*", "condition_embedder.*")
    takes = Streams("blocks.0", sides="input")
    with attach(stock.pipe, [gives, takes]) as run:
        called(stock, num_inference_steps=1)
    seen, (grid, places), whole = run[gives].seen, ((3, 4, 4), 48), slice(0, 512)
    for name in ("blocks.0", "blocks.0.attn1.to_q", "blocks.0.attn2.to_q"):
        assert seen[name, "hidden"] == (grid, places, None)
    for name in ("blocks.0.attn2.to_k", "blocks.0.attn2.norm_k", "condition_embedder.text_embedder"):
        assert seen[name, "text"] == (None, 0, whole)
    for name in ("blocks.0.attn2.add_k_proj", "blocks.0.attn2.norm_added_k", "condition_embedder.image_embedder"):
        assert seen[name, "image prompt"] == (None, 0, None)
    assert seen["condition_embedder.text_embedder", "text"][2] == whole
    picture = 5  # tokens: of 2 × 2 patches, and one of the whole
    assert run[takes].seen["blocks.0", "text"] == (None, 0, slice(picture, picture + 512))


def test_a_changed_place_of_a_block_s_output_is_that_place_of_the_video():
    class Lifts(sdprobe.Transform):
        """The last block's output at one place of one frame."""

        modules = ("blocks.1",)

        def activation(self, x, site):
            frame, h, w = site.grid
            places = x.unflatten(1, (frame, h, w)).clone()
            places[:, 1, 2, 3] += 10.0
            return places.flatten(1, 3)

    record = sdprobe.LatentRecorder(keep=("noise_pred",))
    plain, lifted = (sampled(wan(), *hooks, record, steps=1) for hooks in ((), (Lifts(),)))
    moved = plain[record].at(0)["noise_pred"] != lifted[record].at(0)["noise_pred"]
    truth = torch.zeros(3, 8, 8, dtype=torch.bool)
    truth[1, 4:6, 6:8] = True
    assert torch.equal(moved.any(1)[0], truth)


def test_image_to_video_with_two_denoisers():
    stock, maps = Stock(wan_image_to_video("2.2"), FILMED), sdprobe.AttentionMaps()
    expected = called(stock, num_inference_steps=2)
    with attach(stock.pipe, [maps]) as run:
        assert torch.equal(called(stock, num_inference_steps=2), expected)
    assert run.latents.shape == (1, 4, 3, 8, 8)
    assert run[maps].heat_map("circle").values.shape == (3, 4, 4)
    with pytest.raises(ValueError, match="attach"):
        sdprobe.sample(sdprobe.load(wan_with_picture_network()), "a star", progress=False, **USUAL)


def wan_with_picture_network():
    pipe = wan()
    pipe.transformer = wan_image_to_video("2.2").transformer
    return pipe


def test_words_stand_where_they_were_written():
    model = sdprobe.load(wan())
    text = "  a   red\n circle"
    prompt = model.read(text)
    assert prompt.text == text
    assert prompt.words.keys() == {"a", "red", "circle"}
    assert all(text[a:b].strip() in ("a", "red", "circle") for a, b in prompt.spans if a < b)
    assert prompt.ids == model.read("a red circle").ids
    assert len(prompt.ids) == 512
    assert model.read("a &amp; star").words.keys() == {"a", "star"}
