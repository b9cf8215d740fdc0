"""What is measured of a video: all of its frames, where a mask of each says so."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image

import sdprobe
from sdprobe.experiments import Case, cases, experiment
from sdprobe.experiments.measures import (
    Area,
    Heated,
    LatentChange,
    ObjectCount,
    Outside,
    PictureChange,
    PictureSimilarity,
    StructuralSimilarity,
    TextSimilarity,
)
from sdprobe.experiments.measures.frames_of import at_frames, frames_of, groups_of_frames
from sdprobe.experiments.measures.perceptual_distance import distance_by
from tests.families import ASKED, FAMILIES
from tests.pictured import pictured
from tests.videos import settings_of_a_video

CASE = Case("a red circle")
SETTINGS = {"steps": 2, "guidance_scale": 3.0, "progress": False}


def noise(seed):
    return np.random.default_rng(seed).integers(0, 256, (16, 32, 3), dtype=np.uint8)


def as_video(image, seeds):
    run = copy.copy(image)
    run.settings = settings_of_a_video(image.settings, len(seeds))
    run.images = [Image.fromarray(noise(seed)) for seed in seeds]
    return run


@pytest.fixture(scope="module")
def image(embedded):
    return sdprobe.sample(embedded, CASE.prompt, steps=1, seed=0, progress=False)


@pytest.fixture(scope="module")
def videos(image):
    return as_video(image, range(5)), as_video(image, [0, *range(6, 10)])


@pytest.fixture(scope="module")
def frames(image):
    """The frames of both videos, each as the picture of a run of one image."""
    return [(pictured(image, noise(k)), pictured(image, noise(other))) for k, other in enumerate([0, *range(6, 10)])]


def squares(one, other):
    return (one - other).square().mean()


@pytest.mark.parametrize(
    "measure",
    [
        lambda *own: PictureChange()(*own, CASE),
        StructuralSimilarity(),
        lambda run, untouched: TextSimilarity()(run, untouched, CASE),
        PictureSimilarity(),
        lambda *own: distance_by(squares, *own),
    ],
    ids=["picture change", "structural similarity", "text similarity", "picture similarity", "distance"],
)
def test_a_measure_of_pictures_is_the_mean_over_frames(videos, frames, measure):
    of_each = [float(measure(*pair)) for pair in frames]
    assert len({*of_each}) == 5
    assert measure(*videos) == pytest.approx(np.mean(of_each), abs=1e-5)


def test_a_mask_of_each_frame_chooses_there(videos, frames):
    mask = np.random.default_rng(0).random((5, 16, 32)) < 0.3
    parts = [PictureChange(Area(own))(*pair, CASE) for own, pair in zip(mask, frames, strict=True)]
    of_all = PictureChange(Area(mask))(*videos, CASE)
    assert of_all == pytest.approx(np.average(parts, weights=mask.sum((1, 2))))
    inside, outside = (PictureChange(own)(*videos, CASE) for own in (Area(mask), Outside(Area(mask))))
    assert mask.mean() * inside + (1 - mask.mean()) * outside == pytest.approx(PictureChange()(*videos, CASE))
    first = np.zeros((5, 16, 32), bool)
    first[0] = True
    assert PictureChange(Area(first))(*videos, CASE) == 0 < PictureChange(Outside(Area(first)))(*videos, CASE)


def test_a_mask_of_latent_frames_is_that_of_the_frames_decoded_from_them(image, videos):
    video, _ = videos
    mask = torch.rand(3, 8, 16, generator=torch.Generator().manual_seed(0)) > 0.5
    assert torch.equal(at_frames(mask, video), mask[[0, 1, 1, 2, 2]])
    assert torch.equal(at_frames(mask[0], video), mask[0].expand(5, 8, 16))
    assert torch.equal(at_frames(mask[0], image), mask[0])
    assert len(frames_of(image)) == 1
    assert Area(mask).mask(video, video, CASE).shape == (5, 16, 32)
    with pytest.raises(ValueError, match="a map of 6 frames is no map of a video of 5"):
        at_frames(mask[[0] * 6], video)
    with pytest.raises(ValueError, match="9 frames are not decoded from all of 6 latent frames"):
        groups_of_frames(9, 6)  # CogVideoX 1.5 does not decode the first
    with pytest.raises(ValueError, match=r"a mask over an image is \[h, w\], not \[3, 8, 16\]"):
        at_frames(mask, image)


def test_a_run_without_a_picture_and_a_detector_of_objects(image, videos):
    stopped = copy.copy(image)
    stopped.images = []
    with pytest.raises(ValueError, match="has no picture to measure"):
        frames_of(stopped)
    with pytest.raises(ValueError, match="this run is of a video"):
        ObjectCount()(videos[0])


class LaterFrames(sdprobe.Transform):
    """All frames but the first are black."""

    def image(self, x, run):
        changed = x.clone()
        changed.narrow(next(axis for axis, size in enumerate(x.shape) if size == 5), 1, 4).zero_()
        return changed


def test_a_video_whose_first_frame_alone_is_kept_is_changed():
    model, own = sdprobe.load(FAMILIES["LTX-Video"]()), SETTINGS | ASKED["LTX-Video"]
    first = np.zeros((5, 32, 64), bool)
    first[0] = True
    heat = Heated("circle")
    measures = {
        "all": PictureChange(),
        "first": PictureChange(Area(first)),
        "structure": StructuralSimilarity(),
        "heat": PictureChange(heat),
        "latents": LatentChange(),
        "latents of the heat": LatentChange(heat),
        "latents of the first": LatentChange(Area(first)),
        "frames of the heat": lambda run, untouched, case: len(heat.mask(run, untouched, case)),
    }
    conditions = {"black": [LaterFrames()], "weak": [sdprobe.ScalePrompt(0.5)]}
    hooks = [sdprobe.AttentionMaps()]
    result = experiment(model, cases(CASE, seeds=1), conditions, measures, hooks=hooks, batch=1, **own)
    assert not result.failed
    found = {(row["condition"], row["measure"]): row["value"] for row in result.rows}
    assert found["black", "all"] > found["black", "first"] == 0
    assert found["black", "structure"] < 0.5
    assert found["black", "heat"] > 0
    assert found["black", "latents"] == found["black", "latents of the first"] == 0
    assert all(found["weak", name] > 0 for name in ("latents", "latents of the heat", "latents of the first"))
    assert found["black", "frames of the heat"] == 5


def test_latents_are_changed_where_the_mask_is(videos):
    """The latents of a video are ``[channels, frames, h, w]``; of 3 frames, the video has 1 + 2 + 2."""
    drawn = torch.randn(2, 1, 4, 3, 8, 16, generator=torch.Generator().manual_seed(1))
    runs = [copy.copy(own) for own in videos]
    for own, latents in zip(runs, drawn, strict=True):
        own.latents = latents
    mask = torch.rand(5, 16, 32, generator=torch.Generator().manual_seed(2)) > 0.5
    covered = mask.reshape(5, 8, 2, 16, 2).float().mean((2, 4))
    at_latents = torch.stack([covered[:1].mean(0), covered[1:3].mean(0), covered[3:].mean(0)]) >= 0.5
    for within, there in (
        (None, torch.ones(3, 8, 16, dtype=torch.bool)),
        (Area(mask), at_latents),
        (Area(at_latents), at_latents),
        (Area(at_latents[0]), at_latents[:1].expand(3, 8, 16)),
    ):
        expected = (drawn[0] - drawn[1])[0][:, there].square().mean().sqrt() / drawn[1].std(correction=0)
        assert LatentChange(within)(*runs, CASE) == pytest.approx(float(expected), rel=1e-5)
