"""Train the transformer with joint attention on captioned scenes, by flow matching.

Autoencoder and text encoders are the first model's, frozen: latents and the encoders' answers are computed once. What
is learnt is the straight way from a picture's latents to noise (Liu et al. 2023; Esser et al. 2024), by plain mean
squared error. Noise levels are drawn as the U-Net's times are: what the words for shapes say matters around .77, what
those for relations say above. The matrices of the blocks are trained by Muon: after the same six minutes the error
was .56, and with AdamW .61. Nothing here knows of masks or attention.
"""

from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor, nn

from . import WEIGHTS
from .checkpoint import Budget, Training
from .encoded_scenes import DROPPED, POOL, Pools
from .evaluate import figures
from .fast_joint_attention import as_stock, for_training
from .joint_model import joint_pipeline, new_transformer


def draw_levels(count: int, device: torch.device) -> Tensor:
    """Noise levels of training, 0 to 1.

    A third as the sampler's steps have them, a third around .77, where latents are as clear as in the middle of the
    U-Net's times, a third near 1.
    """
    even, high = torch.rand(2, count, device=device)
    middle = torch.sigmoid(1.2 + 0.7 * torch.randn(count, device=device))
    of_each = torch.stack([3 * even / (1 + 2 * even), middle, 0.88 + 0.12 * high])
    return of_each[torch.randint(0, 3, (count,), device=device), torch.arange(count, device=device)]


def flow_error(
    transformer: SD3Transformer2DModel, latents: Tensor, embeds: Tensor, pooled: Tensor, levels: Tensor, noise: Tensor
) -> Tensor:
    """Squared error of noise - x0, for each scene."""
    of_each = levels.view(-1, 1, 1, 1)
    flow = transformer(
        hidden_states=(1 - of_each) * latents + of_each * noise,
        timestep=1000 * levels,
        encoder_hidden_states=embeds,
        pooled_projections=pooled,
        return_dict=False,
    )[0].float()
    error: Tensor = (flow - (noise - latents)).square().mean((1, 2, 3))
    return error


@torch.no_grad()
def told(pipe: StableDiffusion3Pipeline, captions: list[str]) -> tuple[Tensor, Tensor]:
    """What the pipeline tells its transformer of captions: words and one token of zeros, and the whole."""
    embeds, _, pooled, _ = pipe.encode_prompt(
        captions, None, None, do_classifier_free_guidance=False, max_sequence_length=1
    )
    return embeds, pooled


def all_told(pipe: StableDiffusion3Pipeline, captions: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """The same for many captions, each different one encoded once; and every caption's row in it."""
    row_of = {caption: row for row, caption in enumerate(dict.fromkeys(captions))}
    different = list(row_of)
    parts = [told(pipe, different[start : start + 512]) for start in range(0, len(different), 512)]
    embeds, pooled = (torch.cat(part) for part in zip(*parts, strict=True))
    return embeds, pooled, torch.tensor([row_of[caption] for caption in captions], device=embeds.device)


@torch.no_grad()
def start(transformer: SD3Transformer2DModel, embeds: Tensor, pooled: Tensor) -> None:
    """Weights to start from.

    Linear layers keep the spread of what they are given, blocks are nearly closed and say nothing of time and caption,
    the output is zero; what comes from the encoders is brought to mean zero and spread one, channel by channel.
    """
    for layer in transformer.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    width = transformer.inner_dim
    for block in transformer.transformer_blocks:
        for norm in (block.norm1, block.norm1_context):
            nn.init.zeros_(norm.linear.weight)
            if norm.linear.out_features == 6 * width:
                for gate in (2, 5):
                    norm.linear.bias[gate * width : (gate + 1) * width] = 0.3
    for layer in (transformer.norm_out.linear, transformer.proj_out):
        nn.init.zeros_(layer.weight)
    for layer, given in (
        (transformer.context_embedder, embeds[:, 1:-1].flatten(0, 1)),  # words; the start token lies far from them
        (transformer.time_text_embed.text_embedder.linear_1, pooled),
    ):
        nn.init.normal_(layer.weight, std=len(layer.weight[0]) ** -0.5)
        layer.weight /= given.std(0)
        layer.bias.copy_(-layer.weight @ given.mean(0))


def train_joint(
    folder: Path,
    budget: Budget,
    *,
    batch: int = 32,
    pool: int = POOL,
    lr: float = 3e-3,
    bf16: bool = False,
    compiled: bool = False,
    judged: int = 24,
    unseen: int = 256,
    every: float = 600,
    weights: Path = WEIGHTS,
    seed: int = 0,
    device: str = "cpu",
    workers: int = 0,
) -> None:
    """Train, and write the pipeline of averaged weights to `folder/joint-pipeline` at every checkpoint.

    Args:
        folder: the folder of all trainings; checkpoints go to `folder/joint`.
        budget: how long; the learning rate falls over the last third.
        batch: scenes per step.
        pool: scenes held at a time.
        lr: the highest learning rate.
        bf16: compute in bfloat16, keep weights in float32.
        compiled: compile parts of attention and activations; needs a C++ compiler.
        judged: captions of one object, and as many of two, drawn and judged at every checkpoint.
        unseen: scenes no training draws, for the error at every checkpoint.
        every: seconds between checkpoints.
        weights: the first model's folder, with its CLIP, to take autoencoder, encoders and tokenizer from.
        seed: of weights, noise and order; every seed has a million scenes of its own, up to seed 9.
        device: where to train.
        workers: processes that draw scenes ahead.
    """
    torch.manual_seed(seed)
    transformer = new_transformer()
    pipe, on = joint_pipeline(weights, transformer).to(device), torch.device(device)
    pipe.set_progress_bar_config(disable=True)
    pools = Pools(pipe.vae, folder / "scenes", batch, pool, seed, workers)
    shown = pools.unseen(unseen)
    shown_told = told(pipe, shown.captions)
    start(transformer, *shown_told)
    empty, empty_pooled = told(pipe, [""])
    for_training(transformer, compiled)
    training = Training(
        folder / "joint",
        {"transformer": transformer},
        lr,
        bf16=bf16,
        muon=[transformer.transformer_blocks],
        seed=seed,
    )
    held: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def loss(_: float) -> Tensor:
        scenes, number = pools.at(training.step), pools.number(training.step)
        if number not in held:
            held.clear()
            held[number] = all_told(pipe, scenes.captions)
        embeds, pooled, row_of = held[number]
        rows = torch.randint(pool, (batch,), device=on)
        dropped = torch.rand(batch, 1, device=on) < DROPPED
        x0, said = scenes.latents[rows], row_of[rows]
        words = torch.where(dropped[..., None], empty, embeds[said])
        whole = torch.where(dropped, empty_pooled, pooled[said])
        with training.autocast():
            return flow_error(transformer, x0, words, whole, draw_levels(batch, on), torch.randn_like(x0)).mean()

    def on_save() -> None:
        with training.averaged(), torch.no_grad():
            noise = torch.randn(shown.latents.shape, generator=torch.Generator().manual_seed(3)).to(on)
            levels = torch.linspace(0.01, 1, unseen).to(on)
            for_training(transformer)  # not compiled: for other sizes and types it would be compiled anew
            every_one = (shown.latents, *shown_told, levels, noise)
            parts = zip(*(x.split(32) for x in every_one), strict=True)
            errors = torch.cat([flow_error(transformer, *part) for part in parts])
            quarters = {f"error_{k}": float(part.mean()) for k, part in enumerate(errors.chunk(4), start=1)}
            pipe.save_pretrained(folder / "joint-pipeline")
            seen = figures(pipe, judged, max_sequence_length=1) if judged else {}
            for_training(transformer, compiled)
            training.log(samples=training.step * batch, error=float(errors.mean()), **quarters, **seen)

    training.run(loss, budget, every=every, on_save=on_save, constant=2 / 3)
    pools.close()
    as_stock(transformer)
