"""The sums of `AttentionMatrices` as labelled arrays of mean probabilities: one for each direction and grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sdprobe.core.grid import named_grid
from sdprobe.observe.attention_matrices import AttentionMatrices
from sdprobe.observe.matrix_sums import MatrixKey
from sdprobe.runs.export.attention_arrays import spelt
from sdprobe.runs.export.labelled_array import Coordinate, LabelledArray, along, as_numpy


def matrix_arrays(hook: AttentionMatrices, images: Mapping[str, Coordinate]) -> Iterator[LabelledArray]:
    """Return mean probabilities ``[image, from, to]``, with a dimension for steps and layers that were kept apart.

    Args:
        hook: a run's copy.
        images: the coordinate of the dimension ``"image"``.
    """
    groups: dict[MatrixKey, list[MatrixKey]] = {}
    for key in hook.sums:
        groups.setdefault(key._replace(step=None, layer=None), []).append(key)
    seen: list[MatrixKey] = []
    for of, keys in groups.items():
        name = f"matrix_{of.kind}_{of.from_}_to_{of.to}_{named_grid(of.grid)}"
        name += f"_{of.role}" * (len(hook.roles) > 1)
        number = sum(own == of._replace(reading=own.reading) for own in seen)  # of other prompts, given by a callback
        seen.append(of)
        yield _array(hook, name + f"_prompt_{number + 1}" * bool(number), of, keys, images)


def _array(
    hook: AttentionMatrices, name: str, of: MatrixKey, keys: Sequence[MatrixKey], images: Mapping[str, Coordinate]
) -> LabelledArray:
    steps = list(dict.fromkeys(key.step for key in keys))
    layers = list(dict.fromkeys(key.layer for key in keys))
    first = hook.sums[keys[0]]
    whole = np.full((len(first), len(steps), len(layers), *first.shape[1:]), np.nan, dtype=np.float32)
    for key in keys:
        whole[:, steps.index(key.step), layers.index(key.layer)] = as_numpy(hook.sums[key] / hook.sums.counts[key])
    sides = {"from": of.from_, "to": of.to}
    ends = [f"{side}_token" if part == "text" else f"{side}_{named_grid(of.grid)}" for side, part in sides.items()]
    layer = f"layer_{of.kind}_{named_grid(of.grid)}"
    kept = {"step": "step" in hook.keep, layer: "layer" in hook.keep}
    dims = ("image", *(dim for dim, there in kept.items() if there), *ends)
    coords = dict(images)
    coords |= along("step", steps) if kept["step"] else {}
    coords |= along(layer, layers) if kept[layer] else {}
    for (side, part), dim, size in zip(sides.items(), ends, first.shape[1:], strict=True):
        coords |= along(dim, range(size))
        if part == "text":
            texts = [[spelt(prompt, i) for i in range(size)] for prompt in hook.readings.prompts[of.reading]]
            coords[f"{side}_token_text"] = (("image", dim), np.array(texts))
    attrs: dict[str, Any] = {
        "long_name": f"mean probability of the attention of the {of.from_} to the {of.to}; places row by row",
        "units": "probability",
        "role": of.role,
        "kind": of.kind,
        "grid": list(of.grid),
        "averaged_over": [*(own for own in ("step", "layer") if own not in hook.keep), "head"],
        "calls": sum(hook.sums.counts[key] for key in keys),
    }
    if missing := len(steps) * len(layers) - len(keys):
        attrs["missing"] = f"{missing} pairs of a step and a layer were not recorded, and are NaN"
    summed = tuple(axis + 1 for axis, there in enumerate(kept.values()) if not there)
    return LabelledArray(name, dims, whole.squeeze(summed), coords, attrs)
