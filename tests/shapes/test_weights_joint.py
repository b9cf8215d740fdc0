"""The shipped weights of the model with joint attention: small, a stock pipeline, and good enough to be of use."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sdprobe
from sdprobe import AttentionMaps
from sdprobe.shapes import JOINT_WEIGHTS, Scene
from sdprobe.shapes.detect import adherence, detect
from sdprobe.shapes.evaluate import HELD_OUT, held_out


@pytest.fixture(scope="module")
def joint() -> sdprobe.Model:
    return sdprobe.load("shapes-joint")


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in JOINT_WEIGHTS.rglob("*") if file.is_file()) <= 6e6


def test_it_is_a_stock_pipeline_on_the_first_model_s_latents(joint: sdprobe.Model) -> None:
    assert type(joint.pipe).__name__ == "StableDiffusion3Pipeline"
    first = sdprobe.load()
    for ours, theirs in zip(joint.pipe.vae.parameters(), first.pipe.vae.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    settings = {"guidance_scale": 5.0, "seed": 3, "steps": 3, "progress": False}
    run = sdprobe.sample(joint, "a red circle", **settings)
    joint.pipe.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(3)
    stock = joint.pipe("a red circle", num_inference_steps=3, guidance_scale=5.0, generator=noise, output_type="latent")
    assert torch.equal(run.latents, stock.images)


@pytest.fixture(scope="module")
def drawn(joint: sdprobe.Model) -> list[tuple[Scene, np.ndarray, AttentionMaps, int]]:
    """Eight scenes of one object and eight of two, drawn from their captions, with the heat maps of their words."""
    found = []
    for objects in (1, 2):
        scenes, maps = held_out(8, objects, first=HELD_OUT + 7_000_000), AttentionMaps()
        run = sdprobe.sample(
            joint,
            [own.caption for own in scenes],
            hooks=[maps],
            steps=25,
            guidance_scale=5.0,
            seed=list(range(8)),
            progress=False,
        )
        found += [(own, np.asarray(run.images[i]), run[maps], i) for i, own in enumerate(scenes)]
    return found


@pytest.mark.slow
def test_pictures_keep_to_captions(drawn: list[tuple[Scene, np.ndarray, AttentionMaps, int]]) -> None:
    """The bar for shapes is the card's .66 less two standard errors of 24 objects."""
    seen = [adherence(own.objects, own.background, picture) for own, picture, _, _ in drawn]
    assert np.mean([ok for own in seen for ok in own.colours]) >= 0.9
    assert np.mean([ok for own in seen for ok in own.shapes]) >= 0.47
    assert np.mean([own.relation for own in seen if own.relation is not None]) >= 0.8


@pytest.mark.slow
def test_the_map_of_a_colour_lies_on_its_object(drawn: list[tuple[Scene, np.ndarray, AttentionMaps, int]]) -> None:
    """The control is the other object of the picture."""
    on_own, on_other = [], []
    for scene, picture, maps, image in drawn:
        masks = {thing.colour: torch.from_numpy(thing.mask) for thing in detect(picture)}
        colours = [thing.colour for thing in scene.objects if thing.colour in masks]
        for colour in colours if len(colours) == 2 else ():
            heat = maps.heat_map(colour, image=image)
            (other,) = set(colours) - {colour}
            on_own.append(heat.iou(masks[colour], 0.425))
            on_other.append(heat.iou(masks[other], 0.425))
    assert len(on_own) >= 12
    assert np.mean(on_own) > 0.6
    assert np.mean(on_other) < 0.2
