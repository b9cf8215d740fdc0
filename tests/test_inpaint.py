"""`Inpaint`: what is kept is kept, at every step and in the picture; the rest is the run's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import sdprobe
from sdprobe import Inpaint, LatentRecorder
from sdprobe.sampling.add_noise import add_noise
from sdprobe.sampling.encode_decode import decode, encode
from tests.laws.strategies import run, same_run
from tests.parity.test_stable_diffusion import pictures, scheduler_for, schedulers

X0 = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
NOTHING, EVERYTHING = torch.zeros(16, 16, dtype=torch.bool), torch.ones(16, 16, dtype=torch.bool)
masks = st.lists(st.booleans(), min_size=64, max_size=64).map(lambda cells: torch.tensor(cells).reshape(8, 8))


class Pixels(sdprobe.Observer):
    def image(self, x, run):
        self.x = x


def grown(places):
    return places.repeat_interleave(2, 0).repeat_interleave(2, 1)


@pytest.mark.parametrize("name", sorted(set(schedulers()) - {"EDMEulerScheduler"}))
def test_what_is_kept_is_at_every_step_s_own_noise_level(tiny, name):
    """The same as the forward process gives, from the noise of the run's seed."""
    scheduler, recorder, half = scheduler_for(tiny.pipe, name), LatentRecorder(), EVERYTHING.clone()
    half[:, :8] = False
    result = run(tiny, Inpaint(X0, half), recorder, scheduler=scheduler, steps=4, seed=3)
    for index in result[recorder].indices:
        expected = add_noise(tiny, X0, index, steps=4, scheduler=scheduler, seed=3)
        assert torch.equal(result[recorder].at(index)["latents"][..., :4], expected[..., :4])
    assert torch.equal(result.latents[..., :4], X0[..., :4])
    assert not torch.equal(result.latents[..., 4:], X0[..., 4:])


@given(masks)
def test_every_pixel_that_is_kept_is_the_autoencoder_s(tiny, places):
    picture, pixels = pictures((16, 16))[0], Pixels()
    result = run(tiny, Inpaint(picture, grown(places)), pixels, seed=2)
    encoded = encode(tiny, picture)
    kept = ~grown(places)
    assert torch.equal(result[pixels].x[..., kept], decode(tiny, encoded.mean)[..., kept])
    assert torch.equal(result.latents[..., ~places], encoded.mean[..., ~places])


def test_a_place_is_made_anew_if_any_of_its_pixels_is(tiny):
    one, pixels = NOTHING.clone(), Pixels()
    one[5, 9] = True
    result = run(tiny, Inpaint(X0, one), pixels)
    assert (result.latents != X0).any(1)[0].nonzero().tolist() == [[2, 4]]
    assert torch.equal(result[pixels].x[..., ~one], decode(tiny, X0)[..., ~one])


def test_with_nothing_kept_the_run_is_as_without(tiny):
    assert same_run(run(tiny, Inpaint(X0, EVERYTHING)), run(tiny))


def test_with_everything_kept_the_picture_is_the_picture(tiny):
    result = run(tiny, Inpaint(X0, NOTHING))
    assert torch.equal(result.latents, X0)
    assert result.images[0].tobytes() == tiny.pictures(decode(tiny, X0))[0].tobytes()


def test_what_is_filled_in_sees_what_is_kept(tiny):
    """At the edge other things are made beside another picture."""
    half = EVERYTHING.clone()
    half[:, :8] = False
    beside = [run(tiny, Inpaint(x0, half)).latents[..., 4:] for x0 in (X0, X0 + 2)]
    assert not torch.equal(*beside)


def test_pictures_and_masks_of_every_kind(tiny, tmp_path):
    picture, mask = pictures((16, 16))[0], np.zeros((16, 16), dtype=bool)
    mask[4:8] = True
    drawn = Image.fromarray((mask * 255).astype(np.uint8))
    picture.save(tmp_path / "picture.png")
    drawn.save(tmp_path / "mask.png")
    expected = run(tiny, Inpaint(picture, mask))
    pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).permute(2, 0, 1)[None]
    for given_picture, given_mask in (
        (picture, drawn),
        (picture, torch.from_numpy(mask)),
        (tmp_path / "picture.png", str(tmp_path / "mask.png")),
        (picture, drawn.convert("RGB")),
    ):
        assert same_run(run(tiny, Inpaint(given_picture, given_mask)), expected)
    as_tensor = run(tiny, Inpaint(pixels, mask))  # the same numbers in another order of memory
    assert torch.allclose(as_tensor.latents, expected.latents, atol=1e-4)


def test_one_picture_and_mask_for_each_image(tiny):
    both = torch.cat([X0, X0 * 0.5])
    halves = torch.stack([EVERYTHING, EVERYTHING])
    halves[0, :8], halves[1, 8:] = False, False
    result = run(tiny, Inpaint(both, halves), seed=[1, 2], images_per_prompt=2).latents
    for i in range(2):
        alone = run(tiny, Inpaint(both[i : i + 1], halves[i]), seed=[i + 1]).latents[0]
        assert torch.allclose(result[i], alone, atol=1e-4)
        kept = ~halves[i, ::2, ::2]
        assert torch.equal(result[i][:, kept], both[i][:, kept])


def test_it_composes(tiny):
    """With a swapped word it is the run of the other prompt; limited, it lets go."""
    half = EVERYTHING.clone()
    half[:, :8] = False
    inpaint = Inpaint(X0, half)
    swap = sdprobe.ReplaceToken("circle", with_="square")
    assert same_run(run(tiny, swap, inpaint), run(tiny, inpaint, prompt="a red square"))
    recorder = LatentRecorder()
    let_go = run(tiny, sdprobe.only(inpaint, steps=[0, 1]), recorder, steps=4)[recorder]["latents"]
    held = run(tiny, inpaint, recorder, steps=4)[recorder]["latents"]
    assert torch.equal(let_go[:2], held[:2])
    assert not torch.equal(let_go[2:, ..., :4], held[2:, ..., :4])


def test_it_goes_on_in_a_run_that_is_gone_on_from(tiny):
    half = EVERYTHING.clone()
    half[:, :8] = False
    inpaint = Inpaint(X0, half)
    result = run(tiny, inpaint, sdprobe.Checkpoints(), steps=4, scheduler="EulerAncestralDiscrete")
    assert same_run(sdprobe.resume(result, 2, hooks=[inpaint], progress=False), result)


def test_the_heat_map_of_a_word_is_a_mask(embedded):
    maps = sdprobe.AttentionMaps()
    settings = {"steps": 8, "guidance_scale": 5.0, "progress": False}
    before = sdprobe.sample(embedded, "a red circle", hooks=[maps], seed=0, **settings)
    mask = before[maps].heat_map("red").resize((64, 64)).mask()
    pixels = Pixels()
    after = sdprobe.sample(embedded, "a blue circle", hooks=[Inpaint(before.latents, mask), pixels], seed=1, **settings)
    assert torch.equal(after[pixels].x[..., ~mask], decode(embedded, before.latents)[..., ~mask])
    assert not same_run(before, after)


@pytest.mark.parametrize(
    ("picture", "mask", "message"),
    [
        (pictures((32, 16))[0], NOTHING, "the picture is 16×32 px, but the run's are 16×16 px"),
        (X0, NOTHING[:8], "the mask is 8×16 px, but the run's are 16×16 px"),
        (torch.cat([X0] * 3), NOTHING, "3 pictures for 1 images"),
        (X0, torch.stack([NOTHING] * 2), "2 masks for 1 images"),
        (X0, NOTHING.float(), r"a mask is a picture, or booleans .*, not torch.float32 \[16, 16\]"),
    ],
)
def test_errors(tiny, picture, mask, message):
    with pytest.raises(ValueError, match=message):
        run(tiny, Inpaint(picture, mask))
