"""Every training runs, resumes and leaves folders that load."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline, StableDiffusionPipeline
from transformers import CLIPTextModel, VisionTextDualEncoderModel

import sdprobe
from sdprobe import shapes
from sdprobe.shapes import WEIGHTS, evaluate
from sdprobe.shapes.checkpoint import Budget
from sdprobe.shapes.encoded_scenes import Pools
from sdprobe.shapes.export import export_joint
from sdprobe.shapes.fast_joint_attention import as_stock, for_training
from sdprobe.shapes.joint_model import joint_pipeline, new_transformer
from sdprobe.shapes.train_autoencoder import train_autoencoder
from sdprobe.shapes.train_clip import train_clip
from sdprobe.shapes.train_joint import told, train_joint
from sdprobe.shapes.train_unet import train_unet


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
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
    train_unet(tmp_path, Budget(steps=1), batch=2, pool=8, judged=1, unseen=8, bf16=bf16)
    train_unet(tmp_path, Budget(steps=2), batch=2, pool=8, judged=1, unseen=8, bf16=bf16)
    assert [line["samples"] for line in log(tmp_path / "unet")] == [2, 4]
    StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline", local_files_only=True)


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of the second model, with a stop after the first."""
    folder = tmp_path_factory.mktemp("joint")
    for steps in (1, 2):
        train_joint(folder, Budget(steps=steps), batch=2, pool=8, judged=1, unseen=8)
    return folder


def test_joint_resumes_to_the_same_bits(joint: Path, tmp_path: Path) -> None:
    assert [line["samples"] for line in log(joint / "joint")] == [2, 4]
    train_joint(tmp_path, Budget(steps=2), batch=2, pool=8, judged=0, unseen=8)
    whole, resumed = (torch.load(folder / "joint" / "checkpoint.pt", weights_only=True) for folder in (tmp_path, joint))
    for name, weight in whole["weights"].items():
        assert torch.equal(weight, resumed["weights"][name]), name
    assert all(torch.equal(a, b) for a, b in zip(whole["average"], resumed["average"], strict=True))


def test_joint_is_a_stock_pipeline_to_sample_and_to_look_into(joint: Path) -> None:
    pipe = StableDiffusion3Pipeline.from_pretrained(
        joint / "joint-pipeline", text_encoder_3=None, tokenizer_3=None, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    prompt = "a red circle above a blue star"
    maps = sdprobe.AttentionMaps()
    model = sdprobe.load(joint / "joint-pipeline")
    run = sdprobe.sample(model, prompt, hooks=[maps], steps=2, guidance_scale=5.0, seed=3, progress=False)
    stock = pipe(
        prompt,
        num_inference_steps=2,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).images
    assert torch.equal(run.latents, stock)
    assert run[maps].heat_map("red").values.shape == (16, 16)


def test_joint_is_stored_small_and_loads_by_its_name(
    joint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapes, "JOINT_WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"python -m sdprobe\.shapes\.train joint"):
        sdprobe.load("shapes-joint")
    export_joint(joint)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*")) <= 6e6
    model = sdprobe.load("shapes-joint")
    assert {part.dtype for part in (model.pipe.transformer, model.pipe.vae, model.pipe.text_encoder)} == {torch.float32}
    trained = sdprobe.load(joint / "joint-pipeline").pipe.transformer.state_dict()
    for name, weight in model.pipe.transformer.state_dict().items():
        assert torch.equal(weight, trained[name].half().float()), name


def test_joint_encoders_tell_what_those_they_come_from_do() -> None:
    pipe = joint_pipeline(WEIGHTS, new_transformer())
    ids = pipe.tokenizer("a red circle", padding="max_length", return_tensors="pt").input_ids
    known = CLIPTextModel.from_pretrained(WEIGHTS / "text_encoder")(ids, output_hidden_states=True)
    embeds, pooled = told(pipe, ["a red circle"])
    assert torch.equal(embeds[:, :32, :96], known.hidden_states[-1])
    assert torch.equal(pooled[:, :96], known.pooler_output)


@torch.no_grad()
@pytest.mark.parametrize("bf16", [False, True])
def test_one_token_stands_for_all_zeros(bf16: bool) -> None:
    torch.manual_seed(0)
    transformer = new_transformer(width=32, layers=2, heads=2)
    pipe = joint_pipeline(WEIGHTS, transformer)
    captions = ["a red circle", "a blue star on a grey background"]
    x, time = torch.randn(2, 4, 16, 16), torch.tensor([300.0, 900.0])

    def flow(embeds: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return transformer(x, embeds, pooled, time, return_dict=False)[0].float()

    embeds, _, pooled, _ = pipe.encode_prompt(captions, None, None, do_classifier_free_guidance=False)
    stock = flow(embeds, pooled)
    for_training(transformer)
    assert torch.allclose(flow(*told(pipe, captions)), stock, atol=0.02 if bf16 else 1e-5)
    as_stock(transformer)
    assert torch.equal(flow(embeds, pooled), stock)


@pytest.mark.slow
def test_pools_are_drawn_once_and_the_same_by_workers(tmp_path: Path) -> None:
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "vae")
    pools = Pools(vae, tmp_path / "kept", batch=2, size=3)
    first = pools.at(5)  # three scenes seen four times each, two a step
    assert pools.number(5) == 0
    assert pools.number(6) == 1
    again = Pools(vae, tmp_path / "kept", batch=2, size=3).at(0)
    assert torch.equal(first.latents, again.latents)
    assert first.captions == again.captions
    assert pools.at(6).captions != first.captions
    ahead = Pools(vae, tmp_path / "others", batch=2, size=3, workers=1)
    try:
        assert torch.equal(ahead.at(0).latents, first.latents)
    finally:
        ahead.close()


def test_figures_know_what_was_asked() -> None:
    asked = evaluate.held_out(6, 2)
    assert len(asked) == 6
    assert all(len({o.shape for o in own.objects}) == len({o.colour for o in own.objects}) == 2 for own in asked)
