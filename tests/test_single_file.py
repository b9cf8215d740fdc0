"""Single files: a whole pipeline, or a denoiser whose pipeline comes from ``config``."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from safetensors.torch import load_file, save_file

import sdprobe
from sdprobe.model.single_file import from_single_file, kind_of
from sdprobe.model.weights_hash import source_of, weights_hash
from tests.families import T5_WIDTH, flux, pixart, stable_diffusion_3, stable_diffusion_xl, t5, t5_tokenizer
from tests.laws.strategies import run, same_run
from tests.single_file import save_single_file
from tests.tiny import stable_diffusion

KEYS = {
    "StableDiffusionPipeline": {"model.diffusion_model.output_blocks.11.0.skip_connection.weight": (1,)},
    "StableDiffusionXLPipeline": {"conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": (1,)},
    "StableDiffusion3Pipeline": {
        "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias": (9216,),
        "model.diffusion_model.pos_embed": (1, 36864, 1),
    },
    "FluxPipeline": {"double_blocks.0.img_attn.norm.key_norm.scale": (1,)},
}
"""Of each kind of file some parameters that it is known by, and their shapes."""


@pytest.mark.parametrize("name", KEYS)
def test_the_kind_of_a_single_file_is_told_by_its_names(tmp_path, name):
    weights = {key: torch.zeros(shape) for key, shape in KEYS[name].items()}
    assert kind_of(tmp_path, weights).__name__ == name


def test_a_whole_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "r.safetensors"
    save_file({"conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"'xl_refiner'.*StableDiffusionXLPipeline"):
        sdprobe.load(path)
    pixart().save_pretrained(tmp_path / "folder")
    with pytest.raises(ValueError, match=r"PixArtTransformer2DModel, the transformer of .* reads from no single file"):
        sdprobe.load(path, config=tmp_path / "folder")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A pipeline, its folder, and its file as Stable Diffusion 1 was first published."""
    folder = tmp_path_factory.mktemp("original")
    pipe = stable_diffusion(seed=4)
    pipe.save_pretrained(folder / "folder")
    save_single_file(pipe, folder / "model.safetensors")
    return pipe, folder / "folder", folder / "model.safetensors"


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_a_single_file_is_the_pipeline_it_holds(original, tmp_path, suffix):
    pipe, folder, path = original
    if suffix == "ckpt":
        torch.save({"state_dict": load_file(path)}, tmp_path / "model.ckpt")
        path = tmp_path / "model.ckpt"
    model = sdprobe.load(path, config=str(folder), local_files_only=True)
    assert same_run(run(model), run(sdprobe.load(pipe)))
    assert source_of(model.pipe) == str(path)


def test_the_denoiser_of_a_file_in_the_pipeline_of_a_folder(original, tmp_path):
    """Under the names of the first publication, with and without the autoencoder beside it."""
    pipe, _, path = original
    base = stable_diffusion(seed=5)
    base.save_pretrained(tmp_path / "base")
    weights = {name: own for name, own in load_file(path).items() if not name.startswith("cond_stage_model.")}
    save_file({name: own for name, own in weights.items() if "diffusion_model" in name}, tmp_path / "unet.safetensors")
    save_file(weights, tmp_path / "both.safetensors")
    base.unet = pipe.unet
    assert same_run(run(sdprobe.load(tmp_path / "unet.safetensors", config=tmp_path / "base")), run(sdprobe.load(base)))
    base.vae = pipe.vae
    assert same_run(run(sdprobe.load(tmp_path / "both.safetensors", config=tmp_path / "base")), run(sdprobe.load(base)))
    own = {"vae": stable_diffusion(seed=6).vae}
    assert sdprobe.load(tmp_path / "both.safetensors", config=tmp_path / "base", **own).pipe.vae is own["vae"]


@pytest.mark.parametrize("make", [flux, stable_diffusion_3, stable_diffusion_xl], ids=lambda make: make.__name__)
def test_the_weights_of_a_denoiser_as_diffusers_writes_them(make, tmp_path):
    pipe = make()
    pipe.save_pretrained(tmp_path / "base")
    network = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    with torch.no_grad():
        for own in network.parameters():
            own.mul_(1.01)
    network.save_pretrained(tmp_path / "other")
    path = tmp_path / "other" / "diffusion_pytorch_model.safetensors"
    model = sdprobe.load(path, config=str(tmp_path / "base"))
    assert weights_hash(model.pipe) == weights_hash(pipe)


def ltx():
    """Two blocks; the names of its published files are easily made."""
    torch.manual_seed(0)
    transformer = LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=T5_WIDTH,
    )
    vae = AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=(4,) * 4,
        decoder_block_out_channels=(4,) * 4,
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
    )
    words = t5_tokenizer()
    return LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        text_encoder=t5(words),
        tokenizer=words,
        transformer=transformer.eval(),
    )


def test_a_published_transformer_of_a_newer_family(tmp_path):
    """The pipeline's class follows from ``config``, the denoiser's from its index: no family is named here."""
    pipe = ltx()
    pipe.save_pretrained(tmp_path / "base")
    renamed = {}
    for name, own in pipe.transformer.state_dict().items():
        for ours, theirs in (("proj_in", "patchify_proj"), ("time_embed", "adaln_single"), ("norm_q", "q_norm")):
            name = name.replace(ours, theirs)
        renamed[f"model.diffusion_model.{name.replace('norm_k', 'k_norm')}"] = (own * 1.5).contiguous()
    save_file(renamed, tmp_path / "ltx.safetensors")
    with pytest.raises(ValueError, match=r"holds no text encoder .*'ltx-video'.* config='diffusers/LTX-Video-0.9.0'"):
        sdprobe.load(tmp_path / "ltx.safetensors")
    loaded = from_single_file(tmp_path / "ltx.safetensors", {"config": tmp_path / "base"})
    assert type(loaded) is LTXPipeline
    for name, own in pipe.transformer.state_dict().items():
        assert torch.equal(loaded.transformer.state_dict()[name], own * 1.5)
    assert torch.equal(loaded.vae.decoder.conv_in.conv.weight, pipe.vae.decoder.conv_in.conv.weight)


def test_a_denoiser_alone_asks_for_its_pipeline(tmp_path):
    path = tmp_path / "flux.safetensors"
    save_file({key: torch.zeros(shape) for key, shape in KEYS["FluxPipeline"].items()}, path)
    with pytest.raises(ValueError, match=r"'flux-schnell'.* config=, a folder .* config='black-forest-labs/FLUX.1-sc"):
        sdprobe.load(path)
    save_file({"nobody.knows": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"holds no text encoder: say where the other parts .* or a hub id$"):
        sdprobe.load(path)
    with pytest.raises(FileNotFoundError, match="config='nowhere' is neither a folder here nor a hub id"):
        sdprobe.load(path, config="nowhere")


def test_the_file_of_another_pipeline(original, tmp_path):
    _, folder, path = original
    flux().save_pretrained(tmp_path / "flux")
    unet = {name: own for name, own in load_file(path).items() if "diffusion_model" in name}
    save_file(unet, tmp_path / "unet.safetensors")
    with pytest.raises(ValueError, match=r"cannot be read as the transformer of .*Is config= the pipeline of this fi"):
        sdprobe.load(tmp_path / "unet.safetensors", config=tmp_path / "flux")
    unet.pop(next(name for name in unet if "time_embed.0" in name))
    save_file(unet, tmp_path / "less.safetensors")
    with pytest.raises(ValueError, match=r"cannot be read as the unet of|lacks 1 parameters of the unet of"):
        sdprobe.load(tmp_path / "less.safetensors", config=folder)


def test_two_denoisers_and_one_file(tmp_path):
    kind = ["diffusers", "WanTransformer3DModel"]
    index = {"_class_name": "WanPipeline", "transformer": kind, "transformer_2": kind, "image_encoder": [None, None]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "transformer_2").mkdir()
    (tmp_path / "transformer_2" / "config.json").write_text('{"num_layers": 1, "num_attention_heads": 1}')
    save_file({"head.modulation": torch.zeros(1)}, tmp_path / "wan.safetensors")
    with pytest.raises(
        ValueError, match=r"has the denoisers transformer, transformer_2, and a file holds one: give the "
    ):
        sdprobe.load(tmp_path / "wan.safetensors", config=tmp_path)
    with pytest.raises(ValueError, match=r"cannot be read as the transformer_2 of"):
        sdprobe.load(tmp_path / "wan.safetensors", config=tmp_path, transformer=None)


def test_the_type_of_the_file_is_kept(original, tmp_path):
    _, folder, path = original
    half = {name: own.half() for name, own in load_file(path).items()}
    save_file(half, tmp_path / "half.safetensors")
    save_file({name: own for name, own in half.items() if "diffusion_model" in name}, tmp_path / "unet.safetensors")
    for name in ("half", "unet"):
        pipe = sdprobe.load(tmp_path / f"{name}.safetensors", config=folder).pipe
        assert pipe.unet.dtype == pipe.vae.dtype == pipe.text_encoder.dtype == torch.float16
        pipe = sdprobe.load(tmp_path / f"{name}.safetensors", config=folder, dtype=torch.float32).pipe
        assert pipe.unet.dtype == pipe.vae.dtype == pipe.text_encoder.dtype == torch.float32


def test_weights_of_eight_bits(original, tmp_path):
    pipe, folder, path = original
    eight = {name: own.to(torch.float8_e4m3fn) for name, own in load_file(path).items() if "diffusion_model" in name}
    save_file(eight, tmp_path / "eight.safetensors")
    with pytest.raises(ValueError, match=r"stores weights as torch.float8_e4m3fn, .* say dtype=torch.bfloat16"):
        sdprobe.load(tmp_path / "eight.safetensors", config=folder)
    loaded = sdprobe.load(tmp_path / "eight.safetensors", config=folder, dtype=torch.float32).pipe
    expected = pipe.unet.conv_in.weight.to(torch.float8_e4m3fn).float()
    assert torch.equal(loaded.unet.conv_in.weight, expected)
    save_file({**eight, "model.diffusion_model.out.2.scale_weight": torch.ones(1)}, tmp_path / "scaled.safetensors")
    with pytest.raises(
        ValueError, match=r"8 bits with scales beside them \(model.diffusion_model.out.2.scale_weight\)"
    ):
        sdprobe.load(tmp_path / "scaled.safetensors", config=folder, dtype=torch.float32)


@pytest.mark.parametrize("option", [{"device_map": "cpu"}, {"variant": "fp16"}], ids=lambda option: next(iter(option)))
def test_options_of_folders(original, option):
    with pytest.raises(ValueError, match=f"{next(iter(option))}= is for folders and hub ids"):
        sdprobe.load(original[2], config=original[1], **option)


def test_a_denoiser_in_the_pipeline_of_a_hub_id(original, tmp_path):
    """What the hub's cache holds: the denoiser itself need not be there, only its configuration."""
    pipe, folder, path = original
    snapshot = tmp_path / "models--own--er" / "snapshots" / "abc"
    for own in sorted(p for p in folder.rglob("*") if p.is_file() and p.parent.name != "unet"):
        (snapshot / own.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / own.relative_to(folder)).write_bytes(own.read_bytes())
    (snapshot / "unet").mkdir()
    (snapshot / "unet" / "config.json").write_bytes((folder / "unet" / "config.json").read_bytes())
    (tmp_path / "models--own--er" / "refs").mkdir()
    (tmp_path / "models--own--er" / "refs" / "main").write_text("abc")
    unet = {name: own for name, own in load_file(path).items() if "diffusion_model" in name}
    save_file(unet, tmp_path / "unet.safetensors")
    cache = {"cache_dir": tmp_path, "local_files_only": True}
    model = sdprobe.load(tmp_path / "unet.safetensors", config="own/er", **cache)
    assert weights_hash(model.pipe) == weights_hash(pipe)
    assert source_of(model.pipe) == str(tmp_path / "unet.safetensors")
