"""Heat maps of every family of videos on planted truth: a chosen token attends to a chosen patch of a chosen frame."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from tests.families import ASKED, FAMILIES
from tests.planted import latents_for
from tests.planted_families import Marked, planted

VIDEOS = [name for name in FAMILIES if "frames" in ASKED.get(name, {})]
CELLS = [(1, 1, 2), (2, 3, 0)]
"""The patch of each video on the grid: its frame, row and column."""


def masks(model: sdprobe.Model, grid: tuple[int, ...]) -> list[torch.Tensor]:
    """The places of the latents that are each video's patch."""
    side = (model.temporal_patch, model.patch, model.patch)
    found = []
    for cell in CELLS:
        mask = torch.zeros(grid, dtype=torch.bool)
        mask[cell] = True
        for axis, times in enumerate(side):
            mask = mask.repeat_interleave(times, axis)
        found.append(mask)
    return found


def marked_run(model: sdprobe.Model, family: str, *hooks: object) -> tuple[sdprobe.Run, list[torch.Tensor]]:
    """A run of two videos, with the truth of each on the grid."""
    settings = {"steps": 2, "guidance_scale": 4.0, "height": 16, "width": 32, "progress": False} | ASKED[family]
    prompt = ["a red circle", "a red circle of a star"]
    height, width, frames = (settings[name] for name in ("height", "width", "frames"))
    factor, patch = model.scale_factor, model.patch
    latent_frames = (frames - 1) // model.temporal_factor + 1
    grid = (latent_frames // model.temporal_patch, height // factor // patch, width // factor // patch)
    mark = Marked(model.read(prompt[0]).positions("circle")[0])
    noise = latents_for(masks(model, grid))
    noise = torch.cat([noise, torch.zeros(2, max(model.channels - 4, 0), *noise.shape[2:])], 1)
    run = sdprobe.sample(model, prompt, hooks=[mark, *hooks], latents=noise, **settings)
    truths = []
    for cell in CELLS:
        truth = torch.zeros(grid, dtype=torch.bool)
        truth[cell] = True
        truths.append(truth)
    return run, truths


@pytest.mark.parametrize("family", VIDEOS)
def test_the_planted_token_s_heat_map_is_the_planted_patch_of_its_frame(family):
    model = planted(FAMILIES[family]())
    maps = sdprobe.AttentionMaps(keep=("layer", "head"))
    run, truths = marked_run(model, family, maps)
    sites = {name for name, kind in run.coverage.sites.items() if kind in ("cross", "joint")}
    assert run.coverage.missed == {}
    assert {key.layer for key in run[maps].sums} == sites == set(run.coverage.seen)
    for video, truth in enumerate(truths):
        for layer in sites:
            values = run[maps].heat_map("circle", image=video, layer=layer).values
            assert values.shape == truth.shape
            assert torch.equal(values > 0.5, truth)
            assert torch.allclose(values, truth.float(), atol=0.1)
            assert run[maps].heat_map("red", image=video, layer=layer).values[truth].max() < 0.1
        frame = CELLS[video][0]
        whole = run[maps].heat_map("circle", image=video)
        assert whole.values.flatten(1).amax(1).argmax() == frame
