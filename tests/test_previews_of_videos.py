"""Image observers on the latents of a video ``[videos, channels, frames, h, w]``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import sdprobe
from sdprobe import LatentRecorder, Preview, Statistics
from sdprobe.runs.export.record_arrays import latent_arrays, preview_arrays, statistics_arrays
from tests.laws.strategies import run
from tests.tiny_models.cogvideox import cogvideox

FRAMES, STEPS = 3, 2


class Told(sdprobe.Observer):
    """Keeps the steps of a run of images, to be told again as those of videos."""

    def start(self, run):
        self.steps = []

    def noise_pred(self, x, step):
        self.steps.append((x, step))


def as_frames(x):
    """``[videos · frames, channels, h, w]`` as ``[videos, channels, frames, h, w]``."""
    return x.unflatten(0, (-1, FRAMES)).movedim(2, 1)


def as_images(x):
    """The other way round."""
    return x.movedim(1, 2).flatten(0, 1)


@pytest.fixture(scope="module")
def seen(tiny):
    """Each observer after a run of six images, and after the same one as two videos of three latent frames."""
    told, given = Told(), (LatentRecorder(keep=("latents", "noise_pred", "denoised")), Statistics(), Preview())
    result = run(tiny, told, *given, images_per_prompt=6, steps=STEPS)
    videos = LatentRecorder(keep=("latents", "noise_pred", "denoised")), Statistics(), Preview()
    for hook in videos:
        hook.start(result)
        for x, step in result[told].steps:
            rows = tuple(row for row in step.rows if row.image < 2)
            place = replace(
                step,
                latents=as_frames(step.latents),
                model_output=as_frames(step.model_output),
                rows=rows,
                to_denoised=lambda x, x_t, own=step.to_denoised: as_frames(own(as_images(x), as_images(x_t))),
            )
            hook.noise_pred(as_frames(x), place)
        if hasattr(hook, "final_latents"):
            hook.final_latents(as_frames(result.latents), result)
        hook.finish(result)
    return [result[own] for own in given], videos, result


def test_recorded_latents_have_their_frames(seen):
    (images, *_), (videos, *_), _ = seen
    for name in ("latents", "noise_pred", "denoised"):
        assert torch.equal(videos[name], torch.stack([as_frames(x) for x in images[name]]))
    assert torch.equal(videos.final, as_frames(images.final))
    array = next(iter(latent_arrays(videos, {})))
    assert array.dims == ("step", "image", "channel", "frame_latents", "y_latents", "x_latents")


def test_statistics_are_over_all_frames(seen):
    (images, *_), (_, videos, _), _ = seen
    recorded = seen[0][0]["latents"]
    for step in range(STEPS):
        flat = as_frames(recorded[step]).flatten(1)
        assert torch.allclose(videos["latents"].norm[step], flat.norm(dim=1))
        assert torch.allclose(videos["latents"].mean[step], flat.mean(1), atol=1e-6)
    assert videos.cosine.shape == (STEPS, 2)
    assert len(list(statistics_arrays(videos, {}))) == 10
    assert images.indices == videos.indices


def test_previews_are_those_of_the_images_video_by_video(seen):
    (*_, images), (*_, videos), _ = seen
    assert (images.frames, videos.frames) == (1, FRAMES)
    for name in ("latents", "denoised"):
        for step in range(STEPS):
            own, other = images[name][step], videos[name][step]
            assert [a.tobytes() for a in own] == [b.tobytes() for b in other]
            assert videos.of_image(other, 1) == other[3:]
    arrays = {array.name: array for array in preview_arrays(videos, {})}
    assert arrays["preview_denoised"].values.shape[:3] == (STEPS, 2, FRAMES)
    assert arrays["preview_denoised"].dims[2] == "frame_preview"


def test_previews_come_back_from_their_records(seen):
    *_, videos = seen[1]
    again = Preview()
    again.restore(videos.records(), seen[2])
    assert again.frames == FRAMES
    assert [own.tobytes() for own in again.final] == [own.tobytes() for own in videos.final]


def test_a_film_shows_the_frames_side_by_side(seen, tmp_path):
    *_, videos = seen[1]
    film = sdprobe.film(videos, image=1)
    assert film.steps == tuple(range(STEPS))
    w, h = videos.final[0].size
    shown = film.denoised[0]
    assert shown.size == (2 * w, 2 * h)  # three frames in two columns
    third = shown.crop((0, h, w, 2 * h))
    assert third.tobytes() == videos["denoised"][0][5].tobytes()
    assert np.asarray(shown)[h:, w:].min() == 255
    with Image.open(film.gif(tmp_path / "x0.gif", height=64)) as opened:
        assert opened.n_frames == STEPS + 1
    with pytest.raises(ValueError, match="image 2 is not in this run of 2 images"):
        sdprobe.film(videos, image=2)


@pytest.mark.parametrize("in_pairs", [False, True])
def test_the_last_preview_of_cogvideox_is_the_video(in_pairs):
    """It makes more latents than it decodes, and how many of them is in the run's settings."""
    settings = {"frames": 5, "height": 16, "width": 24, "steps": 1, "seed": 0, "progress": False}
    preview = Preview("vae", keep=())
    result = sdprobe.sample(cogvideox(in_pairs=in_pairs), "a red star", hooks=[preview], **settings)
    assert [own.tobytes() for own in result[preview].final] == [own.tobytes() for own in result.images]
