"""Train the U-Net, and with it the text encoder, on captioned scenes.

The autoencoder is frozen and latents are computed once for every scene. The loss is the plain mean squared error of v
(Salimans & Ho 2022): the usual weights by signal-to-noise would take the weight from high noise, where background,
colour and layout are decided. What the words for shapes say matters around the middle of the times and hardly anywhere
else, and what those for relations say at high noise in scenes of two: such times and scenes are drawn more often than
uniform times would have it (compare Esser et al. 2024, §3.1). Nothing here knows of masks or attention.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor
from transformers import CLIPTextModel

from .checkpoint import Budget, Training
from .encoded_scenes import DROPPED, POOL, Pools
from .evaluate import figures
from .export import SCHEDULER, pipeline
from .tokenizer import build
from .train_clip import text_config, token_ids


def new_unet() -> UNet2DConditionModel:
    """An untrained U-Net: 2.2 million parameters, four heads, cross-attention at 16 x 16, 8 x 8 and in the middle."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,
        cross_attention_dim=96,
        norm_num_groups=8,
    )


class Float32Attention:
    """Attention in float32 within a bfloat16 model.

    The fused kernel's backward pass in bfloat16 takes more than half of a step at these sizes; in float32 it does not.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            layer(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2).float()
            for layer, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        with torch.autocast(q.device.type, enabled=False):
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        result: Tensor = attn.to_out[1](attn.to_out[0](mixed))
        return result


def draw_times(count: int, device: torch.device) -> Tensor:
    """Times of training, 0 to 999: a third uniform, a third normal around the middle, a third at high noise."""

    def between(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (count,), device=device)

    middle = (500 + 130 * torch.randn(count, device=device)).clamp(0, 999).long()
    of_each = torch.stack([between(0, 1000), middle, between(650, 1000)])
    return of_each[between(0, 3), torch.arange(count, device=device)]


def v_error(
    unet: UNet2DConditionModel, text: CLIPTextModel, latents: Tensor, ids: Tensor, times: Tensor, noise: Tensor
) -> Tensor:
    """Squared error of v = sqrt(abar) noise - sqrt(1 - abar) x0, for each scene."""
    kept = DDIMScheduler(**SCHEDULER).alphas_cumprod.to(times.device)[times].view(-1, 1, 1, 1)
    signal, spread = kept.sqrt(), (1 - kept).sqrt()
    noised = (signal * latents + spread * noise).contiguous(memory_format=torch.channels_last)
    v = unet(noised, times, text(ids).last_hidden_state, return_dict=False)[0].float()
    error: Tensor = (v - (signal * noise - spread * latents)).square().mean((1, 2, 3))
    return error


def train_unet(
    folder: Path,
    budget: Budget,
    *,
    batch: int = 64,
    pool: int = POOL,
    lr: float = 1.2e-3,
    bf16: bool = False,
    judged: int = 24,
    unseen: int = 256,
    start: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    workers: int = 0,
) -> None:
    """Train, and write the pipeline of averaged weights to `folder/pipeline` at every checkpoint.

    Args:
        folder: the folder of all trainings: holds `vae` and, to start the text encoder from, `clip`; checkpoints go to
            `folder/unet`.
        budget: how long; the learning rate falls over the last third.
        batch: scenes per step.
        pool: scenes held at a time.
        lr: the highest learning rate.
        bf16: compute in bfloat16, keep weights in float32; for GPUs, and processors with AMX.
        judged: captions of one object, and as many of two, drawn and judged at every checkpoint.
        unseen: scenes no training draws, for the error at every checkpoint.
        start: a pipeline folder whose U-Net and text encoder to start from, where there is no checkpoint.
        seed: of weights, noise and order; every seed has a million scenes of its own, up to seed 9.
        device: where to train.
        workers: processes that draw scenes ahead.
    """
    torch.manual_seed(seed)
    on = torch.device(device)
    tokenizer = build(folder / "pipeline" / "tokenizer")
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval().requires_grad_(False).to(on)
    unet = UNet2DConditionModel.from_pretrained(start / "unet") if start else new_unet()
    text = CLIPTextModel.from_pretrained(start / "text_encoder") if start else _start_of_text(folder / "clip")
    unet.to(on, memory_format=torch.channels_last).train()
    training = Training(folder / "unet", {"unet": unet, "text_encoder": text.to(on).train()}, lr, bf16=bf16, seed=seed)
    empty = token_ids(tokenizer, [""])[0].to(on)
    pools = Pools(vae, folder / "scenes", batch, pool, seed, workers)
    shown = pools.unseen(unseen)
    shown_ids = token_ids(tokenizer, shown.captions).to(on)
    ids_of: dict[int, Tensor] = {}

    def loss(_: float) -> Tensor:
        scenes, number = pools.at(training.step), pools.number(training.step)
        if number not in ids_of:
            ids_of.clear()
            ids_of[number] = token_ids(tokenizer, scenes.captions).to(on)
        rows = torch.randint(pool, (batch,), device=on)
        said = torch.where(torch.rand(batch, 1, device=on) < DROPPED, empty, ids_of[number][rows])
        x0 = scenes.latents[rows]
        with training.autocast():
            return v_error(unet, text, x0, said, draw_times(batch, on), torch.randn_like(x0)).mean()

    def on_save() -> None:
        with training.averaged(), torch.no_grad():
            noise = torch.randn(shown.latents.shape, generator=torch.Generator().manual_seed(3)).to(on)
            times = torch.linspace(10, 990, unseen).long().to(on)
            parts = zip(*(x.split(64) for x in (shown.latents, shown_ids, times, noise)), strict=True)
            errors = torch.cat([v_error(unet, text, *part) for part in parts])
            made = pipeline(folder / "pipeline", vae, unet, text)
            made.set_progress_bar_config(disable=True)
            quarters = {f"v_error_{k}": float(part.mean()) for k, part in enumerate(errors.chunk(4), start=1)}
            training.log(
                samples=training.step * batch, v_error=float(errors.mean()), **quarters, **figures(made, judged)
            )

    if bf16 and on.type == "cpu":
        unet.set_attn_processor(Float32Attention())
    training.run(loss, budget, every=480, on_save=on_save, constant=2 / 3)
    pools.close()


def _start_of_text(clip: Path) -> CLIPTextModel:
    """The text encoder as CLIP left it; untrained where there is no CLIP."""
    from transformers import VisionTextDualEncoderModel

    text = CLIPTextModel(text_config())
    if clip.is_dir():
        text.load_state_dict(VisionTextDualEncoderModel.from_pretrained(clip).text_model.state_dict())
    return text
