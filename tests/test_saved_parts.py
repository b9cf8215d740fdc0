"""What a folder holds: variants, and the types its weights were saved in."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

import sdprobe
from sdprobe.model.saved_parts import WEIGHTS, classes_of, index_of, saved_dtypes
from tests.families import stable_diffusion_3
from tests.laws.strategies import run, same_run
from tests.tiny import stable_diffusion


def types_of(pipe):
    """The type of every parameter."""
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    return {(name, one): own.dtype for name, part in parts.items() for one, own in part.named_parameters()}


def test_a_variant_is_loaded_by_its_name(tmp_path):
    pipe = stable_diffusion(seed=3)
    pipe.save_pretrained(tmp_path, variant="fp16")
    assert same_run(run(sdprobe.load(tmp_path, variant="fp16")), run(sdprobe.load(pipe)))
    with pytest.raises(
        ValueError, match=r"text_encoder holds its weights as the variant 'fp16' only: load it with var"
    ):
        sdprobe.load(tmp_path)
    with pytest.raises(ValueError, match=r"no weights of the variant 'ema'; there are 'fp16'"):
        sdprobe.load(tmp_path, variant="ema")
    own = {name: getattr(pipe, name) for name in ("unet", "vae", "text_encoder")}
    assert sdprobe.load(tmp_path, **own).pipe.unet is pipe.unet


def test_a_folder_without_variants(tmp_path):
    pipe = stable_diffusion()
    pipe.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"the variant 'fp16'; it has no variants: leave variant= out"):
        sdprobe.load(tmp_path, variant="fp16")
    pipe.unet.save_pretrained(tmp_path / "unet", variant="ema")
    assert sdprobe.load(tmp_path, variant="ema")  # the other parts have none


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("diffusion_pytorch_model.safetensors", None),
        ("diffusion_pytorch_model.non_ema.bin", "non_ema"),
        ("model-00001-of-00002.safetensors", None),
        ("model.fp16-00001-of-00002.safetensors", "fp16"),
        ("model-00001-of-00002.fp16.safetensors", "fp16"),
    ],
)
def test_the_names_of_files(name, variant):
    found = WEIGHTS.fullmatch(name)
    assert (found["variant"] or found["old"]) == variant
    assert not WEIGHTS.fullmatch(f"{name}.index.json")


def test_the_saved_type_is_kept(tmp_path):
    stable_diffusion().to(torch.float16).save_pretrained(tmp_path)
    assert set(saved_dtypes(tmp_path, index_of(tmp_path), None).values()) == {torch.float16}
    model = sdprobe.load(tmp_path)
    assert set(types_of(model.pipe).values()) == {torch.float16}
    assert run(model).latents.dtype == torch.float16
    assert set(types_of(sdprobe.load(tmp_path, dtype=torch.float32).pipe).values()) == {torch.float32}


def test_layers_that_are_kept_in_float32_stay_so(tmp_path):
    """T5 overflows in float16, so some of its layers are kept in float32: as in the stock pipeline."""
    stable_diffusion_3().save_pretrained(tmp_path)
    stock = types_of(DiffusionPipeline.from_pretrained(tmp_path, torch_dtype=torch.float16))
    assert set(stock.values()) == {torch.float16, torch.float32}
    assert types_of(sdprobe.load(tmp_path, dtype=torch.float16, device="cpu").pipe) == stock


def test_the_classes_of_the_parts(tmp_path):
    pipe = stable_diffusion()
    pipe.save_pretrained(tmp_path)
    parts = {name: part for name, part in pipe.components.items() if part is not None}
    assert {name: kind.__name__ for name, kind in classes_of(index_of(tmp_path)).items()} == {
        name: type(part).__name__ for name, part in parts.items()
    }
