"""Train the autoencoder: pictures `[3, 64, 64]` to latents `[4, 16, 16]` and back.

It sees wider pictures than captions name (any colour, more textures), so that its latents have room for what a user
teaches later. Once latents of it are in use its encoder must not change; `decoder_only` trains on behind it.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm.auto import tqdm

from .checkpoint import Budget, Training
from .drawing import COLOURS, SIZE, Image, backdrop, coverage
from .scenes import arrange, scene


def new_autoencoder() -> AutoencoderKL:
    """An untrained autoencoder: `AutoencoderKL` with 0.375 million parameters."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 24, 48),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )


def wide_picture(rng: np.random.Generator) -> Image:
    """A picture of more than captions say: any colour, striped objects, checkered and dotted grounds."""
    name = str(rng.choice(["white", "grey", "black", "striped", "striped", "checkered", "dotted"]))
    picture = backdrop(name, rng) if rng.random() < 0.85 else np.full((SIZE, SIZE, 3), rng.uniform(0, 255, 3))
    for thing in arrange(rng, int(rng.integers(1, 4))):
        named = COLOURS[thing.colour] if thing.colour and rng.random() < 0.8 else rng.uniform(0, 255, 3)
        fill = np.broadcast_to(np.clip(named + rng.uniform(-7, 7, 3), 0, 255), picture.shape)
        if rng.random() < 0.1:
            stripes = (np.arange(SIZE) + rng.uniform(0, 8)) % 6 < 3
            fill = np.where(stripes[:, None, None], fill, rng.uniform(0, 255, 3))
        picture = picture + coverage(thing)[..., None] * (fill - picture)
    return np.clip(picture, 0, 255).astype(np.uint8)


def to_tensor(pictures: list[Image]) -> Tensor:
    """Pictures as one uint8 tensor `[pictures, 3, 64, 64]`."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def scaled(pictures: Tensor) -> Tensor:
    """uint8 to -1 … 1, in the memory format convolutions like."""
    return (pictures.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def psnr(autoencoder: AutoencoderKL, pictures: Tensor) -> float:
    """Mean peak signal to noise ratio of reconstructions, in dB."""
    ratios = []
    for batch in torch.chunk(pictures, max(1, len(pictures) // 64)):
        x = scaled(batch)
        back = autoencoder.decode(autoencoder.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        ratios.append(10 * torch.log10(4 / (back - x).square().mean((1, 2, 3))))
    return float(torch.cat(ratios).mean())


def train_autoencoder(
    folder: Path,
    budget: Budget,
    *,
    pictures: int = 12_000,
    batch: int = 16,
    decoder_only: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Train, and write the averaged weights to `folder/vae` at every checkpoint.

    Args:
        folder: the folder of all trainings; checkpoints go to `folder/autoencoder` (or `folder/decoder`).
        budget: how long.
        pictures: how many to draw.
        batch: pictures per step.
        decoder_only: start from `folder/vae`, keep its encoder, and look at the squared error alone.
        seed: of weights, pictures and order.
        device: where to train.
    """
    torch.manual_seed(seed)
    model = AutoencoderKL.from_pretrained(folder / "vae") if decoder_only else new_autoencoder()
    if decoder_only:
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
    model.to(device, memory_format=torch.channels_last)
    rng = np.random.default_rng(seed + (1000 if decoder_only else 0))
    wide = 0.3 if decoder_only else 0.6
    pool = to_tensor(
        [wide_picture(rng) if rng.random() < wide else scene(rng).image for _ in tqdm(range(pictures), "drawing")]
    ).to(device)
    held_out = to_tensor([scene(10**6 + k).image for k in range(128)]).to(device)
    name = "decoder" if decoder_only else "autoencoder"
    training = Training(folder / name, {"vae": model}, 1e-3 if decoder_only else 2e-3, 0.0, 0.995, seed)

    def loss(progress: float) -> Tensor:
        x = pool[torch.randint(len(pool), (batch,), device=device)]
        if progress < 0.6:  # crops first: many more steps in the same time
            top, left = torch.randint(0, SIZE // 2 + 1, (2,)).tolist()
            x = x[:, :, top : top + SIZE // 2, left : left + SIZE // 2]
        x = scaled(x.flip(3) if torch.rand(()) < 0.5 else x)
        if decoder_only:
            with torch.no_grad():
                posterior = model.encode(x).latent_dist
            return F.mse_loss(model.decode(posterior.mean).sample, x)
        posterior = model.encode(x).latent_dist
        back = model.decode(posterior.sample()).sample
        divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        total: Tensor = F.mse_loss(back, x) + 0.3 * F.l1_loss(back, x) + 5e-5 * divergence
        return total

    def on_save() -> None:
        with training.averaged(), torch.no_grad():
            latents = torch.cat(
                [model.encode(scaled(x)).latent_dist.sample() for x in pool[:512].view(8, 64, *pool.shape[1:])]
            )
            training.log(psnr=psnr(model, held_out), latent_std=float(latents.std()))
            if not decoder_only:
                model.register_to_config(scaling_factor=float(1 / latents.std()))
            model.save_pretrained(folder / "vae")

    training.run(loss, budget, every=120, on_save=on_save)
