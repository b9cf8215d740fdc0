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
from tqdm.auto import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from .checkpoint import Budget, Training
from .evaluate import figures
from .export import SCHEDULER, pipeline
from .scenes import scene
from .tokenizer import build
from .train_autoencoder import scaled, to_tensor
from .train_clip import text_config, token_ids

POOL = 48_000
"""Scenes held at a time."""
PASSES = 4
"""How often each is seen, on average, before the next ones are drawn."""
DROPPED = 0.1
"""Share of captions left out, for classifier-free guidance."""
_VALIDATION = 256
_SCENES_PER_SEED = 1_000_000


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
        with torch.autocast("cpu", enabled=False):
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        result: Tensor = attn.to_out[1](attn.to_out[0](mixed))
        return result


@torch.no_grad()
def encode_scenes(vae: AutoencoderKL, tokenizer: CLIPTokenizer, first: int, count: int) -> tuple[Tensor, Tensor]:
    """Latents `[count, 4, 16, 16]` and caption ids `[count, 32]` of the scenes of so many seeds.

    Every other scene is of two objects; of the rest as many as `scene` draws.
    """
    noise = torch.Generator().manual_seed(first)
    latents: list[Tensor] = []
    captions: list[str] = []
    for start in tqdm(range(first, first + count, 64), "scenes", leave=False):
        scenes = [scene(seed, 2 if seed % 2 else None) for seed in range(start, min(start + 64, first + count))]
        posterior = vae.encode(scaled(to_tensor([own.image for own in scenes]))).latent_dist
        latents.append(posterior.sample(noise) * vae.config.scaling_factor)
        captions.extend(own.caption for own in scenes)
    return torch.cat(latents), token_ids(tokenizer, captions)


def draw_times(count: int) -> Tensor:
    """Times of training, 0 to 999: a third uniform, a third normal around the middle, a third at high noise."""
    middle = (500 + 130 * torch.randn(count)).clamp(0, 999).long()
    of_each = torch.stack([torch.randint(0, 1000, (count,)), middle, torch.randint(650, 1000, (count,))])
    return of_each[torch.randint(0, 3, (count,)), torch.arange(count)]


def v_error(
    unet: UNet2DConditionModel, text: CLIPTextModel, latents: Tensor, ids: Tensor, times: Tensor, noise: Tensor
) -> Tensor:
    """Squared error of v = sqrt(abar) noise - sqrt(1 - abar) x0, for each scene."""
    kept = DDIMScheduler(**SCHEDULER).alphas_cumprod[times].view(-1, 1, 1, 1)
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
    start: Path | None = None,
    seed: int = 0,
) -> None:
    """Train, and write the pipeline of averaged weights to `folder/pipeline` at every checkpoint.

    Args:
        folder: the folder of all trainings: holds `vae` and, to start the text encoder from, `clip`; checkpoints go to
            `folder/unet`.
        budget: how long; the learning rate falls over the last third.
        batch: scenes per step.
        pool: scenes held at a time.
        lr: the highest learning rate.
        bf16: compute in bfloat16, keep weights in float32; for processors with AMX.
        judged: captions of one object, and as many of two, drawn and judged at every checkpoint.
        start: a pipeline folder whose U-Net and text encoder to start from, where there is no checkpoint.
        seed: of weights, noise and order; every seed has a million scenes of its own, up to seed 9.
    """
    torch.manual_seed(seed)
    tokenizer = build(folder / "pipeline" / "tokenizer")
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    unet = UNet2DConditionModel.from_pretrained(start / "unet") if start else new_unet()
    text = CLIPTextModel.from_pretrained(start / "text_encoder") if start else _start_of_text(folder / "clip")
    unet.to(memory_format=torch.channels_last).train()
    training = Training(folder / "unet", {"unet": unet, "text_encoder": text.train()}, lr, seed=seed)
    empty = token_ids(tokenizer, [""])[0]
    unseen = encode_scenes(vae, tokenizer, 10_000_000, _VALIDATION)
    held: dict[int, tuple[Tensor, Tensor]] = {}

    def scenes_of(step: int) -> tuple[Tensor, Tensor]:
        # Which scenes are at hand depends on the step alone, so that a resumed run sees what it would have seen.
        number = step * batch // (pool * PASSES)
        if number not in held:
            held.clear()
            held[number] = encode_scenes(vae, tokenizer, seed * _SCENES_PER_SEED + number * pool, pool)
        return held[number]

    def loss(_: float) -> Tensor:
        latents, ids = scenes_of(training.step)
        rows = torch.randint(len(ids), (batch,))
        said = torch.where(torch.rand(batch, 1) < DROPPED, empty, ids[rows])
        times = draw_times(batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return v_error(unet, text, latents[rows], said, times, torch.randn_like(latents[rows])).mean()

    def on_save() -> None:
        with training.averaged(), torch.no_grad():
            noise = torch.randn(unseen[0].shape, generator=torch.Generator().manual_seed(3))
            times = torch.linspace(10, 990, _VALIDATION).long()
            parts = zip(*(x.view(-1, 64, *x.shape[1:]) for x in (*unseen, times, noise)), strict=True)
            errors = torch.cat([v_error(unet, text, *part) for part in parts])
            made = pipeline(folder / "pipeline", vae, unet, text)
            made.set_progress_bar_config(disable=True)
            quarters = {f"v_error_{k}": float(part.mean()) for k, part in enumerate(errors.chunk(4), start=1)}
            training.log(
                samples=training.step * batch, v_error=float(errors.mean()), **quarters, **figures(made, judged)
            )

    if bf16:
        unet.set_attn_processor(Float32Attention())
    training.run(loss, budget, every=480, on_save=on_save, constant=2 / 3)


def _start_of_text(clip: Path) -> CLIPTextModel:
    """The text encoder as CLIP left it; untrained where there is no CLIP."""
    from transformers import VisionTextDualEncoderModel

    text = CLIPTextModel(text_config())
    if clip.is_dir():
        text.load_state_dict(VisionTextDualEncoderModel.from_pretrained(clip).text_model.state_dict())
    return text
