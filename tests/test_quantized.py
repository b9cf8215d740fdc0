"""Quantised networks: their parameters counted, their packages asked for."""

from __future__ import annotations

import json
import warnings
from importlib.util import find_spec

import pytest
import torch
from torch import nn

import sdprobe
from sdprobe.model.quantized import PACKAGES, parameter_count, quantisation_of
from sdprobe.model.weights_hash import weights_hash
from tests.laws.strategies import run
from tests.tiny import stable_diffusion


def by_torch(network):
    """Linear layers in 8 bits, by torch's own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)


def test_quantised_parameters_are_counted(tmp_path):
    pipe = stable_diffusion()
    count, shown = parameter_count(pipe.unet), repr(sdprobe.load(pipe))
    assert count == sum(own.numel() for own in pipe.unet.parameters())
    assert quantisation_of(pipe.unet) is None
    pipe.unet = by_torch(pipe.unet)
    model = sdprobe.load(pipe)
    assert parameter_count(pipe.unet) == count
    assert repr(model) == shown.replace(" parameters)", " parameters, quantised)")
    assert weights_hash(pipe) is None or weights_hash(pipe).startswith("sha256:")
    assert model.dtype == torch.float32
    assert run(model).provenance.model == repr(model)


def test_packed_weights_count_as_what_they_stand_for():
    """As of GGUF and of bitsandbytes: bytes, beside the shape that they unpack to."""
    layer = nn.Linear(4, 6, bias=False)
    layer.weight.quant_shape = (6, 32)
    assert parameter_count(layer) == 192
    layer = nn.Linear(4, 6, bias=False)
    layer.weight.quant_state = nn.Linear(8, 6).weight
    assert parameter_count(layer) == 48


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    stable_diffusion().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
@pytest.mark.parametrize("method", PACKAGES)
def test_the_package_of_a_quantised_folder(saved, method, part):
    module, package = PACKAGES[method]
    if find_spec(module) is not None:
        pytest.skip(f"{method} is installed")
    path = saved / part / "config.json"
    plain = path.read_text()
    path.write_text(json.dumps({**json.loads(plain), "quantization_config": {"quant_method": method}}))
    try:
        with pytest.raises(ImportError) as error:
            sdprobe.load(saved)
        assert f"{saved / part} is quantised by {method}" in str(error.value)
        assert f"pip install '{package}'" in str(error.value)
        given = {part: getattr(stable_diffusion(), part)}
        assert getattr(sdprobe.load(saved, **given).pipe, part) is given[part]
    finally:
        path.write_text(plain)


@pytest.mark.skipif(find_spec("gguf") is not None, reason="gguf is installed")
def test_gguf_without_its_package(tmp_path):
    (tmp_path / "flux.gguf").write_bytes(b"GGUF")
    with pytest.raises(ImportError, match=r"flux\.gguf is quantised by gguf, .*: pip install 'gguf>=0\.10\.0'"):
        sdprobe.load(tmp_path / "flux.gguf", config=tmp_path)


def test_a_quantised_part_is_not_cast():
    pipe = stable_diffusion()
    pipe.unet.is_quantized = True
    with pytest.raises(ValueError, match="unet is quantised and cannot be cast: give dtype= where it is loaded"):
        sdprobe.load(pipe, dtype=torch.float16)
