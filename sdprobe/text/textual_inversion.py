"""`learn_concept`: textual inversion, a new word learned from a few images (Gal et al. 2022, section 4)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL.Image import Image, fromarray
from torch import Tensor
from tqdm.auto import tqdm

from sdprobe.core.concept import Concept
from sdprobe.files.atomic_file import write_atomically
from sdprobe.model.base import Model
from sdprobe.model.diffusion.forward_process import ForwardProcess
from sdprobe.model.families.stable_diffusion import StableDiffusion
from sdprobe.model.loading import load
from sdprobe.model.text.concept_training import ENCODER, STATE, ConceptTraining, evaluating

TEMPLATES = ("a {}", "a photo of a {}", "a picture of a {}", "a drawing of a {}", "an image of a {}")
Picture = Image | NDArray[np.uint8]


def learn_concept(
    model: Model | Any,
    images: Picture | Sequence[Picture],
    token: str,
    *,
    init_word: str,
    vectors: int = 1,
    steps: int = 1000,
    batch: int = 4,
    lr: float = 0.05,
    templates: Sequence[str] = TEMPLATES,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    every: int = 100,
    progress: bool = True,
) -> Concept:
    """Learn token embeddings for what some images have in common; the model itself is not changed.

    The vectors are trained with the loss of the model: noise is added to the images, and the denoiser predicts it,
    given captions that contain the token. Only the vectors are trained. Every vector keeps its initial norm: without
    this, its norm grows during training, and a larger vector reduces the influence of the rest of the prompt. The
    meaning is in its direction.

    >>> import sdprobe
    >>> from sdprobe.shapes import Object, render
    >>> model, magenta = sdprobe.load(), (225, 30, 160)
    >>> pictures = [render([Object(shape, None, (32, 32), 15, magenta)]).image for shape in ("circle", "star")]
    >>> concept = sdprobe.learn_concept(
    ...     model, pictures, "<hue>", init_word="pink", templates=["a {} shape"], steps=3, progress=False
    ... )
    >>> concept, len(concept.losses)
    (Concept('<hue>', 1 × 96, 3 losses), 3)
    >>> use = sdprobe.UseConcept(concept)
    >>> run = sdprobe.sample(model, "a <hue> ring", hooks=[use], steps=3, seed=0, progress=False)

    Args:
        model: the result of `sdprobe.load`, or a live pipeline, of Stable Diffusion 1 or 2. Half precision may lose
            small
            gradients: load float32 or bfloat16.
        images: the images, three to five or more: PIL, or arrays ``[H, W, 3]`` of uint8. Each is resized to the model's
            own size, with a centre crop.
        token: the new word, which the tokenizer must not know yet, for example ``"<hue>"``.
        init_word: the word to start from, a general name of what is learned: one token, or as many as ``vectors``.
        vectors: how many tokens the new word has. More can hold more detail, but have less effect in new prompts.
        steps: number of training steps.
        batch: images per step, each with a random caption, noise level and noise. The noise levels are spread evenly
            over the batch, which reduces variance.
        lr: the step size, relative to the root mean square of the initial vector, so that it means the same for every
            encoder. For Stable Diffusion, 0.035 corresponds to diffusers' usual 5e-4.
        templates: captions, with ``{}`` for the word. What the captions describe, the vectors do not need to learn: for
            a colour, ``"a {} shape"``.
        seed: the seed of every random choice and of the noise.
        checkpoint: a file for the training state. If it exists, training continues from it, with the same result, bit
            for bit, as without the interruption; with more ``steps`` than before, training goes on to the new number.
        every: steps between checkpoints.
        progress: show a progress bar.

    Returns:
        The concept: its vectors, its token, and the loss of every step. `Concept.save` writes it for diffusers;
        `UseConcept` uses it in a run.

    Raises:
        ValueError: for invalid arguments, before anything runs; for a checkpoint that was made with other arguments, or
            a file that is not a checkpoint.
        FloatingPointError: if the loss or its gradient is no longer finite.

    Source: Gal et al. 2022, An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual
    Inversion, section 4. The constant norm is after Alaluf et al. 2023, A Neural Space-Time Representation for
    Text-to-Image Personalization, section 4.
    """
    own = model if isinstance(model, Model) else load(model)
    if not isinstance(own, StableDiffusion):
        raise ValueError(f"concepts are learned on Stable Diffusion 1 and 2; this is a {type(own).__name__}")
    pictures = _pictures(images)
    for name, number in {"vectors": vectors, "steps": steps, "batch": batch, "every": every}.items():
        if number < 1:
            raise ValueError(f"{name} must be 1 or more, not {number}")
    if not lr > 0:
        raise ValueError(f"lr must be above 0, not {lr}")
    templates = (templates,) if isinstance(templates, str) else tuple(templates)
    if not templates or any(template.count("{}") != 1 for template in templates):
        raise ValueError(f"a template is a caption with one {{}} where the word is to stand; these are {templates}")
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise FileNotFoundError(f"checkpoint {path} must be a file in a folder that exists")
    process = ForwardProcess(own.pipe.scheduler)
    with own.lock(), torch.inference_mode(False), own.freeze_parameters(), evaluating(own):
        begun = Concept({ENCODER: _initial(own, init_word, vectors)}, token)
        told = {
            "token": token,
            "init_word": init_word,
            "vectors": vectors,
            "batch": batch,
            "lr": lr,
            "templates": list(templates),
            "seed": seed,
            "images": _digest(*(repr(picture.size).encode() + picture.tobytes() for picture in pictures)),
            "model": _digest(process.target.encode(), process.levels.numpy().tobytes(), _sample_of(own)),
        }
        lesson = ConceptTraining(own, begun, process, own.latents_of(pictures), templates, batch, lr, seed)
        if path is not None and path.exists():
            lesson.resume(_read(path, told, steps))
        with tqdm(total=steps, initial=len(lesson.losses), desc=token, disable=not progress) as bar:
            while len(lesson.losses) < steps:
                lesson.step()
                bar.set_postfix(loss=f"{np.mean(lesson.losses[-20:]):.3f}", refresh=False)
                bar.update()
                if path is not None and (len(lesson.losses) % every == 0 or len(lesson.losses) == steps):
                    _write(path, {"settings": told, **lesson.state()})
    return Concept({ENCODER: lesson.vectors()}, token, tuple(lesson.losses))


def _pictures(images: Picture | Sequence[Picture]) -> list[Image]:
    one = isinstance(images, Image) or (isinstance(images, np.ndarray) and images.ndim == 3)
    several: list[Any] = [images] if one else [*images]  # type: ignore[misc]
    if not several:
        raise ValueError("there are no pictures to learn from")
    for image in several:
        if not isinstance(image, Image) and getattr(image, "dtype", None) != np.uint8:
            raise TypeError(f"a picture is a PIL picture or an array [H, W, 3] of uint8, not {type(image).__name__}")
    return [(image if isinstance(image, Image) else fromarray(image)).convert("RGB") for image in several]


def _initial(model: StableDiffusion, word: str, vectors: int) -> Float[Tensor, "vectors width"]:
    """Return the embeddings of the initial word; if it is one token, repeated ``vectors`` times."""
    prompt = model.read(word)
    found = [i for i, role in enumerate(prompt.roles) if role == "word"]
    if not found or len(found) not in (1, vectors):
        spelt = ", ".join(prompt.tokens[i] for i in found) or "none"
        raise ValueError(
            f"init_word {word!r} is {len(found)} tokens ({spelt}): choose a word that is one token"
            + (f", or vectors={len(found)}" if found else "")
        )
    ids = torch.tensor([prompt.ids[i] for i in found], device=model.device)
    table = model.pipe.text_encoder.get_input_embeddings()
    start: Tensor = table(ids).detach().float().cpu()
    return start.expand(vectors, -1).clone()


def _digest(*contents: bytes) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()


def _sample_of(model: StableDiffusion) -> bytes:
    """Return one number of every parameter: fast to read, and enough to identify a model."""
    parts = (model.denoiser, model.pipe.text_encoder)
    numbers = [p.detach().flatten()[:1].float() for part in parts for p in part.parameters()]
    return torch.cat(numbers).cpu().numpy().tobytes()


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with write_atomically(path) as beside:
        torch.save(content, beside)


def _read(path: Path, told: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Return the checkpoint of a training with these settings. Raises ValueError for any other file."""
    with path.open("rb") as file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a broken or hostile file can cause any error
            raise ValueError(f"{path} holds no checkpoint of learn_concept ({type(error).__name__})") from None
    if not isinstance(content, dict) or not {"settings", *STATE} <= set(content):
        raise ValueError(f"{path} holds no checkpoint of learn_concept, but a {type(content).__name__}")
    made, done = content["settings"], len(content["losses"])
    hidden = ("images", "model")
    other = [
        f"other {name}" if name in hidden else f"{name}={made.get(name)!r}, not {told[name]!r}"
        for name in told
        if made.get(name) != told[name]
    ]
    if done > steps:
        other.append(f"{done} steps, more than {steps}")
    if other:
        raise ValueError(
            f"checkpoint {path} was made with {'; '.join(other)}: give what it was made with, or another checkpoint"
        )
    return content
