"""The frames of a video: how many a run says it has, of which latent frame each is, and those of some of its videos."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import sdprobe
from sdprobe import AttentionMaps, Transform, only
from sdprobe.plot.frame_groups import frame_groups
from tests.families import ASKED, FAMILIES

VIDEOS = ("LTX-Video", "CogVideoX", "CogVideoX 1.5", "HunyuanVideo", "Wan 2.1")


@pytest.fixture(scope="module")
def models():
    made = {}

    def model_of(family):
        if family not in made:
            made[family] = sdprobe.load(FAMILIES[family]())
            made[family].pipe.set_progress_bar_config(disable=True)
        return made[family]

    return model_of


def size_of(family):
    return {name: ASKED[family][name] for name in ("height", "width")}


def sampled(model, family, *hooks, **asked):
    given = {"prompt": "a star", "steps": 2, "seed": 0} | size_of(family) | asked
    return sdprobe.sample(model, hooks=hooks, progress=False, **given)


def answers_of(folder):
    own = sdprobe.open(folder)
    return own.settings.frames, [np.asarray(picture).tolist() for picture in own.images]


@pytest.mark.parametrize("family", VIDEOS)
def test_a_run_says_how_many_frames_were_made(models, family, tmp_path):
    model = models(family)
    for asked in (2, 3, 6, 8):
        with sdprobe.attach(model.pipe) as run:
            found = model.pipe("a star", num_frames=asked, num_inference_steps=2, **size_of(family)).frames
        assert run.settings.frames == len(run.images) == len(found[0])
        assert run.settings.said["size"].startswith(f"{len(found[0])} frames of ")
        opened = sdprobe.open(run.save(tmp_path / str(asked)))
        assert repr(opened) == repr(run)
        assert [own.tobytes() for own in opened.images] == [own.tobytes() for own in run.images]
        assert model.latent_shape(run.settings) == tuple(run.latents.shape[2:])


@pytest.mark.parametrize(("family", "asked", "made"), [("CogVideoX", 3, 4), ("CogVideoX 1.5", 7, 8)])
def test_as_many_can_be_asked_for_as_were_made(models, family, asked, made):
    first = sampled(models(family), family, frames=asked)
    again = sampled(models(family), family, frames=made)
    assert first.settings == again.settings
    assert first.settings.frames == len(first.images) == made
    assert torch.equal(first.latents, again.latents)
    with pytest.raises(ValueError, match="frames is 1 more than a multiple of 2, such as 5 or 9, not 6"):
        sampled(models(family), family, frames=6)


def test_a_folder_that_says_how_many_were_asked_for_is_read(models, tmp_path):
    run = sampled(models("CogVideoX"), "CogVideoX", frames=3)
    before = answers_of(run.save(tmp_path))
    content = json.loads((tmp_path / "run.json").read_text())
    content["settings"]["frames"] = 3
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert answers_of(tmp_path) == before
    content["settings"] |= {"prompt": ["a star"] * 3, "negative_prompt": [""] * 3}
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="says that 4 images were saved, of a run of 9"):
        _ = sdprobe.open(tmp_path).images


def test_latents_that_are_given_say_how_many_there_are(models):
    pipe = models("CogVideoX 1.5").pipe
    given = torch.randn(1, 4, 4, 8, 12)
    for asked in (5, 7):  # of three latent frames, one more is put before the first, and not decoded
        with sdprobe.attach(pipe) as run:
            size = {"height": 16, "width": 24, "num_frames": asked}
            found = pipe("a star", latents=given, num_inference_steps=2, **size).frames
        assert run.settings.frames == len(run.images) == len(found[0])


class Reversed(Transform):
    """Latents with the other sign, from a latent frame on."""

    def __init__(self, first):
        self.first = first

    def final_latents(self, x, run):
        return torch.cat([x[:, :, : self.first], -x[:, :, self.first :]], dim=2)


@pytest.mark.parametrize(
    ("family", "asked"),
    [("Wan 2.1", 5), ("CogVideoX", 5), ("CogVideoX", 7), ("CogVideoX 1.5", 5), ("CogVideoX 1.5", 7)],
)
def test_the_groups_of_frames_are_those_that_the_decoder_makes(models, family, asked):
    model = models(family)
    plain = sampled(model, family, frames=asked)
    tokens = plain.latents.shape[2] // model.temporal_patch
    groups = frame_groups(len(plain.images), tokens)
    for token in range(1, tokens):
        other = sampled(model, family, Reversed(token * model.temporal_patch), frames=asked)
        pairs = zip(plain.images, other.images, strict=True)
        changes = np.array([np.abs(np.asarray(a, float) - np.asarray(b, float)).mean() for a, b in pairs])
        # Norms over a group of frames let a little of a change into the frames before it.
        assert int((changes > 0.1 * changes.max()).argmax()) == groups.index(token)


def test_a_hook_on_one_of_two_videos_has_its_frames(models, tmp_path):
    maps = only(AttentionMaps(), rows=[1])
    run = sampled(models("Wan 2.1"), "Wan 2.1", maps, frames=5, prompt=["a circle", "a star"], seed=[0, 1])
    opened = sdprobe.open(run.save(tmp_path))
    alone = sampled(models("Wan 2.1"), "Wan 2.1", hook := AttentionMaps(), frames=5, seed=1)[hook].heat_map("star")
    for own in (run[maps], opened["attention-maps"]):
        heat = own.heat_map("star")
        assert [picture.tobytes() for picture in heat.pictures] == [picture.tobytes() for picture in run.videos[1]]
        assert torch.allclose(heat.values, alone.values, atol=1e-5)
