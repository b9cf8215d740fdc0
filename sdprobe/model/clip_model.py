"""`Clip`: a CLIP model with its tokenizer and image processor (Radford et al. 2021)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, CLIPModel, VisionTextDualEncoderModel

from sdprobe import shapes
from sdprobe.core.prompt import Prompt
from sdprobe.model import loading
from sdprobe.model.text.tokenize_prompt import read

Picture = Image.Image | NDArray[Any]
Pictures = Picture | Sequence[Picture] | Tensor
FAMILIES = {"clip": CLIPModel, "vision-text-dual-encoder": VisionTextDualEncoderModel}
INTERPOLATION = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}
LIVE = "a model that is live already goes with its own parts: Clip(model, tokenizer, image_processor)"


class Clip:
    """A CLIP model, its tokenizer and its image processor. Made by `sdprobe.clip.load`.

    >>> import sdprobe
    >>> clip = sdprobe.clip.load()
    >>> clip
    Clip(VisionTextDualEncoderModel, ... M parameters, 64 dimensions)
    >>> clip.text_features(["a red circle", "a blue star"]).shape
    torch.Size([2, 64])

    Args:
        model: a `CLIPModel` of transformers, or a `VisionTextDualEncoderModel` with CLIP's text tower.
        tokenizer: its fast tokenizer.
        image_processor: prepares images for the image tower.
    """

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any) -> None:
        self.model, self.tokenizer, self.image_processor = model, tokenizer, image_processor

    @property
    def device(self) -> torch.device:
        """The device it computes on. ``clip.model.to(...)`` moves it."""
        device: torch.device = self.model.device
        return device

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """The factor of the cosines before a softmax: 1 / temperature, exp(t) in Radford et al. 2021, Fig. 3."""
        scale: Tensor = self.model.logit_scale.exp()
        return scale

    def read(self, text: str) -> Prompt:
        """Return the text as the text tower reads it; warns if words are cut off at the end of the context.

        >>> import sdprobe
        >>> sdprobe.clip.load().read("a red circle").positions("<end>")
        (4,)
        """
        if not isinstance(text, str):
            raise TypeError(f"a text is a string, not {type(text).__name__}")
        prompt = read(self.tokenizer, text)
        if prompt.cut:
            past = " ".join(prompt.cut)
            warnings.warn(f"CLIP reads {len(prompt.ids)} tokens; past them, and unread: {past}", stacklevel=2)
        return prompt

    def text_features(self, texts: str | Sequence[str]) -> Float[Tensor, "texts dim"]:
        """Return unit vectors of texts in the common space; the cosine of two vectors is their scalar product.

        >>> import sdprobe
        >>> sdprobe.clip.load().text_features("a red circle").norm(dim=-1).round(decimals=4)
        tensor([1.])
        """
        features: Tensor = self.model.get_text_features(self._ids(texts)).pooler_output
        return F.normalize(features, dim=-1)

    def image_features(self, images: Pictures) -> Float[Tensor, "images dim"]:
        """Return unit vectors of images in the common space; see `pixel_values` for the types of images.

        >>> import torch
        >>> import sdprobe
        >>> picture = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
        >>> sdprobe.clip.load().image_features(picture)[0, 0].backward()
        >>> picture.grad.shape
        torch.Size([1, 3, 64, 64])
        """
        features: Tensor = self.model.get_image_features(self.pixel_values(images)).pooler_output
        return F.normalize(features, dim=-1)

    def pooled(self, texts: str | Sequence[str]) -> Float[Tensor, "texts width"]:
        """Return the text tower's output at the end token, after its final norm and before the projection."""
        states: Tensor = self.model.text_model(self._ids(texts)).pooler_output
        return states

    def unpooled(self, texts: str | Sequence[str]) -> Float[Tensor, "texts tokens width"]:
        """Return the text tower's output at every token, including padding, after its final norm."""
        states: Tensor = self.model.text_model(self._ids(texts)).last_hidden_state
        return states

    def pixel_values(self, images: Pictures) -> Float[Tensor, "images 3 H W"]:
        """Return images as the input of the image tower: resized, with a centre crop, normalized.

        PIL images and uint8 arrays go through the model's own image processor. A tensor goes through the same steps in
        torch, so that the result is differentiable. At the tower's own size both results are equal; if an image must be
        resized, the processor rounds to whole grey levels and torch does not, so they differ by about one level of 255
        at most.

        >>> import sdprobe
        >>> from sdprobe.shapes import scene
        >>> sdprobe.clip.load().pixel_values(scene(0).image).shape
        torch.Size([1, 3, 64, 64])

        Args:
            images: a PIL image, a uint8 array ``[H, W, 3]``, several of these of any sizes, or a floating-point
                tensor ``[images, 3, H, W]`` in [0, 1].
        """
        if isinstance(images, Tensor):
            return self._prepared(images).to(self.device, self.model.dtype)
        several = [images] if isinstance(images, (Image.Image, np.ndarray)) else images
        if not isinstance(several, Sequence) or isinstance(several, str):
            raise _no_picture(several)
        if not several:
            raise ValueError("there is no picture here: give one or more")
        values: Tensor = self.image_processor([_pil(one) for one in several], return_tensors="pt").pixel_values
        return values.to(self.device, self.model.dtype)

    def _prepared(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise ValueError(f"pictures as a tensor are [images, 3, H, W]; this one is {list(images.shape)}")
        if not images.is_floating_point():
            raise TypeError(f"pictures as a tensor are floating-point in [0, 1], not {images.dtype}: divide by 255")
        low, high = (float(end.detach()) for end in images.aminmax())
        if low < -0.1 or high > 1.1:
            raise ValueError(f"pictures as a tensor are in [0, 1]; this one goes from {low:.3g} to {high:.3g}")
        own = self.image_processor
        if own.do_resize:
            images = _resized(images, own.size, own.resample)
        if own.do_center_crop:
            left, top = (
                int((images.shape[-1] - own.crop_size["width"]) / 2),
                int((images.shape[-2] - own.crop_size["height"]) / 2),
            )
            right = images.shape[-1] - own.crop_size["width"] - left
            bottom = images.shape[-2] - own.crop_size["height"] - top
            images = F.pad(images, (-left, -right, -top, -bottom))  # negative padding crops
        if own.do_normalize:
            mean, std = (images.new_tensor(each)[:, None, None] for each in (own.image_mean, own.image_std))
            images = (images - mean) / std
        return images

    def _ids(self, texts: str | Sequence[str]) -> Int[Tensor, "texts tokens"]:
        several = [texts] if isinstance(texts, str) else list(texts)
        if not several:
            raise ValueError("there is no text here: give one or more")
        return torch.tensor([self.read(text).ids for text in several], device=self.device)

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.model.parameters())
        kind, dim = type(self.model).__name__, self.model.config.projection_dim
        return f"Clip({kind}, {count / 1e6:.1f} M parameters, {dim} dimensions)"


def load(
    source: str | Path | Clip | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> Clip:
    """Load a CLIP model.

    Its parameters are frozen: gradients reach only its inputs.

    >>> import sdprobe
    >>> sdprobe.clip.load()
    Clip(VisionTextDualEncoderModel, ... M parameters, 64 dimensions)

    Args:
        source: None for the CLIP of the embedded model (offline); a folder in transformers' format, with tokenizer and
            image processor; a hub id such as ``"openai/clip-vit-base-patch32"``; or a `Clip`, which is used as it is
            (and moved or cast if ``dtype`` or ``device`` is given).
        dtype: the parameters' type, for example ``torch.float16``; None keeps the saved type.
        device: the device, for example ``"cuda"``.

    Raises:
        FileNotFoundError: for a path that does not exist, or a folder without tokenizer or image processor.
        ValueError: for a model that is not a CLIP with two towers.

    Source: Radford et al. 2021, Learning Transferable Visual Models From Natural Language Supervision.
    """
    if source is not None and not isinstance(source, (str, Path, Clip)):
        raise TypeError(f"a CLIP is a folder, a hub id or a Clip, not {type(source).__name__}; {LIVE}")
    own = source if isinstance(source, Clip) else _loaded(source)
    if device is not None and torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r} was asked for, but torch sees no GPU here")
    own.model.to(**{k: v for k, v in {"dtype": dtype, "device": device}.items() if v is not None})
    return own


def given_or_embedded(clip: Clip | str | Path | None) -> Clip:
    """Return the CLIP to use; None is the embedded model's, which is loaded once."""
    return _embedded() if clip is None else load(clip)


@cache
def _embedded() -> Clip:
    return load()


def _loaded(source: str | Path | None) -> Clip:
    path = shapes.WEIGHTS / "clip" if source is None else Path(source).expanduser()
    if path.is_dir() and not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path} holds no config.json: it is no folder in transformers' format")
    if not path.is_dir() and (str(source).count("/") != 1 or str(source).startswith((".", "/", "~"))):
        raise FileNotFoundError(f"{source} is neither a folder here nor a hub id like 'owner/name'")
    place: dict[str, Any] = {"local_files_only": path.is_dir(), "trust_remote_code": False}
    name = path if path.is_dir() else str(source)
    config = AutoConfig.from_pretrained(name, **place)
    kind = FAMILIES.get(config.model_type)
    if kind is None or config.text_config.model_type != "clip_text_model":
        found = config.model_type if kind is None else f"{config.model_type} with {config.text_config.model_type}"
        raise ValueError(f"{source} is of the type {found!r}; a CLIP here is one of {', '.join(FAMILIES)}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **place)
        image_processor = AutoImageProcessor.from_pretrained(name, **place)
    except OSError as error:
        raise FileNotFoundError(
            f"{source} holds a CLIP, but not both a tokenizer and an image processor: save them beside it"
        ) from error
    with loading.without_bars():
        model = kind.from_pretrained(name, **place).requires_grad_(False)
    # Some configurations have no context length, or a meaningless one.
    tokenizer.model_max_length = min(tokenizer.model_max_length, config.text_config.max_position_embeddings)
    return Clip(model, tokenizer, image_processor)


def _resized(images: Tensor, size: Any, resample: int) -> Tensor:
    height, width = images.shape[-2:]
    if short := size.get("shortest_edge"):
        new = tuple(int(short * side / min(height, width)) for side in (height, width))
    else:
        new = (size["height"], size["width"])
    if new == (height, width):
        return images
    if resample not in INTERPOLATION:
        known = ", ".join(INTERPOLATION.values())
        raise ValueError(
            f"tensors are resized by {known}; this CLIP asks for {Image.Resampling(resample).name.lower()}"
        )
    mode = INTERPOLATION[Image.Resampling(resample)]
    for to in ((height, new[1]), new):  # like PIL: first one direction, then the other, clamped after each
        images = F.interpolate(images, size=to, mode=mode, antialias=True).clamp(0, 1)
    return images


def _pil(picture: Any) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3:
        return Image.fromarray(picture)
    raise _no_picture(picture)


def _no_picture(given: Any) -> TypeError:
    shape = f" of {given.dtype} {list(given.shape)}" if hasattr(given, "shape") else ""
    return TypeError(
        f"a picture is a PIL picture or a uint8 array [H, W, 3], and several as a tensor are floating-point "
        f"[images, 3, H, W] in [0, 1]; this is {type(given).__name__}{shape}"
    )
