"""The streams inside the networks of videos: what is the video's and what the text's, and which place is which."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from tests.families import ASKED, FAMILIES

SETTINGS = {"steps": 2, "guidance_scale": 1.0, "seed": 0, "height": 16, "width": 32, "progress": False}
PLACE = (1, 2, 1)
"""A place of the grid: its frame, row and column."""

STREAMS = {
    "LTX-Video": {
        "transformer_blocks.1": [("hidden", "video")],
        "transformer_blocks.1.attn1.to_k": [("hidden", "video")],
        "transformer_blocks.1.attn2.to_q": [("hidden", "video")],
        "transformer_blocks.1.attn2.to_k": [("text", "text")],
        "transformer_blocks.1.attn2.to_v": [("text", "text")],
        "caption_projection": [("text", "text")],
        "proj_in": [("hidden", "video")],
    },
    "CogVideoX": {
        "transformer_blocks.0": [("image", "video"), ("text", "text")],
        "transformer_blocks.0.attn1": [("image", "video"), ("text", "text")],
        "transformer_blocks.0.attn1.to_q": [("hidden", "both")],
        "transformer_blocks.0.attn1.to_v": [("hidden", "both")],
        "transformer_blocks.0.ff": [("hidden", "both")],
        "patch_embed": [("hidden", "both")],
        "patch_embed.text_proj": [("text", "text")],
        "norm_final": [("image", "video")],
    },
}
STREAMS["HunyuanVideo"] = {
    "x_embedder": [("image", "video")],
    "context_embedder": [("text", "text")],
    "context_embedder.token_refiner.refiner_blocks.0": [("text", "text")],
    "context_embedder.token_refiner.refiner_blocks.0.attn.to_q": [("text", "text")],
    "transformer_blocks.0": [("image", "video"), ("text", "text")],
    "transformer_blocks.0.attn": [("image", "video"), ("text", "text")],
    "transformer_blocks.0.attn.to_k": [("image", "video")],
    "transformer_blocks.0.attn.add_k_proj": [("text", "text")],
    "transformer_blocks.0.ff_context": [("text", "text")],
    "single_transformer_blocks.0": [("image", "video"), ("text", "text")],
    "single_transformer_blocks.0.attn.to_v": [("hidden", "both")],
    "single_transformer_blocks.0.proj_mlp": [("hidden", "both")],
    "proj_out": [("image", "video")],
}
STREAMS["CogVideoX 1.5"] = STREAMS["CogVideoX"] | {"patch_embed.proj": [("image", "video")]}
LAST = {
    "LTX-Video": ("transformer_blocks.1", "hidden"),
    "CogVideoX": ("transformer_blocks.1", "image"),
    "HunyuanVideo": ("single_transformer_blocks.0", "image"),
    "CogVideoX 1.5": ("transformer_blocks.1", "image"),
}


class Look(sdprobe.Observer):
    def __init__(self, *modules):
        self.modules = modules

    def start(self, run):
        self.seen = {}

    def activation(self, x, site):
        if site.step.index:
            return
        video, text = site.image.stop > site.image.start, site.text is not None
        there = {(True, False): "video", (False, True): "text", (True, True): "both"}[video, text]
        if video:
            assert x[:, site.image].shape[1] == torch.tensor(site.grid).prod()
        self.seen.setdefault(site.name, []).append((site.stream, there))
        self.grid = site.grid or getattr(self, "grid", None)


class Change(sdprobe.Transform):
    """Another value at one place of the video."""

    def __init__(self, module, stream):
        self.modules, self.streams = (module,), (stream,)

    def activation(self, x, site):
        new = x.clone()
        new[:, site.image].unflatten(1, site.grid)[:, *PLACE, ::2] += 3
        return new


class Output(sdprobe.Observer):
    def model_output(self, x, step):
        if step.index == 0:
            self.x = x.clone()


@pytest.mark.parametrize("family", STREAMS)
def test_the_streams_of_a_network(family):
    look = Look(*STREAMS[family])
    model = sdprobe.load(FAMILIES[family]())
    run = sdprobe.sample(model, "a red circle", hooks=[look], **SETTINGS | ASKED[family])
    assert run[look].seen == STREAMS[family]
    assert run[look].grid == next(iter(model.grids(run.settings).values()))


@pytest.mark.parametrize("family", STREAMS)
def test_a_change_at_one_place_of_the_last_block_is_a_change_of_that_place_of_the_output(family):
    model = sdprobe.load(FAMILIES[family]())
    outputs = []
    for hooks in ([], [Change(*LAST[family])]):
        run = sdprobe.sample(model, "a red circle", hooks=[*hooks, out := Output()], **SETTINGS | ASKED[family])
        outputs.append(run[out].x)
    changed = (outputs[0] != outputs[1]).any(1)[0]
    expected = torch.zeros_like(changed)
    side = (model.temporal_patch, model.patch, model.patch)
    expected[tuple(slice(at * n, (at + 1) * n) for at, n in zip(PLACE, side, strict=True))] = True
    assert torch.equal(changed, expected)
