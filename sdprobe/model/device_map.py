"""`device_map`: a pipeline whose parts are on several devices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import dispatch_model
from diffusers import DiffusionPipeline
from torch import nn

OWN = ("max_memory", "offload_folder", "use_safetensors")
"""What diffusers' loading and that of a part call by the same name."""


def check_device_map(device_map: Any, device: Any) -> None:
    """Raise ValueError for a device beside a map, and for a map to a GPU that is not there."""
    if device_map is None:
        return
    if device is not None:
        raise ValueError(f"device_map={device_map!r} says where the parts are: leave device={str(device)!r} out")
    if not isinstance(device_map, (str, Mapping)):
        raise TypeError(f"device_map is a text or names of parts with their devices, not {type(device_map).__name__}")
    spread = device_map.values() if isinstance(device_map, Mapping) else (device_map,)
    if any(_is_gpu(one) for one in spread) and not torch.cuda.is_available():
        raise ValueError(f"device_map={device_map!r} asks for a GPU, and torch sees none here")


def load_on_devices(
    folder: Path, classes: Mapping[str, Any], variants: Mapping[str, str], options: Mapping[str, Any]
) -> dict[str, nn.Module]:
    """Load the parts of a folder that ``options["device_map"]`` names, each where the map says.

    diffusers itself takes no map of parts. As with its ``"balanced"``, accelerate moves what enters a part to the
    device of that part, and what leaves it back.

    Args:
        folder: a folder in diffusers' format.
        classes: the classes of its parts, by their names.
        variants: the variant of each part that has one.
        options: the options of the loading; those of ``torch_dtype`` and of memory are used.

    Raises ValueError if the map names no part, or leaves one out: the pipeline could not run.
    """
    device_map = options["device_map"]
    parts = [name for name, kind in classes.items() if issubclass(kind, nn.Module) and name not in options]
    if unknown := [name for name in device_map if name not in (*parts, "")]:
        raise ValueError(f"device_map names {', '.join(unknown)}, which is no part to load; parts: {', '.join(parts)}")
    if lacking := [name for name in parts if name not in device_map and "" not in device_map]:
        raise ValueError(f"device_map says no device for {', '.join(lacking)}: name it, or give '' for all others")
    same = {name: options[name] for name in OWN if name in options}
    loaded: dict[str, nn.Module] = {}
    for name in parts:
        where = device_map.get(name, device_map.get(""))
        spread = where if isinstance(where, Mapping) or where in ("auto", "balanced", "sequential") else {"": where}
        dtypes = options.get("torch_dtype")
        dtype = dtypes.get(name, dtypes.get("default")) if isinstance(dtypes, Mapping) else dtypes
        own = {"torch_dtype": dtype, "device_map": spread, **same}
        if name in variants:
            own["variant"] = variants[name]
        loaded[name] = classes[name].from_pretrained(str(folder / name), **own)
        if not hasattr(loaded[name], "_hf_hook"):
            dispatch_model(loaded[name], device_map={"": loaded[name].device}, force_hooks=True)
    return loaded


def refuse_to_move(pipe: DiffusionPipeline, device: Any, dtype: Any) -> None:
    """Raise ValueError if a pipeline in memory cannot be moved or cast, saying why, and what to do.

    One that is spread over devices or offloaded stays where it is; quantised parts have the type they were loaded in.
    """
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    spread = getattr(pipe, "hf_device_map", None)
    if isinstance(spread, Mapping) and len(spread) > 1:
        places = ", ".join(f"{name}: {_written(where)}" for name, where in spread.items())
        raise ValueError(
            f"this pipeline is spread over devices ({places}): "
            f"leave device= and dtype= out and give the type where it is loaded, or call pipe.reset_device_map() before"
        )
    over = [name for name, part in parts.items() if len({*(getattr(part, "hf_device_map", None) or {}).values()}) > 1]
    if over and device is not None:
        raise ValueError(f"{', '.join(over)} is spread over devices by its hf_device_map: leave device= out")
    packed = [name for name, part in parts.items() if getattr(part, "is_quantized", False)]
    if packed and dtype is not None:
        raise ValueError(f"{', '.join(packed)} is quantised and cannot be cast: give dtype= where it is loaded")


def _written(where: Any) -> str:
    return "/".join(sorted({str(one) for one in where.values()})) if isinstance(where, Mapping) else str(where)


def _is_gpu(where: Any) -> bool:
    if isinstance(where, Mapping):
        return any(_is_gpu(one) for one in where.values())
    return isinstance(where, int) or str(where).startswith("cuda")
