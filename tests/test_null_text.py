"""Null-text optimisation, and its embeddings as a hook."""

from __future__ import annotations

import warnings

import pytest
import torch
from PIL import Image

import sdprobe
from sdprobe.sampling.invert import invert
from sdprobe.shapes import scene
from tests.families import FAMILIES
from tests.laws.strategies import run

PICTURE = Image.radial_gradient("L").resize((16, 16)).convert("RGB")


@pytest.mark.slow
def test_a_guided_run_comes_back_within_a_decibel(embedded):
    """Of what the autoencoder alone loses, at guidance 5, where plain DDIM drifts far away."""
    scenes = [scene(seed, objects=1 + seed % 2) for seed in (900, 901)]
    pictures, captions = [own.image for own in scenes], [own.caption for own in scenes]
    settings = {"steps": 20, "progress": False}
    found = invert(embedded, pictures, captions, guidance_scale=5.0, method="null-text", iterations=20, **settings)
    assert (found.autoencoder_psnr - found.psnr(found.sample(progress=False)) < 1).all()
    plain = invert(embedded, pictures, captions, method="ddim", **settings)
    drifted = plain.sample(guidance_scale=5.0, progress=False)
    assert (plain.autoencoder_psnr - plain.psnr(drifted) > 5).all()


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "Stable Diffusion XL", "PixArt-Σ"])
def test_each_step_leads_nearer_to_the_inverted_way(family):
    """With several pictures, each as if alone."""
    model, both = sdprobe.load(FAMILIES[family]()), [PICTURE, PICTURE.rotate(90)]
    settings = {"steps": 3, "guidance_scale": 4.0, "progress": False}

    def apart(inverted, **others):
        return (inverted.sample(progress=False, **others).latents - inverted.x0).square().mean((1, 2, 3))

    found = invert(model, both, ["a red star", "a ring"], method="null-text", iterations=8, rate=0.1, **settings)
    plain = invert(model, both, ["a red star", "a ring"], **settings | {"guidance_scale": 1.0})
    assert torch.equal(found.latents, plain.latents)
    assert (apart(found) < apart(plain, guidance_scale=4.0)).all()
    alone = invert(model, both[1], "a ring", method="null-text", iterations=8, rate=0.1, **settings)
    assert torch.allclose(alone.hooks[0].embeddings[:, 0], found.hooks[0].embeddings[:, 1], atol=1e-3)
    # Without guidance nothing reads them, and they are left out.
    assert torch.equal(found.sample(guidance_scale=1.0, progress=False).latents, plain.sample(progress=False).latents)


def test_what_is_left_is_measured_and_told(tiny):
    """The residuals are the errors of the run back with the embeddings, and a warning tells where they stay above."""
    settings = {"steps": 3, "guidance_scale": 4.0, "method": "null-text", "iterations": 2, "progress": False}
    passed, back = sdprobe.LatentRecorder(every=2), sdprobe.LatentRecorder()
    with pytest.warns(
        UserWarning, match=r"stayed far from the picture's latents in 3 of 3 steps: after 2 iterations, step \d ends"
    ):
        found = invert(tiny, [PICTURE, PICTURE.rotate(90)], "a star", hooks=[passed], **settings)
    targets = found.run[passed]["latents"].flip(0)
    latents = found.sample(hooks=[back], progress=False)[back]["latents"]
    for target, reached, error in zip(targets[:-1], latents[1:], found.residuals[:-1], strict=True):
        assert float((reached - target).square().mean((1, 2, 3)).max()) == pytest.approx(error, rel=1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        invert(tiny, PICTURE, "a star", stop=1e9, **settings)


def test_it_equals_a_negative_prompt(tiny):
    embeds = sdprobe.embed(tiny, ["a ring", "a star"]).last_hidden_state
    settings = {"steps": 3, "guidance_scale": 3.0}
    written = run(tiny, prompt=["a box", "a red box"], negative_prompt=["a ring", "a star"], **settings)
    each = sdprobe.NullText(embeds.expand(3, -1, -1, -1))
    found = run(tiny, each, prompt=["a box", "a red box"], **settings)
    assert torch.allclose(found.latents, written.latents, atol=1e-4)
    limited = sdprobe.only(sdprobe.NullText(embeds[0].expand(3, -1, -1)), rows=lambda row: row.image == 0)
    found = run(tiny, limited, prompt=["a box", "a red box"], **settings)
    mixed = run(tiny, prompt=["a box", "a red box"], negative_prompt=["a ring", ""], **settings)
    assert torch.allclose(found.latents, mixed.latents, atol=1e-4)


def test_saved_embeddings_are_the_same_hook(tiny, tmp_path):
    settings = {"steps": 2, "guidance_scale": 3.0}
    tokens = tiny.text_tokens(tiny.read(""))
    embeds = torch.randn(2, tokens, 16, generator=torch.Generator().manual_seed(0))
    path = sdprobe.NullText(embeds).save(tmp_path / "null.safetensors")
    written = sdprobe.to_config([sdprobe.NullText(str(path))])
    assert torch.equal(
        run(tiny, sdprobe.from_config(written), **settings).latents,
        run(tiny, sdprobe.NullText(embeds), **settings).latents,
    )
    with pytest.raises(ValueError, match=r"saved as \.safetensors, not as 'null.pt'"):
        sdprobe.NullText(embeds).save(tmp_path / "null.pt")


def test_refused(tiny):
    tokens = tiny.text_tokens(tiny.read(""))
    embeds = torch.zeros(3, tokens, 16)
    for hook, settings, why in [
        (embeds, {"guidance_scale": 1.0}, "at guidance_scale 1 has none: ask for guidance above 1"),
        (embeds, {"steps": 4}, "embeddings of 3 steps for a run of 4"),
        (embeds, {"scheduler": "Heun"}, "3 steps of null-text embeddings for 5 calls of the denoiser"),
        (torch.zeros(3, 2, tokens, 16), {}, "embeddings of 2 images for 1"),
        (embeds[:, 1:], {}, f"of {tokens - 1} tokens of width 16, but this model's are {tokens} of width 16"),
    ]:
        with pytest.raises(ValueError, match=why):
            run(tiny, sdprobe.NullText(hook), **{"steps": 3, "guidance_scale": 3.0} | settings)
    with pytest.raises(ValueError, match=r"not \[3\]"):
        sdprobe.NullText(torch.zeros(3))
    with pytest.raises(ValueError, match="iterations is above 0, not 0"):
        invert(tiny, PICTURE, "a star", method="null-text", iterations=0, guidance_scale=3.0, progress=False)
    for options, why in [
        ({"iterations": 2.5}, "iterations is a whole number, not 2.5"),
        ({"stop": -1.0}, "stop is 0 or above, not -1"),
        ({"slack": float("nan")}, "slack is 0 or above, not nan"),
        ({"inner": 0}, "iterations is 1 or more, not 0"),
    ]:
        with pytest.raises(ValueError, match=why):
            invert(tiny, PICTURE, "a star", method="null-text", guidance_scale=3.0, progress=False, **options)
    with pytest.raises(ValueError, match="ask for guidance above 1"):
        invert(tiny, PICTURE, "a star", method="null-text", progress=False)
