"""`learn_token`: on a planted network it finds what is planted, and on the embedded model its map comes to the mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import sdprobe
from sdprobe import AttentionQueries, LearnedToken, learn_token
from sdprobe.attributions import Ovam
from sdprobe.shapes import detect
from sdprobe.shapes.scenes import Object, render
from tests.families import FAMILIES, stable_diffusion_3
from tests.laws.strategies import run


@pytest.fixture(scope="module")
def ring(embedded):
    """A run with queries, and the mask of the ring that it drew."""
    settings = {"steps": 8, "guidance_scale": 5.0, "seed": 0, "progress": False}
    found = sdprobe.sample(embedded, "a red ring", hooks=[sdprobe.every(3)(AttentionQueries())], **settings)
    return found, torch.as_tensor(detect(np.asarray(found.images[0]))[0].mask)


def iou(a, b):
    return float((a & b).sum() / (a | b).sum())


def test_the_loss_falls_and_the_mask_is_found(embedded, ring):
    found, mask = ring
    begun, token = (
        learn_token(embedded, found, mask, init_word="ring", steps=steps, progress=False) for steps in (1, 60)
    )
    assert token.losses[0] == begun.losses[0]
    assert min(token.losses) < 0.6 * token.losses[0]
    assert iou(token.segment(found), mask) > iou(begun.segment(found), mask) + 0.1
    # The loss is the one that is written down.
    heat = begun.heat_map(found).resize((64, 64), "bilinear").normalized().values.clamp(1e-6, 1 - 1e-6)
    expected = torch.nn.functional.binary_cross_entropy(heat, mask.float())
    assert begun.losses[0] == pytest.approx(float(expected), abs=1e-5)


def test_a_token_is_a_word_of_the_method(embedded, ring):
    found, mask = ring
    token = learn_token(embedded, found, mask, init_word="ring", steps=2, progress=False)
    method = Ovam(tokens={"<thing>": token})
    assert torch.equal(method.heat_map(found, "<thing>").values, token.heat_map(found).values)
    own = found[AttentionQueries].heat_map_of("<thing>", tokens={"<thing>": token}, negative=["blue"])
    assert own.values.mean() < token.heat_map(found).values.mean()


def test_pictures_are_looked_at(embedded):
    pictures = [render([Object("ring", "red", (x, 32), 14)]) for x in (24, 40)]
    shown, masks = [own.image for own in pictures], [detect(own.image)[0].mask for own in pictures]
    images = [Image.fromarray(own) for own in shown]
    token = learn_token(embedded, images, masks, init_word="ring", steps=15, progress=False)
    assert token.losses[-1] < token.losses[0]
    assert token.segment(images[0], model=embedded.pipe).shape == (64, 64)
    with pytest.raises(ValueError, match="give the model that is to look at it"):
        token.heat_map(images[0])


@pytest.mark.parametrize("family", ["Stable Diffusion XL", "PixArt-Σ"])
def test_every_family_of_cross_attention_learns(family):
    model = sdprobe.load(FAMILIES[family]())
    mask = torch.zeros(16, 24, dtype=torch.bool)
    mask[4:12, 4:12] = True
    result = run(model, AttentionQueries(), prompt="a red circle", height=16, width=24)
    token = learn_token(model, result, mask, init_word="red circle", steps=8, progress=False)
    assert min(token.losses) < token.losses[0]
    assert token.segment(result).shape == (16, 24)
    assert all(p.requires_grad and p.grad is None for p in model.denoiser.parameters())


def test_saved_and_loaded(tmp_path):
    token = LearnedToken(torch.randn(2, 96), "ring", (0.5, 0.25))
    again = LearnedToken.load(token.save(tmp_path / "ring.safetensors"))
    assert torch.equal(again.vectors, token.vectors)
    assert (again.word, again.losses) == (token.word, token.losses)
    sdprobe.Concept({"text_encoder": torch.ones(1, 96)}, "<new>").save(tmp_path / "concept.safetensors")
    held = {"kind": "LearnedToken", "word": "ring", "losses": "[" * 100_000}
    save_file({"vectors": token.vectors}, tmp_path / "losses.safetensors", held)
    for name in ("concept", "losses"):
        with pytest.raises(ValueError, match="holds no learnt token"):
            LearnedToken.load(tmp_path / f"{name}.safetensors")


def test_errors(embedded, ring):
    found, mask = ring
    with pytest.raises(ValueError, match="the keys of a word depend on the picture"):
        learn_token(sdprobe.load(stable_diffusion_3()), found, mask)
    for wrong, said in (
        (torch.zeros(64, 64), "true somewhere and not everywhere"),
        (torch.eye(64)[:32], "mask 0 is 32×64, and its picture 64×64"),
        ([mask, mask], "2 masks for 1 images"),
    ):
        with pytest.raises(ValueError, match=said):
            learn_token(embedded, found, wrong, progress=False)
    with pytest.raises(ValueError, match="not from none"):
        learn_token(embedded, [], [])
    with pytest.raises(ValueError, match="other weights than the model that made this run"):
        learn_token(sdprobe.load(FAMILIES["Stable Diffusion 1"]()), found, mask)
    with pytest.raises(ValueError, match="steps is 1 or more"):
        learn_token(embedded, found, mask, steps=0)
    with pytest.raises(ValueError, match="two vectors"):
        LearnedToken(torch.zeros(3, 96))
    with pytest.raises(ValueError, match="vectors of width 5"):
        LearnedToken(torch.zeros(2, 5)).heat_map(found)
