"""`from_single_file`: a checkpoint in one file: a whole pipeline, or a denoiser whose pipeline is somewhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import diffusers
import torch
from diffusers import (
    DiffusionPipeline,
    FluxPipeline,
    GGUFQuantizationConfig,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.loaders.single_file_utils import (
    CHECKPOINT_KEY_NAMES,
    DIFFUSERS_DEFAULT_PIPELINE_PATHS,
    LDM_VAE_KEYS,
    infer_diffusers_model_type,
    load_single_file_checkpoint,
)
from huggingface_hub import hf_hub_download
from torch import Tensor, nn

from sdprobe.model.folder import from_folder, from_hub
from sdprobe.model.hub_cache import snapshot_of
from sdprobe.model.quantized import refuse_missing_package
from sdprobe.model.saved_parts import DTYPES, classes_of, index_of

KINDS: Mapping[str, Any] = MappingProxyType(
    {
        "v1": StableDiffusionPipeline,
        "v2": StableDiffusionPipeline,
        "xl_base": StableDiffusionXLPipeline,
        "playground-v2-5": StableDiffusionXLPipeline,
        "sd3": StableDiffusion3Pipeline,
        "sd35_medium": StableDiffusion3Pipeline,
        "sd35_large": StableDiffusion3Pipeline,
        "flux-dev": FluxPipeline,
        "flux-schnell": FluxPipeline,
    }
)
"""The pipeline class of each kind of whole file, by diffusers' names of the kinds; of all others ``config`` says it."""

TEXT = ("cond_stage_model.", "conditioner.", "text_encoders.")
"""How the names of a text encoder's parameters begin in a file of a whole pipeline."""

HUB = ("cache_dir", "force_download", "local_files_only", "revision", "token")
"""The arguments of diffusers' loading that say how a file comes from the hub."""

SCALED = (".scale_weight", ".weight_scale", "scaled_fp8")
"""How the names of scales end that belong to weights of 8 bits; diffusers would leave them out."""


def from_single_file(path: Path, options: Mapping[str, Any]) -> DiffusionPipeline:
    """Load the pipeline from a file of ``.safetensors``, ``.ckpt`` or ``.gguf``.

    A file with text encoders is a whole pipeline, which diffusers reads. Of any other the denoiser is taken, and the
    autoencoder if there is one; the other parts come from ``config``.

    Args:
        path: the file.
        options: arguments of diffusers' loading, among them ``config``, a folder in diffusers' format or a hub id.
            Without ``torch_dtype`` the pipeline gets the type of the file's weights.

    Raises:
        ValueError: if the file lacks parts and there is no ``config``; if it is not what ``config`` asks for; if its
            weights are of a kind that would be read wrongly.
        ImportError: for GGUF without its package.
    """
    if "device_map" in options:
        raise ValueError("device_map= is for folders and hub ids: a single file is loaded to one device, device=")
    if "variant" in options:
        raise ValueError("variant= is for folders and hub ids: a single file is the variant that it is")
    given = dict(options)
    if path.suffix == ".gguf":
        refuse_missing_package("gguf", str(path))
        given.setdefault("quantization_config", GGUFQuantizationConfig(given.get("torch_dtype") or torch.float32))
        given.setdefault("torch_dtype", given["quantization_config"].compute_dtype)
    weights = load_single_file_checkpoint(str(path))  # memory-mapped, not read
    _refuse_scaled(path, weights, given)
    given["torch_dtype"] = given.get("torch_dtype") or _dtype_of(path, weights)
    config, whole = given.pop("config", None), any(name.startswith(TEXT) for name in weights)
    if config is None:
        pipe = kind_of(path, weights, whole).from_single_file(str(path), **given)
    else:
        folder, hub_id = _folder_of(config, given)
        kind = _pipeline_of(config, index_of(folder))
        if whole and hasattr(kind, "from_single_file") and "quantization_config" not in given:
            pipe = kind.from_single_file(str(path), config=hub_id or str(folder), **given)
        else:
            pipe = _with_parts_of(path, weights, folder, hub_id, given)
    pipe.register_to_config(_name_or_path=str(path))
    return pipe


def kind_of(path: Path, weights: Mapping[str, Tensor], whole: bool = True) -> Any:
    """Return the pipeline's class by the names of the file's parameters.

    Raises ValueError for a whole pipeline of another kind, naming the known ones, and for a denoiser alone.
    """
    if not whole:
        raise ValueError(_alone(path, weights))
    found = _diffusers_kind(weights)
    if found is None or found not in KINDS:
        known = ", ".join(dict.fromkeys(kind.__name__ for kind in KINDS.values()))
        raise ValueError(
            f"{path} holds a model of kind {found!r}, which is not known here; known are files of {known}, and any "
            f"with config=, the folder or hub id of its pipeline in diffusers' format"
        )
    return KINDS[found]


def _diffusers_kind(weights: Mapping[str, Tensor]) -> str | None:
    """Return diffusers' name of a file's kind, None if it knows none; it calls v1 what it does not know."""
    try:
        found: str = infer_diffusers_model_type(weights)
    except (LookupError, UnboundLocalError):  # some of the names of a kind, and not the others
        return None
    return None if found == "v1" and CHECKPOINT_KEY_NAMES["v1"] not in weights else found


def _alone(path: Path, weights: Mapping[str, Tensor]) -> str:
    found = _diffusers_kind(weights)
    usual = DIFFUSERS_DEFAULT_PIPELINE_PATHS.get(found or "", {}).get("pretrained_model_name_or_path")
    known = "" if found is None else f" (diffusers calls its kind {found!r})"
    return (
        f"{path} holds no text encoder{known}: say where the other parts of the pipeline come from, config=, a folder "
        f"in diffusers' format or a hub id{'' if usual is None else f', for example config={usual!r}'}"
    )


def _folder_of(config: str | Path, options: Mapping[str, Any]) -> tuple[Path, str | None]:
    """Return the folder that ``config`` names, and the hub id if it is one: the folder then has the index so far."""
    path = Path(config).expanduser()
    if path.is_dir():
        return snapshot_of(path, options.get("revision")), None
    if isinstance(config, Path) or config.count("/") != 1 or config.startswith((".", "/", "~")):
        raise FileNotFoundError(f"config={str(config)!r} is neither a folder here nor a hub id like 'owner/name'")
    return Path(hf_hub_download(config, "model_index.json", **_of_hub(options))).parent, config


def _of_hub(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in HUB if name in options}


def _pipeline_of(config: str | Path, index: Mapping[str, Any]) -> Any:
    name = index["_class_name"]
    found = getattr(diffusers, name, None) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"config={str(config)!r} is of the class {name}, which is no pipeline of diffusers")
    return found


def _with_parts_of(
    path: Path, weights: Mapping[str, Tensor], folder: Path, hub_id: str | None, options: dict[str, Any]
) -> DiffusionPipeline:
    """Load the pipeline of a folder or hub id with the denoiser of a file, and its autoencoder if it has one."""
    classes = classes_of(index_of(folder))
    own: dict[str, Any] = {}
    own |= {name: options.pop(name) for name in ("quantization_config", "disable_mmap") if name in options}
    names = [_denoiser_of(folder, classes, options)]
    if "vae" not in options and hasattr(classes.get("vae"), "from_single_file"):
        names += ["vae"] if any(name.startswith(tuple(LDM_VAE_KEYS)) for name in weights) else []
    for name in names:
        if hub_id is not None:
            hf_hub_download(hub_id, f"{name}/config.json", **_of_hub(options))
        options[name] = _part(
            path, weights, folder, name, classes[name], {"torch_dtype": options["torch_dtype"], **own}
        )
        own = {}  # only the denoiser is quantised
    return from_folder(folder, options) if hub_id is None else from_hub(hub_id, options)


def _denoiser_of(folder: Path, classes: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Return which part of the pipeline the file is: the only denoiser that is not given."""
    there = [name for name in classes if name == "unet" or name.startswith("transformer")]
    free = [name for name in there if name not in options]
    if len(free) > 1:
        raise ValueError(
            f"{folder} has the denoisers {', '.join(free)}, and a file holds one: give the other in memory, such as "
            f"{free[1]}={classes[free[1]].__name__}.from_single_file(..., config=..., subfolder={free[1]!r})"
        )
    if not free:
        raise ValueError(f"{folder} has no denoiser for the file to be: {', '.join(there) or 'none'} given")
    return free[0]


def _part(
    path: Path, weights: Mapping[str, Tensor], folder: Path, name: str, kind: Any, options: Mapping[str, Any]
) -> nn.Module:
    """Load one part from a file. Raises ValueError if it does not hold it, or not in the shapes of the folder."""
    if not hasattr(kind, "from_single_file"):
        raise ValueError(
            f"{kind.__name__}, the {name} of {folder}, is of a kind that diffusers reads from no single file: put the "
            f"weights into the folder of a pipeline in diffusers' format"
        )
    given = {"config": str(folder), "subfolder": name, "local_files_only": True, **options}
    try:
        part: nn.Module = kind.from_single_file(dict(weights), **given)
    except (LookupError, RuntimeError, ValueError, AttributeError, TypeError) as error:
        said = (str(error).strip().splitlines() or [""])[0]
        found = _diffusers_kind(weights)
        raise ValueError(
            f"{path}{'' if found is None else f', of kind {found!r},'} cannot be read as the {name} of {folder}, a "
            f"{kind.__name__} ({type(error).__name__}: {said}). Is config= the pipeline of this file?"
        ) from error
    if missing := [one for one, parameter in part.named_parameters() if parameter.is_meta]:
        raise ValueError(f"{path} lacks {len(missing)} parameters of the {name} of {folder}, for example {missing[0]}")
    return part


def _refuse_scaled(path: Path, weights: Mapping[str, Tensor], options: Mapping[str, Any]) -> None:
    """Raise ValueError for weights with scales beside them, which would be read without."""
    scaled = next((name for name in weights if name.endswith(SCALED)), None)
    if scaled is not None and "quantization_config" not in options:
        raise ValueError(
            f"{path} holds weights of 8 bits with scales beside them ({scaled}), which diffusers does not read: take "
            f"the file in bfloat16, or GGUF"
        )


def _dtype_of(path: Path, weights: Mapping[str, Tensor]) -> torch.dtype:
    """Return the type of most of a file's numbers. Raises ValueError for one that nothing is computed in."""
    counts: Counter[torch.dtype] = Counter()
    for own in weights.values():
        if isinstance(own, Tensor) and own.is_floating_point():
            counts[own.dtype] += own.numel()
    found = counts.most_common(1)[0][0] if counts else torch.float32
    if found not in DTYPES.values():
        raise ValueError(f"{path} stores weights as {found}, which nothing is computed in: say dtype=torch.bfloat16")
    return found
