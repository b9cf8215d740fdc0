"""The files in which sparse autoencoders are published, read without unpickling anything.

=====================  ==================================================  ============================================
format                 files                                               weights
=====================  ==================================================  ============================================
plain                  a ``.safetensors`` file                             ``W_enc``, ``b_enc``, ``W_dec``, ``b_dec``,
                                                                           and ``threshold`` for JumpReLU
sae-lens               ``cfg.json``, ``sae_weights.safetensors``           the same
sparsify (EleutherAI)  ``cfg.json``, ``sae.safetensors``                   ``encoder.weight``, ``encoder.bias``,
                                                                           ``W_dec``, ``b_dec``
SDXL-unbox             ``config.json``, ``state_dict.pth`` or              ``encoder.weight``, ``latent_bias``,
                       ``state_dict.safetensors``                          ``decoder.weight``, ``pre_bias``
=====================  ==================================================  ============================================

A plain file says its activation function in its metadata, ``{"sae": '{"architecture": "topk", "k": 10}'}``; or it is
given to `SparseAutoencoder.load`. A file with a threshold is a JumpReLU. The SAEs of SDXL-unbox (Surkov et al. 2024,
Unpacking SDXL Turbo) read the difference of a transformer block's output and input: `Features` with ``of="update"``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sdprobe.core.activations.form import read_json
from sdprobe.core.finite import refuse_not_finite
from sdprobe.core.torch_names import name_of
from sdprobe.files.atomic_file import write_atomically
from sdprobe.sae.activation_function import ActivationFunction, JumpReLU, ReLU, TopK

PLAIN = ("W_enc", "b_enc", "W_dec", "b_dec")
NO_NORMALISATION = (None, "none", False)


class Weights(NamedTuple):
    """What a file holds, in the order of `SparseAutoencoder`'s arguments."""

    W_enc: Float[Tensor, "width features"]
    b_enc: Float[Tensor, " features"]
    W_dec: Float[Tensor, "features width"]
    b_dec: Float[Tensor, " width"]
    activation: ActivationFunction
    apply_b_dec_to_input: bool = True


def read_weights(path: Path, activation: ActivationFunction | None = None) -> Weights:
    """Read a file or folder in one of the formats.

    Raises:
        FileNotFoundError: if nothing is there.
        ValueError: for a format that is not known, one that says what cannot be computed, and NaN and infinity.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {str(path)!r} to load a sparse autoencoder from")
    weights = _read(path, activation)
    learned = {name: getattr(weights, name) for name in PLAIN}
    if isinstance(weights.activation, JumpReLU):
        learned["threshold"] = weights.activation.threshold
    for name, own in learned.items():
        refuse_not_finite(name, own.float())
    return weights


def _read(path: Path, activation: ActivationFunction | None) -> Weights:
    if path.is_file():
        return _of_file(path, activation)
    for (config, weights), read in FOLDERS.items():
        if (path / config).exists() and (path / weights).exists():
            return read(_json(path / config), _tensors(path / weights)[0], activation)
    found = ", ".join(sorted(own.name for own in path.iterdir())[:8]) or "nothing"
    known = "; ".join(f"{config} and {weights}" for config, weights in FOLDERS)
    raise ValueError(f"the folder holds {found}, and none of the known pairs: {known}")


def write_weights(path: Path, weights: Weights) -> None:
    """Write a plain file if the path ends in ``.safetensors``, else a folder of sae-lens."""
    named = {"ReLU": "standard", "TopK": "topk", "JumpReLU": "jumprelu"}
    activation = weights.activation
    said: dict[str, Any] = {
        "architecture": named[type(activation).__name__],
        "apply_b_dec_to_input": weights.apply_b_dec_to_input,
    }
    tensors = {name: getattr(weights, name).detach().cpu().contiguous() for name in PLAIN}
    if isinstance(activation, TopK):
        said["k"] = activation.k
    if isinstance(activation, JumpReLU):
        tensors["threshold"] = activation.threshold.detach().cpu().contiguous()
    if path.suffix == ".safetensors":
        with write_atomically(path) as beside:
            save_file(tensors, beside, {"sae": json.dumps(said)})
        return
    width, features = weights.W_enc.shape
    said |= {"d_in": width, "d_sae": features, "dtype": name_of(weights.W_enc.dtype), "normalize_activations": "none"}
    path.mkdir(parents=True, exist_ok=True)
    with write_atomically(path / "sae_weights.safetensors") as beside:
        save_file(tensors, beside)
    with write_atomically(path / "cfg.json") as beside:
        beside.write_text(json.dumps(said, indent=2))


def _of_file(path: Path, activation: ActivationFunction | None) -> Weights:
    tensors, metadata = _tensors(path)
    if "encoder.weight" in tensors and "W_dec" not in tensors:
        return _sdxl_unbox({}, tensors, activation)
    said = read_json(metadata["sae"]) if "sae" in metadata else {}
    if not said and activation is None and "threshold" not in tensors:
        raise ValueError(
            "the file does not say its activation function: give it, as in SparseAutoencoder.load(path, "
            "activation=TopK(10)); it is TopK(k), ReLU() or JumpReLU(threshold)"
        )
    return _sae_lens({"architecture": "jumprelu" if "threshold" in tensors else "standard"} | said, tensors, activation)


def _sae_lens(said: Mapping[str, Any], tensors: Mapping[str, Tensor], activation: ActivationFunction | None) -> Weights:
    refused = {
        "normalize_activations": (NO_NORMALISATION, "fold it into the weights in sae-lens before saving"),
        "finetuning_scaling_factor": ((None, False), "fold it into W_dec before saving"),
        "rescale_acts_by_decoder_norm": ((None, False), "fold the norms into the weights in sae-lens before saving"),
    }
    for name, (usual, instead) in refused.items():
        if said.get(name) not in usual:
            raise ValueError(f"this autoencoder has {name}={said[name]!r}, which is not computed here: {instead}")
    _need(tensors, PLAIN)
    kind = said.get("architecture", "standard")
    older = said.get("activation_fn", said.get("activation_fn_str", "relu"))  # sae-lens before version 6
    if kind == "standard" and older == "topk":
        kind = "topk"
    if activation is None and kind == "topk":
        further = said.get("activation_fn_kwargs") or {}
        if not isinstance(further, dict):
            raise ValueError(f"activation_fn_kwargs={further!r} are no settings by name")
        activation = TopK(_count(said.get("k", further.get("k"))))
    elif activation is None and kind == "jumprelu":
        _need(tensors, ("threshold",))
        activation = JumpReLU(tensors["threshold"])
    elif activation is None and kind == "standard" and older == "relu":
        activation = ReLU()
    elif activation is None:
        what = f"the activation function {older!r}" if kind == "standard" else f"the architecture {kind!r}"
        raise ValueError(f"this autoencoder has {what}; what can be loaded: standard (ReLU), topk, jumprelu")
    W_enc, b_enc, W_dec, b_dec = (tensors[name] for name in PLAIN)
    return Weights(W_enc, b_enc, W_dec, b_dec, activation, bool(said.get("apply_b_dec_to_input", True)))


def _sparsify(said: Mapping[str, Any], tensors: Mapping[str, Tensor], activation: ActivationFunction | None) -> Weights:
    _need(tensors, ("encoder.weight", "encoder.bias", "W_dec", "b_dec"))
    if said.get("transcode") or said.get("skip_connection") or "W_skip" in tensors:
        raise ValueError("these are the weights of a transcoder, which predicts another vector than the one it reads")
    if said.get("activation", "topk") != "topk":
        raise ValueError(f"this autoencoder has activation={said['activation']!r}; what can be loaded: topk")
    enc, bias = tensors["encoder.weight"].T.contiguous(), tensors["encoder.bias"]
    return Weights(enc, bias, tensors["W_dec"], tensors["b_dec"], activation or TopK(_count(said.get("k"))))


def _sdxl_unbox(
    said: Mapping[str, Any], tensors: Mapping[str, Tensor], activation: ActivationFunction | None
) -> Weights:
    _need(tensors, ("encoder.weight", "latent_bias", "decoder.weight", "pre_bias"))
    enc, dec = (tensors[name].T.contiguous() for name in ("encoder.weight", "decoder.weight"))
    return Weights(enc, tensors["latent_bias"], dec, tensors["pre_bias"], activation or TopK(_count(said.get("k"))))


def _need(tensors: Mapping[str, Tensor], names: tuple[str, ...]) -> None:
    if missing := [name for name in names if name not in tensors]:
        raise ValueError(f"the weights {', '.join(missing)} are missing; there are: {', '.join(tensors) or 'none'}")


def _count(k: Any) -> Any:
    if k is None:
        raise ValueError("how many features are kept, k, is not said: give it, as in load(path, activation=TopK(10))")
    return int(k) if isinstance(k, float) and k.is_integer() else k  # TopK refuses the rest


def _json(path: Path) -> Mapping[str, Any]:
    try:
        return read_json(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path.name} holds no settings by name: {error}") from None


def _tensors(path: Path) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    """Return the tensors of a file, and its metadata."""
    if path.suffix in (".pth", ".pt", ".bin"):
        return _of_torch(path), {}
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 no dict
    except SafetensorError as error:
        raise ValueError(f"{path.name} is not a file of safetensors ({error})") from None


def _of_torch(path: Path) -> Mapping[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken or hostile file can cause any error
        raise ValueError(f"{path.name} cannot be read without unpickling it ({type(error).__name__})") from None
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(own, Tensor) for own in content.values()):
        raise ValueError(f"{path.name} holds a {type(content).__name__}, not weights by name")
    return content


FOLDERS: Mapping[tuple[str, str], Callable[..., Weights]] = {
    ("cfg.json", "sae_weights.safetensors"): _sae_lens,
    ("cfg.json", "sae.safetensors"): _sparsify,
    ("config.json", "state_dict.safetensors"): _sdxl_unbox,
    ("config.json", "state_dict.pth"): _sdxl_unbox,
}
"""The file of settings and the file of weights in a folder, and what reads them."""
