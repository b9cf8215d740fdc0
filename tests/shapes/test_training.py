"""Every training runs, resumes and leaves folders that load."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import VisionTextDualEncoderModel

from sdprobe.shapes import WEIGHTS, evaluate
from sdprobe.shapes.checkpoint import Budget
from sdprobe.shapes.train_autoencoder import train_autoencoder
from sdprobe.shapes.train_clip import train_clip
from sdprobe.shapes.train_unet import train_unet


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_autoencoder_then_its_decoder_alone(tmp_path: Path) -> None:
    train_autoencoder(tmp_path, Budget(steps=2), pictures=512, batch=2)
    first = AutoencoderKL.from_pretrained(tmp_path / "vae")
    assert log(tmp_path / "autoencoder")[-1]["psnr"] > 0
    train_autoencoder(tmp_path, Budget(steps=2), pictures=512, batch=2, decoder_only=True)
    second = AutoencoderKL.from_pretrained(tmp_path / "vae")
    assert second.config.scaling_factor == first.config.scaling_factor != 0.18215
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        if name.startswith(("encoder", "quant_conv")):
            assert torch.equal(a, b), name
    assert not torch.equal(first.decoder.conv_out.weight, second.decoder.conv_out.weight)


def test_clip(tmp_path: Path) -> None:
    train_clip(tmp_path, Budget(steps=2), pairs=8, batch=8)
    train_clip(tmp_path, Budget(steps=3), pairs=8, batch=8)
    assert [line["step"] for line in log(tmp_path / "clip-training")] == [2, 3]
    VisionTextDualEncoderModel.from_pretrained(tmp_path / "clip", local_files_only=True)


@pytest.mark.parametrize("bf16", [False, True])
def test_unet(tmp_path: Path, bf16: bool) -> None:
    for part in ("vae", "clip"):
        shutil.copytree(WEIGHTS / part, tmp_path / part)
    train_unet(tmp_path, Budget(steps=1), batch=2, pool=8, judged=1, bf16=bf16)
    train_unet(tmp_path, Budget(steps=2), batch=2, pool=8, judged=1, bf16=bf16)
    assert [line["samples"] for line in log(tmp_path / "unet")] == [2, 4]
    StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline", local_files_only=True)


def test_figures_know_what_was_asked() -> None:
    asked = evaluate.held_out(6, 2)
    assert len(asked) == 6
    assert all(len({o.shape for o in own.objects}) == len({o.colour for o in own.objects}) == 2 for own in asked)
