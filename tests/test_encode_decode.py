"""The autoencoder by itself: its distribution, its sizes, and the way back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import sdprobe
from sdprobe.sampling.encode_decode import decode, encode, psnr, sizes
from sdprobe.shapes import scene
from sdprobe.testing import footprint
from tests.laws.strategies import run
from tests.tiny import stable_diffusion


def pixels(height=16, width=16, count=1, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def eightfold():
    """An autoencoder of Stable Diffusion's factor."""
    pipe = stable_diffusion()
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(4,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=2,
        mid_block_add_attention=False,
    )
    return sdprobe.load(type(pipe)(**{**pipe.components, "vae": vae}, requires_safety_checker=False))


def test_the_distribution_is_the_autoencoder_s(tiny):
    x = pixels(count=2)
    with torch.no_grad():
        own = tiny.pipe.vae.encode(2 * x - 1).latent_dist
    encoded, scale = encode(tiny, x), tiny.pipe.vae.config.scaling_factor
    assert torch.equal(encoded.mean, own.mean * scale)
    assert torch.equal(encoded.std, own.std * scale)
    assert torch.equal(encoded.sample(seed=3), own.sample(torch.Generator().manual_seed(3)) * scale)
    assert torch.allclose(encoded.pixels, x, atol=1e-6)


def test_a_seed_for_each_picture(tiny):
    both, second = encode(tiny, pixels(count=2)), encode(tiny, pixels(count=2)[1:])
    drawn = both.sample(seed=[4, 9])
    assert torch.allclose(drawn[1:], second.sample(seed=9), atol=1e-6)
    assert not torch.equal(drawn, both.sample(seed=[4, 8]))


def test_decoding_is_the_end_of_a_run(tiny):
    result = run(tiny, prompt=["a star", "a ring"])
    assert [i.tobytes() for i in tiny.pictures(decode(tiny, result.latents))] == [i.tobytes() for i in result.images]
    assert torch.equal(decode(tiny.pipe, result.latents), decode(tiny, result.latents))


@given(height=st.integers(2, 41), width=st.integers(2, 41))
def test_any_size(tiny, height, width):
    """What is said of a size is what comes of a picture of it, odd ones included."""
    said, encoded = sizes(tiny, height, width), encode(tiny, pixels(height, width))
    assert tuple(encoded.mean.shape[1:]) == said.latents
    assert tuple(decode(tiny, encoded.mean).shape[2:]) == said.decoded
    with torch.no_grad():  # the network alone comes to the same size, with no one to bring the sides down before
        alone = tiny.pipe.vae.encode(2 * pixels(height, width) - 1).latent_dist.mean
    assert alone.shape == encoded.mean.shape


def test_300_pixels(eightfold):
    said = sizes(eightfold, 300, 300)
    assert (said.latents, said.decoded, said.compression) == ((4, 37, 37), (296, 296), 48.0)
    assert str(said) == "300×300 px → 4×37×37 latents → 296×296 px, 48 numbers in one"
    encoded = encode(eightfold, Image.new("RGB", (300, 300)))
    assert tuple(encoded.mean.shape[1:]) == said.latents
    assert tuple(decode(eightfold, encoded.mean).shape[2:]) == said.decoded


@given(height=st.integers(8, 4000), width=st.integers(8, 4000))
def test_the_arithmetic_of_sizes(eightfold, height, width):
    said = sizes(eightfold, height, width)
    assert all(0 <= given - back < 8 for given, back in zip(said.picture, said.decoded, strict=True))
    assert said.decoded == tuple(8 * side for side in said.latents[1:])
    assert said.compression == 48
    assert sizes(eightfold, *said.decoded).latents == said.latents


@pytest.mark.parametrize("as_what", ["PIL", "list", "array", "tensor", "grey", "with transparency"])
def test_what_counts_as_a_picture(tiny, as_what):
    array = np.full((16, 16, 3), 100, dtype=np.uint8)
    array[4:9] = 30
    picture = Image.fromarray(array)
    given = {
        "PIL": picture,
        "list": [picture],
        "array": array,
        "tensor": torch.from_numpy(array).permute(2, 0, 1) / 255,
        "grey": picture.convert("L"),
        "with transparency": picture.convert("RGBA"),
    }[as_what]
    assert torch.allclose(encode(tiny, given).mean, encode(tiny, picture).mean, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (pixels() * 255, r"in \[0, 1\]; this one goes from"),
        (pixels() - 0.5, r"in \[0, 1\]; this one goes from"),
        (torch.zeros(1, 4, 8, 8), r"is \[images, 3, height, width\] of floats, not \(1, 4, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "of floats"),
        (np.zeros((16, 16, 3)), "not ndarray"),
        ("picture.png", "not str"),
        (None, "not NoneType"),
        ([], "not list"),
        ([Image.new("RGB", (16, 16)), Image.new("RGB", (18, 16))], "have one size; these have 16×16, 16×18"),
        (Image.new("RGB", (1, 16)), "16×1 px is too small: each side is 2 px or more"),
    ],
)
def test_what_does_not(tiny, given, complaint):
    before = footprint(tiny.pipe)
    with pytest.raises(ValueError, match=complaint):
        encode(tiny, given)
    assert footprint(tiny.pipe) == before


def test_at_another_size(tiny):
    picture = Image.radial_gradient("L").resize((30, 20))
    encoded = encode(tiny, picture, height=17, width=12)
    assert encoded.pixels.shape == (1, 3, 16, 12)
    assert torch.equal(encoded.mean, encode(tiny, picture.convert("RGB").resize((12, 16), Image.LANCZOS)).mean)
    with pytest.raises(ValueError, match="20×1 px is too small"):
        encode(tiny, picture, width=1)


def test_refused(tiny):
    with pytest.raises(ValueError, match="1×9 px is too small"):
        sizes(tiny, 1, 9)
    with pytest.raises(ValueError, match=r"latents are \[images, 4, h, w\], not \(1, 3, 8, 8\)"):
        decode(tiny, torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"one shape, not \(1, 3, 4, 4\) and \(1, 3, 4, 6\)"):
        psnr(pixels(4, 4), pixels(4, 6))


def test_a_hook_cannot_decode_with_the_model_it_is_attached_to(tiny):
    class Decode(sdprobe.Observer):
        def latents(self, x, step):
            decode(tiny, x)

    with pytest.raises(RuntimeError, match="under way in this very thread"):
        run(tiny, Decode())
    assert decode(tiny, torch.zeros(1, 4, 8, 8)).shape == (1, 3, 16, 16)


def test_tiled_decoding_is_diffusers_own():
    model = sdprobe.load(stable_diffusion())
    latents = torch.randn(1, 4, 24, 24, generator=torch.Generator().manual_seed(0))
    whole, vae = decode(model, latents), model.pipe.vae
    vae.enable_tiling()
    with torch.no_grad():
        own = vae.tiled_decode(latents / vae.config.scaling_factor).sample
    tiled = decode(model, latents)
    assert torch.equal(tiled, (own / 2 + 0.5).clamp(0, 1))
    assert not torch.equal(tiled, whole)


def test_psnr_is_its_formula():
    a, b = pixels(count=2), pixels(count=2, seed=1)
    expected = [10 * math.log10(1 / float(((x - y) ** 2).mean())) for x, y in zip(a.double(), b.double(), strict=True)]
    assert psnr(a, b).tolist() == pytest.approx(expected)
    assert psnr(a, a).tolist() == [math.inf] * 2
    picture = Image.fromarray((a[0].permute(1, 2, 0) * 255).round().byte().numpy())
    assert psnr(picture, a[0]) > 10 * math.log10(12 * 255**2)  # at most what rounding to bytes loses


def test_the_embedded_model_s_round_trip(embedded):
    """Pictures of its world come back; noise, which it was not made for, does not."""
    pictures = [Image.fromarray(scene(seed).image) for seed in range(100, 108)]
    encoded = encode(embedded, pictures)
    back = psnr(decode(embedded, encoded.mean), encoded.pixels)
    assert back.min() > 25
    drawn = psnr(decode(embedded, encoded.sample(seed=0)), encoded.pixels)
    assert torch.allclose(drawn, back, atol=3)  # the spread is small
    noise = encode(embedded, pixels(64, 64))
    assert psnr(decode(embedded, noise.mean), noise.pixels) < back.min() - 5
    assert 0.7 < encoded.mean.std() < 1.4  # the scale makes latents of about unit variance


def test_the_figure_of_channels(tiny):
    encoded = encode(tiny, pixels(count=2))
    figure = encoded.channels(image=1)
    drawn = [ax.get_images()[0].get_array() for ax in figure.axes if ax.get_images()]
    assert np.allclose(drawn[0], np.moveaxis(encoded.pixels[1].numpy(), 0, -1))
    assert np.allclose(np.stack(drawn[1:5]), encoded.mean[1])
    assert np.allclose(np.stack(drawn[5:]), encoded.std[1])
    low, high = figure.axes[1].get_images()[0].get_clim()
    assert low == -high  # no colour but the middle one is zero
