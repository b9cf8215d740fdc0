"""GGUF: a denoiser whose weights are packed in 8 bits, in the pipeline of a folder, is that which diffusers loads."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    FluxPipeline,
    FluxTransformer2DModel,
    GGUFQuantizationConfig,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)

import sdprobe
from sdprobe.model.quantized import parameter_count
from sdprobe.model.weights_hash import weights_hash
from sdprobe.testing.stock_call import made_of
from tests.families import flux
from tests.laws.strategies import same_run, seen
from tests.single_file import unet_name
from tests.tiny import stable_diffusion

gguf_file = pytest.importorskip("tests.gguf_file", reason="gguf is not installed", exc_type=ImportError)

SETTINGS = {"height": 16, "width": 16, "steps": 2, "guidance_scale": 3.0, "seed": 0, "progress": False}
KINDS = {
    "Flux": (FluxPipeline, FluxTransformer2DModel, "transformer"),
    "Stable Diffusion": (StableDiffusionPipeline, UNet2DConditionModel, "unet"),
}


def wide():
    """Stable Diffusion with a U-Net whose rows are as long as a block."""
    pipe = stable_diffusion()
    torch.manual_seed(1)
    pipe.unet = UNet2DConditionModel.from_config({**pipe.unet.config, "block_out_channels": (32, 64)}).eval()
    return pipe


@pytest.fixture(scope="module", params=KINDS)
def saved(request, tmp_path_factory):
    """A family, the folder of its pipeline, and its denoiser as a file, with how many of its weights are packed.

    Flux is under diffusers' names, the U-Net under those of the first publication.
    """
    folder = tmp_path_factory.mktemp("gguf")
    pipe = flux() if request.param == "Flux" else wide()
    pipe.save_pretrained(folder / "base")
    network = getattr(pipe, KINDS[request.param][2])
    weights = network.state_dict()
    if request.param != "Flux":
        layers = network.config.layers_per_block
        weights = {f"model.diffusion_model.{unet_name(name, layers)}": own for name, own in weights.items()}
    packed = gguf_file.save_gguf(weights, folder / "denoiser.gguf", request.param.lower())
    return request.param, folder / "base", folder / "denoiser.gguf", packed


def stock(saved, dtype=torch.float32):
    """The pipeline as diffusers loads it."""
    family, base, path, _ = saved
    kind, network, part = KINDS[family]
    config = GGUFQuantizationConfig(compute_dtype=dtype)
    given = {"config": str(base), "subfolder": part, "quantization_config": config, "torch_dtype": dtype}
    made = kind.from_pretrained(
        base, **{part: network.from_single_file(str(path), **given)}, torch_dtype=dtype, safety_checker=None
    )
    made.set_progress_bar_config(disable=True)
    return made


def latents(pipe):
    generator = torch.Generator().manual_seed(0)
    asked = {"height": 16, "width": 16, "num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "latent"}
    return made_of(pipe("a red circle", generator=generator, **asked))


def watching():
    hooks = [seen("attention"), seen("activation"), seen("model_output"), sdprobe.AttentionMaps()]
    hooks[1].modules = ("*to_q",)
    return hooks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_is_the_stock_pipeline_to_the_last_bit(saved, dtype):
    _, base, path, _ = saved
    expected, model = latents(stock(saved, dtype)), sdprobe.load(path, config=base, dtype=dtype)
    model.pipe.set_progress_bar_config(disable=True)
    hooks = watching()
    run = sdprobe.sample(model, "a red circle", hooks=hooks, **SETTINGS)
    assert torch.equal(model.packed(run.latents), expected)
    with sdprobe.attach(model.pipe, hooks) as attached:
        assert torch.equal(latents(model.pipe), expected)
    assert torch.equal(attached.latents, run.latents)
    for hook in hooks[:3]:
        assert run[hook].values
        assert all(map(torch.equal, run[hook].values, attached[hook].values))
    assert not run.coverage.missed


def test_activations_are_those_of_layers_that_are_packed(saved):
    family, base, path, packed = saved
    model = sdprobe.load(path, config=base)
    layers = [own for own in model.denoiser.modules() if hasattr(getattr(own, "weight", None), "quant_type")]
    assert len(layers) == packed
    assert {type(own).__name__ for own in layers} == {"GGUFLinear"}
    plain = flux() if family == "Flux" else wide()
    assert parameter_count(model.denoiser) == parameter_count(getattr(plain, KINDS[family][2]))
    assert repr(model).endswith("quantised by gguf)")
    keep = sdprobe.Activations("*to_q")
    run = sdprobe.sample(model, "a red circle", hooks=[keep], **SETTINGS)
    name = next(name for name, own in model.modules.items() if name.endswith("to_q") and own in layers)
    given = sdprobe.Activations(name, sides=("input",))
    taken = sdprobe.sample(model, "a red circle", hooks=[given], **SETTINGS)[given][name]
    assert torch.equal(run[keep][name], model.modules[name](taken))


def test_a_gradient_passes_through_weights_that_are_unpacked(saved):
    """As through the same numbers in a network that holds them unpacked."""
    _, base, path, _ = saved
    packed, unpacked = (sdprobe.load(path, config=base) for _ in range(2))
    unpacked.denoiser.dequantize()
    hook = sdprobe.AttendAndExcite(["circle"])
    runs = [sdprobe.sample(model, "a red circle", hooks=[hook], **SETTINGS) for model in (packed, unpacked)]
    assert same_run(*runs) or torch.allclose(*(run.latents for run in runs), atol=1e-5)
    plain = sdprobe.sample(packed, "a red circle", **SETTINGS)
    assert not torch.equal(runs[0].latents, plain.latents)


def test_the_hash_is_that_of_the_file_s_bytes(saved, tmp_path):
    family, base, path, _ = saved
    found = [weights_hash(sdprobe.load(path, config=base).pipe) for _ in range(2)]
    assert found[0] == found[1]
    other = sdprobe.load(path, config=base).pipe
    getattr(other, KINDS[family][2]).dequantize()
    assert weights_hash(other) not in (None, found[0])


def test_packed_weights_are_not_cast(saved):
    _, base, path, _ = saved
    with pytest.raises(ValueError, match="is quantised and cannot be cast: give dtype= where it is loaded"):
        sdprobe.load(sdprobe.load(path, config=base).pipe, dtype=torch.float16)


def test_a_file_without_its_pipeline_is_refused(saved):
    with pytest.raises(ValueError, match=r"denoiser\.gguf holds no text encoder.*: say where .*, config="):
        sdprobe.load(saved[2])
