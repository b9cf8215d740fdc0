"""`Concept`: learned token embeddings, and their files (Gal et al. 2022, "An Image is Worth One Word").

No code from a file is ever run: pickles are read as plain data, or refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sdprobe.core.finite import refuse_not_finite
from sdprobe.files.atomic_file import write_atomically

PAIR = MappingProxyType({"clip_l": "text_encoder", "clip_g": "text_encoder_2"})
"""The names of the two encoders in files for Stable Diffusion XL."""

ENCODERS = MappingProxyType(
    {**PAIR, "text_encoders_0": "text_encoder", "text_encoders_1": "text_encoder_2", "t5": "text_encoder_2"}
)
"""Also the names that diffusers' advanced DreamBooth scripts use for the encoders of SDXL and Flux."""

NAMELESS = ("*", "emb_params")  # in files, these replace the name of a token
FOLDER = ("learned_embeds.safetensors", "learned_embeds.bin")
LISTED = 10  # how many tokens of a file an error names
SHAPES = (
    "a tensor, {token: tensor}, {'clip_l': tensor, 'clip_g': tensor}, {'text_encoders_0': tensor, ...}, or "
    "{'string_to_param': {'*': tensor}}"
)
ADAPTER = re.compile(r"(?:^|[._])(?:lora[._](?:A|B|up|down|mid|te\d?|unet|linear_layer)|hada_w\d|lokr_w\d)(?:[._]|$)")
"""Matches the parameter names of a LoRA or a similar adapter."""


@dataclass(frozen=True, eq=False, repr=False)
class Concept:
    """The result of textual inversion: one or more token embeddings for each text encoder.

    >>> import torch
    >>> import sdprobe
    >>> sdprobe.Concept({"text_encoder": torch.zeros(2, 64)}, "<my-style>")
    Concept('<my-style>', 2 × 64)

    Args:
        vectors: ``[vectors, width]`` by the encoder's name in the pipeline: ``"text_encoder"``, and in Stable
            Diffusion XL also ``"text_encoder_2"``. Each encoder has the same number of vectors.
        token: the token that its file names, for example ``"<my-style>"``; None if it names none.
        losses: the training loss, one number per step.

    Raises:
        ValueError: for vectors that are not a matrix of numbers, or whose number differs between encoders.
    """

    vectors: Mapping[str, Float[Tensor, "vectors width"]]
    token: str | None = None
    losses: tuple[float, ...] = field(default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "vectors", MappingProxyType(dict(sorted(self.vectors.items()))))
        object.__setattr__(self, "losses", tuple(self.losses))
        if not (self.token is None or isinstance(self.token, str)):
            raise TypeError(f"a concept's token is a text or None, not {self.token!r}")
        if unknown := set(self.vectors) - set(PAIR.values()):
            raise ValueError(f"vectors are by encoder, {' or '.join(PAIR.values())}, not {sorted(unknown)}")
        for name, found in self.vectors.items():
            if found.ndim != 2 or not found.is_floating_point() or not found.numel():
                raise ValueError(
                    f"the vectors of {name} must be numbers [vectors, width], not {found.dtype} {list(found.shape)}"
                )
            refuse_not_finite(f"the vectors of {name}", found)
        if len({len(found) for found in self.vectors.values()}) != 1:
            raise ValueError(f"a concept has as many vectors for every encoder, and at least one, not {self._sizes()}")

    def __reduce__(self) -> tuple[Any, ...]:
        return Concept, (dict(self.vectors), self.token, self.losses)  # a mapping proxy cannot be pickled

    def __len__(self) -> int:
        """The number of vectors, which is the number of tokens it takes in a prompt."""
        return len(next(iter(self.vectors.values())))

    def save(self, path: str | Path) -> Path:
        """Write a ``.safetensors`` file that diffusers' ``load_textual_inversion`` reads.

        One encoder is written as ``{token: vectors}``, two as ``clip_l`` and ``clip_g``. The file is written completely
        or not at all.

        >>> import tempfile
        >>> import torch
        >>> import sdprobe
        >>> concept = sdprobe.Concept({"text_encoder": torch.ones(1, 64)}, "<my-style>", losses=(0.5, 0.25))
        >>> path = concept.save(Path(tempfile.mkdtemp()) / "my-style.safetensors")
        >>> sdprobe.load_concept(path)
        Concept('<my-style>', 1 × 64, 2 losses)

        Args:
            path: the file. An existing file is replaced.

        Raises:
            ValueError: for another file type.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise ValueError(f"a concept is saved as .safetensors, not as {path.name!r}")
        if set(self.vectors) == {"text_encoder"}:
            named = {self.token or NAMELESS[-1]: self.vectors["text_encoder"]}
        else:
            named = {name: self.vectors[encoder] for name, encoder in PAIR.items() if encoder in self.vectors}
        plain = {
            name: found.detach().cpu().clone(memory_format=torch.contiguous_format) for name, found in named.items()
        }
        about = {"token": json.dumps(self.token), "losses": json.dumps(self.losses)}
        with write_atomically(path) as beside:
            save_file(plain, beside, metadata={f"sdprobe.{name}": text for name, text in about.items()})
        return path

    def __repr__(self) -> str:
        said = [] if self.token is None else [repr(self.token)]
        said += [self._sizes()] + ([f"{count} loss{'es' * (count > 1)}"] if (count := len(self.losses)) else [])
        return f"Concept({', '.join(said)})"

    def _sizes(self) -> str:
        sizes = {name: " × ".join(map(str, found.shape)) for name, found in self.vectors.items()}
        if set(sizes) == {"text_encoder"}:
            return sizes["text_encoder"]
        return ", ".join(f"{name} {size}" for name, size in sizes.items())


def load_concept(path: str | Path, token: str | None = None) -> Concept:
    """Load a learned concept from any of the usual file formats.

    Formats, as ``.safetensors``, ``.bin`` or ``.pt``: ``{token: vectors}`` as diffusers writes it; the
    ``string_to_param`` files of the original code and of web UIs (a plain dict or a ``ParameterDict``); the pair
    ``clip_l`` and ``clip_g`` of Stable Diffusion XL; ``text_encoders_0`` and ``text_encoders_1`` (or ``clip_l`` and
    ``t5``) of pivotal tuning, as diffusers' advanced DreamBooth scripts write them; and a single tensor. One vector may
    be ``[width]``, several are ``[vectors, width]``. The format is recognized by the first bytes of the file, not by
    its name.

    >>> import tempfile
    >>> import torch
    >>> import sdprobe
    >>> path = Path(tempfile.mkdtemp()) / "learned_embeds.bin"
    >>> torch.save({"<my-style>": torch.zeros(64), "<dog>": torch.zeros(64)}, path)
    >>> sdprobe.load_concept(path, token="<dog>")
    Concept('<dog>', 1 × 64)

    Args:
        path: a file, or a folder that holds ``learned_embeds.safetensors`` or ``learned_embeds.bin``.
        token: which token of the file; None for the only one. A concept without a name in the file gets this name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file with other content (for example a LoRA), for several tokens if none was chosen, and
            for a pickle that would run code. None of it is executed.
    """
    held = concepts_in(path)
    if token in held:
        return held[token]
    first, *others = held.values()
    if not others and token is None:
        return first
    if not others and first.token is None:
        return replace(first, token=token)
    names = ", ".join([*map(repr, list(held)[:LISTED]), *[f"and {len(held) - LISTED} more"] * (len(held) > LISTED)])
    if token is not None:
        raise ValueError(f"{path} holds no concept {token!r}; it holds {names}")
    raise ValueError(f"{path} holds {len(held)} concepts, {names}: choose one, as in token={first.token!r}")


def concepts_in(path: str | Path) -> dict[str | None, Concept]:
    """Return every concept in a file, by its token. Raises as `load_concept` does."""
    file = _file(Path(path))
    data, about = _content(file)
    found: dict[str | None, Concept] = {}
    named = _named(data, file)
    for token, by_encoder in named.items():
        for name, value in by_encoder.items():
            if not isinstance(value, Tensor):
                raise ValueError(
                    f"{file}: of {token!r}, {name} holds {type(value).__name__}, not a tensor; read is {SHAPES}"
                )
        vectors = {n: value.detach() if value.ndim > 1 else value.detach()[None] for n, value in by_encoder.items()}
        try:
            concept = Concept(vectors, (len(named) == 1 and about.get("token")) or token, about.get("losses", ()))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file} holds no concept: {error}") from error
        found[concept.token] = concept
    return found


def _file(path: Path) -> Path:
    inside = [path / name for name in FOLDER] if path.is_dir() else [path]
    found = next((file for file in inside if file.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"no concept at {path}: there is no {' and no '.join(file.name for file in inside)}")
    return found


def _content(file: Path) -> tuple[Any, dict[str, Any]]:
    """Return the content of a file and the metadata that sdprobe wrote into it."""
    try:
        with file.open("rb") as opened:
            if opened.read(9)[8:] == b"{":
                return _tensors(file)
            opened.seek(0)
            # The class is allowed for this file only, and is replaced by a class that has no behaviour.
            with torch.serialization.safe_globals([(_Held, "torch.nn.modules.container.ParameterDict")]):
                return torch.load(opened, map_location="cpu", weights_only=True), {}
    except Exception as error:  # a broken or hostile file can cause any error
        asked = re.search(r"GLOBAL (\S+)", str(error))
        why = f"neither .safetensors nor a pickle of tensors ({type(error).__name__})"
        if asked:
            why = f"a pickle that wants to run code ({asked.group(1)}); ask for the concept as .safetensors"
        # Not `from error`: torch's message says how to run the code in spite of this.
        raise ValueError(f"{file} is {why}. Nothing of it was executed") from None


def _tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(file, framework="pt") as opened:
        own = {key: text for key, text in (opened.metadata() or {}).items() if key.startswith("sdprobe.")}
        about = {key.removeprefix("sdprobe."): json.loads(text) for key, text in own.items()}
        about["losses"] = tuple(map(float, about.get("losses", ())))
        return {name: opened.get_tensor(name) for name in opened.keys()}, about  # noqa: SIM118 it is no dict


class _Held:
    """Replaces a `ParameterDict` of any version of torch when unpickling: has the saved attributes, but no methods."""

    _parameters: Mapping[str, Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._parameters = state["_parameters"]


def _named(data: Any, file: Path) -> dict[str | None, dict[str, Any]]:
    """Return the content of a file as tensors by encoder, by token."""
    if isinstance(data, Tensor):
        return {None: {"text_encoder": data}}
    if not isinstance(data, Mapping) or not data:
        raise ValueError(f"{file} holds {type(data).__name__}; read is {SHAPES}")
    _refuse_weights(data, file)
    if set(data) <= set(ENCODERS):
        by_encoder = {ENCODERS[name]: value for name, value in data.items()}
        if len(by_encoder) != len(data):
            raise ValueError(f"{file} holds {', '.join(map(repr, data))}, two of them for one encoder")
        return {None: by_encoder}
    name = None
    if "string_to_param" in data:
        name, data = data.get("name"), data["string_to_param"]
        data = getattr(data, "_parameters", data)
    if not isinstance(data, Mapping) or not data:
        raise ValueError(f"{file} holds {type(data).__name__}, not a concept; read is {SHAPES}")
    if len(data) > 1:
        return {str(key): {"text_encoder": value} for key, value in data.items()}
    ((key, value),) = data.items()
    token = name if isinstance(name, str) and name else key
    return {None if token in NAMELESS else str(token): {"text_encoder": value}}


def _refuse_weights(data: Mapping[Any, Any], file: Path) -> None:
    """Refuse files that hold network weights, by the names of their tensors."""
    keys = [key for key in data if isinstance(key, str)]
    if adapter := next((key for key in keys if ADAPTER.search(key)), None):
        raise ValueError(
            f"{file} is a LoRA, not a concept: it holds {adapter!r}. It changes layers: load it into the pipeline, "
            f"pipe.load_lora_weights({str(file)!r}), and then sdprobe.load(pipe)"
        )
    if layer := next((key for key in keys if key.endswith((".weight", ".bias"))), None):
        raise ValueError(
            f"{file} holds the weights of a network, {layer!r} among them, not a concept; read is {SHAPES}"
        )
