"""Train the CLIP: pictures and captions in one space.

Batches are made of pairs of scenes that differ in one thing only, since these alone teach which word belongs to which
object. A caption that happens to be true of another picture in the batch counts as true of it. During training two
small heads on the picture tower also name what lies in every cell of 16 × 16 pixels, and which coloured shapes
and which background the picture has; they are not kept.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTokenizer,
    LevitConfig,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

from .caption_truth import claims, facts, truth
from .captions import RELATIONS, relation
from .checkpoint import Budget, Training
from .drawing import BACKGROUNDS, COLOURS, SHAPES, SIZE, Object
from .scenes import Scene, pair, scene
from .tokenizer import MAX_LENGTH, build

TEMPERATURE = 14.3
"""The scale similarities start with."""


def text_config() -> CLIPTextConfig:
    """The text tower: two layers of width 96 with four heads, 0.22 million parameters."""
    return CLIPTextConfig(
        vocab_size=663,
        hidden_size=96,
        intermediate_size=192,
        projection_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        hidden_act="quick_gelu",
        bos_token_id=661,
        eos_token_id=662,
        pad_token_id=662,
    )


def new_clip() -> VisionTextDualEncoderModel:
    """An untrained CLIP: a LeViT (four convolutions, then attention at 4 x 4 and below) beside the text tower."""
    # At this size a patch transformer stays at chance for shapes, and depthwise convolutions learn them slowly.
    vision = LevitConfig(
        image_size=SIZE,
        hidden_sizes=[128, 64, 64],
        num_attention_heads=[4, 4, 4],
        depths=[2, 1, 1],
        key_dim=[16, 16, 16],
        hidden_size=64,  # the dual encoder asks for the width by this name
    )
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision, text_config(), projection_dim=64, logit_scale_init_value=float(np.log(TEMPERATURE))
    )
    return VisionTextDualEncoderModel(config)


def pixel_values(images: Tensor) -> Tensor:
    """uint8 pictures as the towers take them, -1 … 1."""
    return images.float() / 127.5 - 1


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Ids `[captions, 32]`, padded as the pipeline pads them."""
    ids: Tensor = tokenizer(captions, padding="max_length", max_length=MAX_LENGTH, return_tensors="pt").input_ids
    return ids


def image_features(model: VisionTextDualEncoderModel, images: Tensor) -> Tensor:
    """Unit vectors `[images, 64]` of uint8 pictures."""
    return F.normalize(model.get_image_features(pixel_values=pixel_values(images)).pooler_output, dim=-1)


def text_features(model: VisionTextDualEncoderModel, ids: Tensor) -> Tensor:
    """Unit vectors `[captions, 64]`."""
    return F.normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1)


def cell_labels(own: Scene) -> np.ndarray:
    """`[2, 4, 4]`: the shape (0: none) and the colour (0: none, 9: one without a name) in every cell."""
    inside = own.masks.reshape(len(own.masks), 4, 16, 4, 16).mean((2, 4))
    shapes = np.array([1 + SHAPES.index(o.shape) for o in own.objects])
    colours = np.array([1 + list(COLOURS).index(o.colour) if o.colour else 9 for o in own.objects])
    some = inside.max(0) > 0.1
    return np.stack([np.where(some, kind[inside.argmax(0)], 0) for kind in (shapes, colours)])


def kind_labels(own: Scene) -> np.ndarray:
    """`[52]`: whether the picture holds each shape in each colour, and has each background."""
    held = {(o.colour, o.shape) for o in own.objects}
    kinds = [(colour, shape) in held for colour in COLOURS for shape in SHAPES]
    return np.array(kinds + [own.background == name for name in BACKGROUNDS])


def pictures(scenes: list[Scene]) -> Tensor:
    """Their pictures, `[scenes, 3, 64, 64]` uint8."""
    return torch.from_numpy(np.stack([s.image for s in scenes])).permute(0, 3, 1, 2).contiguous()


def _article(words: str) -> str:
    return ("an " if words.startswith("orange") else "a ") + words


@torch.no_grad()
def figures(
    model: VisionTextDualEncoderModel, tokenizer: CLIPTokenizer, count: int = 300, seed: int = 20_000_000
) -> dict[str, float]:
    """How often the right caption is the nearest, on scenes not trained on.

    `colour`, `shape`, `background`: among all words, for one object. `swapped_colours`, `swapped_relation`: the caption
    of two objects against the same one with colours exchanged, or with the opposite relation.
    """

    def embed(captions: list[str]) -> Tensor:
        return text_features(model, token_ids(tokenizer, captions).to(model.device))

    def share(image: Tensor, captions: list[str], right: list[int]) -> float:
        return float(((image @ embed(captions).T).argmax(1).cpu() == torch.tensor(right)).float().mean())

    ones = [scene(seed + k, objects=1, full=True) for k in range(count)]
    seen = image_features(model, pictures(ones).to(model.device))
    things = [s.objects[0] for s in ones]
    result = {
        "colour": share(
            seen, [_article(f"{c} shape") for c in COLOURS], [list(COLOURS).index(str(o.colour)) for o in things]
        ),
        "shape": share(seen, [f"a {s}" for s in SHAPES], [SHAPES.index(o.shape) for o in things]),
        "background": share(
            seen,
            [f"a shape on a {b} background" for b in BACKGROUNDS],
            [list(BACKGROUNDS).index(s.background) for s in ones],
        ),
    }
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}

    def say(first: Object, name: str, second: Object, colours: tuple[str | None, str | None]) -> str:
        middle = " ".join(RELATIONS[name][-1])
        return f"{_article(f'{colours[0]} {first.shape}')} {middle} {_article(f'{colours[1]} {second.shape}')}"

    twos = [scene(seed + 100_000 + k, objects=2, full=True) for k in range(count)]
    twos = [s for s in twos if s.objects[0].shape != s.objects[1].shape]
    right, colours, relations = [], [], []
    for a, b in (s.objects for s in twos):
        right.append(say(a, relation(a, b), b, (a.colour, b.colour)))
        colours.append(say(a, relation(a, b), b, (b.colour, a.colour)))
        relations.append(say(a, opposite[relation(a, b)], b, (a.colour, b.colour)))
    seen = image_features(model, pictures(twos).to(model.device))
    nearness = (seen * embed(right)).sum(1)
    result["swapped_colours"] = float((nearness > (seen * embed(colours)).sum(1)).float().mean())
    result["swapped_relation"] = float((nearness > (seen * embed(relations)).sum(1)).float().mean())
    return result


def train_clip(
    folder: Path,
    budget: Budget,
    *,
    pairs: int = 12_000,
    batch: int = 64,
    start: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Train, and write the averaged weights to `folder/clip` at every checkpoint.

    Args:
        folder: the folder of all trainings; checkpoints go to `folder/clip-training`.
        budget: how long.
        pairs: pairs of scenes to draw.
        batch: scenes per step, pairs kept together.
        start: a folder with a CLIP to start from, where there is no checkpoint.
        seed: of weights, scenes and order.
        device: where to train.
    """
    torch.manual_seed(seed)
    tokenizer = build(folder / "clip")
    model = VisionTextDualEncoderModel.from_pretrained(start) if start else new_clip()
    cell_head = nn.Linear(128, 1 + len(SHAPES) + 2 + len(COLOURS))
    kind_head = nn.Linear(64, len(COLOURS) * len(SHAPES) + len(BACKGROUNDS))
    rng = np.random.default_rng(seed)
    scenes = [s for _ in tqdm(range(pairs), "drawing") for s in pair(rng)]
    images = pictures(scenes).to(device)
    cells = torch.from_numpy(np.stack([cell_labels(s) for s in scenes])).long().flatten(2).to(device)
    kinds = torch.from_numpy(np.stack([kind_labels(s) for s in scenes])).float().to(device)
    ids = token_ids(tokenizer, [s.caption for s in scenes]).to(device)
    seen, said = facts(scenes), claims([s.statement for s in scenes])
    del scenes
    for part in (model, cell_head, kind_head):
        part.to(device)
    training = Training(
        folder / "clip-training", {"clip": model, "cells": cell_head, "kinds": kind_head}, 1.5e-3, 0.02, 0.995, seed
    )

    def loss(progress: float) -> Tensor:
        chosen = (2 * torch.randint(pairs, (batch // 2, 1)) + torch.arange(2)).flatten()
        rows = chosen.to(device)
        tower = model.vision_model(pixel_values=pixel_values(images[rows]), output_hidden_states=True)
        image = F.normalize(model.visual_projection(tower.pooler_output), dim=-1)
        scores = model.logit_scale.exp().clamp(max=100) * image @ text_features(model, ids[rows]).T
        index = chosen.numpy()
        targets = torch.from_numpy(truth(seen[index], said[index])).float().to(device)
        per_image = -(scores.log_softmax(1) * targets).sum(1) / targets.sum(1)
        per_text = -(scores.log_softmax(0) * targets).sum(0) / targets.sum(0)
        shapes, colours = cell_head(tower.hidden_states[0]).split((1 + len(SHAPES), 2 + len(COLOURS)), dim=-1)
        named = F.cross_entropy(shapes.mT, cells[rows, 0]) + F.cross_entropy(colours.mT, cells[rows, 1])
        held = F.binary_cross_entropy_with_logits(kind_head(tower.pooler_output), kinds[rows], reduction="sum") / batch
        total: Tensor = 0.5 * (per_image.mean() + per_text.mean()) + 0.5 * named + 0.2 * held
        return total

    def on_save() -> None:
        with training.averaged():
            training.log(**figures(model, tokenizer))
            model.save_pretrained(folder / "clip")
            CLIPImageProcessor(
                size={"shortest_edge": SIZE},
                crop_size={"height": SIZE, "width": SIZE},
                image_mean=[0.5] * 3,
                image_std=[0.5] * 3,
            ).save_pretrained(folder / "clip")

    training.run(loss, budget, every=60, on_save=on_save)
