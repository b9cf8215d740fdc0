"""Parts on several devices: accelerate puts functions in the place of `forward`, and hooks see what they saw."""

from __future__ import annotations

import pytest
import torch
from accelerate import dispatch_model

import sdprobe
from sdprobe.model.weights_hash import weights_hash
from tests.caches import MAKERS, attached, denoiser, run, stock
from tests.tiny import stable_diffusion


class Gradient(sdprobe.Transform):
    """A step along a gradient."""

    needs_grad = True

    def noise_pred(self, x, step):
        return x + 0.1 * torch.autograd.grad(x.square().sum(), step.latents)[0]


def looking():
    return sdprobe.AttentionMaps(), sdprobe.Activations(modules=("*_blocks.0*",))


def seen(done):
    """What the hooks of `looking` recorded: maps of a word, and every activation."""
    record = done[sdprobe.Activations].record
    return [done[sdprobe.AttentionMaps].heat_map("circle").values, *(record[key] for key in record.keys)]


def spread(pipe, folder):
    """A denoiser with its parts in memory and on disk by turns, from where accelerate reads them for each call."""
    network = denoiser(pipe)
    with_weights = [name for name, part in network.named_children() if any(True for _ in part.parameters())]
    places = {name: "cpu" for name, _ in network.named_children()} | dict.fromkeys(with_weights[::2], "disk")
    places |= {name: "cpu" for name, _ in network.named_parameters(recurse=False)}
    dispatch_model(network, device_map=places, offload_dir=folder)
    return pipe


@pytest.mark.parametrize(
    "family", [pytest.param("Stable Diffusion", marks=pytest.mark.slow), "Stable Diffusion 3", "Flux"]
)
def test_a_denoiser_partly_on_disk(family, tmp_path):
    pipe = spread(MAKERS[family](), tmp_path)
    expected = stock(pipe)
    assert torch.equal(run(pipe).latents, expected)
    looked = run(pipe, *looking())
    latents, beside = attached(pipe, *looking())
    assert torch.equal(looked.latents, expected)
    assert torch.equal(latents, expected)
    for one, other in zip(seen(looked), seen(beside), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(seen(looked), seen(run(MAKERS[family](), *looking())), strict=True):
        torch.testing.assert_close(one, other)  # weights at other addresses: the last bits may differ
    assert weights_hash(pipe) is None


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    stable_diffusion(seed=3).save_pretrained(folder)
    return folder


def test_a_device_for_each_part(saved):
    model, plain = sdprobe.load(saved, device_map={"unet": "cpu", "": "cpu"}), sdprobe.load(saved)
    assert model.pipe.hf_device_map == {"text_encoder": "cpu", "unet": "cpu", "vae": "cpu"}
    assert hasattr(model.pipe.vae, "_hf_hook")
    assert torch.equal(run(model.pipe, *looking()).latents, run(plain.pipe).latents)
    for one, other in zip(seen(run(model.pipe, *looking())), seen(run(plain.pipe, *looking())), strict=True):
        assert torch.equal(one, other)
    assert weights_hash(model.pipe) == weights_hash(plain.pipe)


def test_a_part_over_several_places(saved, tmp_path):
    places = {name: "cpu" for name, _ in stable_diffusion().unet.named_children()} | {"mid_block": "disk"}
    pipe = sdprobe.load(saved, device_map={"unet": places, "": "cpu"}, offload_folder=tmp_path).pipe
    assert next(pipe.unet.mid_block.parameters()).is_meta
    assert torch.equal(run(pipe).latents, stock(pipe))
    assert torch.equal(run(pipe, Gradient()).latents, attached(pipe, Gradient())[0])
    torch.testing.assert_close(run(pipe, Gradient()).latents, run(sdprobe.load(saved).pipe, Gradient()).latents)


def test_accelerate_divides_a_part(saved):
    pipe = sdprobe.load(saved, device_map={"unet": "auto", "": "cpu"}, dtype=torch.float64).pipe
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.float64}
    assert hasattr(pipe.unet, "_hf_hook")
    assert torch.equal(run(pipe).latents, stock(pipe))


def test_a_name_that_diffusers_knows(saved):
    model = sdprobe.load(saved, device_map="cpu")
    assert model.pipe.hf_device_map == "cpu"
    assert torch.equal(run(model.pipe).latents, run(sdprobe.load(saved).pipe).latents)


def test_what_cannot_be_mapped(saved):
    with pytest.raises(ValueError, match=r"device_map='balanced' says where the parts are: leave device='cpu' out"):
        sdprobe.load(saved, device_map="balanced", device="cpu")
    with pytest.raises(
        ValueError, match=r"names transformer, which is no part to load; parts: text_encoder, unet, vae"
    ):
        sdprobe.load(saved, device_map={"transformer": "cpu", "": "cpu"})
    with pytest.raises(ValueError, match="says no device for text_encoder, vae"):
        sdprobe.load(saved, device_map={"unet": "cpu"})
    with pytest.raises(TypeError, match="not int"):
        sdprobe.load(saved, device_map=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device_map", ["cuda", {"unet": 0, "": "cpu"}, {"unet": {"mid_block": "cuda:1"}}])
def test_a_gpu_that_is_not_there(saved, device_map):
    with pytest.raises(ValueError, match="asks for a GPU, and torch sees none here"):
        sdprobe.load(saved, device_map=device_map)


def test_what_is_spread_is_not_moved(saved, tmp_path):
    pipe = sdprobe.load(saved, device_map={"": "cpu"}).pipe
    for asked in ({"device": "cpu"}, {"dtype": torch.float16}):
        with pytest.raises(ValueError, match=r"spread over devices \(.*unet: cpu.*\): leave device= and dtype= out"):
            sdprobe.load(pipe, **asked)
    with pytest.raises(ValueError, match="unet is spread over devices by its hf_device_map: leave device= out"):
        sdprobe.load(spread(stable_diffusion(), tmp_path), device="cpu")
