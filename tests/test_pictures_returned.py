"""What an unknown pipeline returns: pictures, videos, arrays and latents."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import sdprobe
from sdprobe.core.run import Settings
from sdprobe.stock_pipelines.pictures_returned import pictures_made
from tests.unknown_pipelines import EVERY

PICTURES = [Image.new("RGB", (4, 4), (own, 0, 0)) for own in range(6)]


def settings(images=2, frames=None):
    return Settings(("",), ("",), 1, 1.0, 0, "", 4, 4, images_per_prompt=images, frames=frames)


def test_pictures_and_the_frames_of_videos():
    nested = [PICTURES[:3], PICTURES[3:]]
    assert pictures_made(SimpleNamespace(frames=nested), settings()) == (PICTURES, 3)
    assert pictures_made((nested,), settings(frames=4)) == (PICTURES, 3)
    assert pictures_made(SimpleNamespace(images=PICTURES), settings(6)) == (PICTURES, None)
    assert pictures_made(SimpleNamespace(images=nested), settings()) == ([], None)  # views of things are no videos
    assert pictures_made((np.zeros((2, 3, 4, 4, 3)),), settings(frames=4)) == ([], 3)
    assert pictures_made((np.zeros((2, 4, 4, 3)),), settings()) == ([], None)
    assert pictures_made(None, settings(frames=4)) == ([], 4)
    assert pictures_made(SimpleNamespace(frames=nested), settings(3, frames=4)) == ([], 4)


@pytest.mark.parametrize("output_type", ["pil", "np", "latent"])
def test_a_video_of_an_unknown_pipeline(output_type, tmp_path):
    unknown = EVERY["video"]()
    with sdprobe.attach(unknown.pipe) as run:
        found = unknown.pipe(**unknown.given | {"output_type": output_type}).frames
    assert repr(run).startswith("Run('a red circle', 1 video of 2 frames of 16×16, ")
    assert run.images == (found[0] if output_type == "pil" else [])
    opened = sdprobe.open(run.save(tmp_path))
    assert repr(opened) == repr(run)
    assert len(opened.images) == len(run.images)
    assert opened.settings.frames == 2
