"""What else runs on the GPU: guidance by losses and by attention, textual inversion, resuming, inversion, the CLI.

Against the same on a CPU: the noise is drawn there in either case, and single precision is not rounded.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import sdprobe
from sdprobe.cli import main
from sdprobe.text.textual_inversion import learn_concept
from tests.laws.strategies import run, same_run
from tests.tiny import stable_diffusion

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("single_precision")]

TOLERANCE = 1e-3  # of latents of unit size, whose differences in the last bits grow from step to step
PICTURE = Image.radial_gradient("L").resize((16, 16)).convert("RGB")


def tiny_on(where):
    return sdprobe.load(stable_diffusion(), device=where)


def assert_the_same_on_a_cpu(device, work):
    """What a function of a model gives."""
    expected, found = (work(tiny_on(where)).cpu() for where in ("cpu", device))
    assert expected.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def blue(pictures):
    return (pictures[:, 2] - 0.9).abs().mean((1, 2))


GUIDANCES = {
    "a loss through x0": lambda: sdprobe.LossGuidance(blue, scale=20),
    "a loss through the model": lambda: sdprobe.LossGuidance(blue, scale=20, through="model"),
    "attend and excite": lambda: sdprobe.AttendAndExcite(["red", "circle"]),
    "layout": lambda: sdprobe.LayoutGuidance({"circle": (0.0, 0.0, 0.5, 0.5)}),
    "perturbed attention": lambda: sdprobe.PerturbedAttention(3.0),
    "self-attention": lambda: sdprobe.SelfAttentionGuidance(0.75),
}


@pytest.mark.parametrize("guidance", GUIDANCES)
def test_guidance(device, guidance):
    assert_the_same_on_a_cpu(device, lambda model: run(model, GUIDANCES[guidance](), steps=3).latents)
    model = tiny_on(device)
    assert not torch.equal(run(model, GUIDANCES[guidance](), steps=3).latents, run(model, steps=3).latents)


def test_textual_inversion(device):
    drawn = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    pictures = [Image.fromarray(picture) for picture in drawn]

    def learned(model):
        concept = learn_concept(model, pictures, "<hue>", init_word="red", steps=3, batch=2, progress=False)
        assert len(concept.losses) == 3
        return torch.cat([torch.tensor(concept.losses), *(x.cpu().flatten() for x in concept.vectors.values())])

    assert_the_same_on_a_cpu(device, learned)


def test_resuming_is_as_if_nothing_had_stopped(device):
    whole = run(tiny_on(device), sdprobe.Checkpoints(), scheduler="EulerAncestralDiscrete", steps=4)
    assert whole.latents.device.type == device.type
    for step in range(4):
        assert same_run(sdprobe.resume(whole, step, progress=False), whole)


def test_inversion(device):
    def inverted(model):
        found = sdprobe.invert(model, PICTURE, "a red circle", steps=4, progress=False)
        return torch.cat([found.latents, found.sample(progress=False).latents])

    assert_the_same_on_a_cpu(device, inverted)


def test_image_to_image(device):
    assert_the_same_on_a_cpu(device, lambda model: run(model, image=PICTURE, strength=0.6, steps=4).latents)


def test_the_command_line(device, tmp_path, capsys):
    given = ["a red circle", "--device", str(device), "--out", str(tmp_path), "--steps", "2", "--seed", "3", "--quiet"]
    assert main(given) == 0
    written = {path.name for path in tmp_path.iterdir()}
    assert {"picture.png", "settings.json", "word-01-red.png", "word-02-circle.png"} <= written
    assert len(capsys.readouterr().out.split()) == len(written)
    assert Image.open(tmp_path / "picture.png").size == (64, 64)
    assert json.loads((tmp_path / "settings.json").read_text())["seed"] == 3
