"""What each built-in hook recorded, as labelled arrays; of `AttentionMaps` see `attention_arrays`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from math import prod
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from PIL.Image import Image
from torch import Tensor

from sdprobe.core.activations.form import ActivationKey, RowLabel
from sdprobe.core.activations.record import ActivationRecord
from sdprobe.core.grid import named_grid
from sdprobe.core.torch_names import name_of
from sdprobe.observe.activations import Activations
from sdprobe.observe.attention_queries import AttentionQueries, QueryKey
from sdprobe.observe.attention_recorder import AttentionRecorder
from sdprobe.observe.latents import LatentRecorder
from sdprobe.observe.preview import Preview
from sdprobe.observe.self_attention_maps import SelfAttentionMaps
from sdprobe.observe.statistics import LINES, Moments, Statistics
from sdprobe.runs.export.labelled_array import Array, Coordinate, LabelledArray, along, as_numpy
from sdprobe.sae.features import Features
from sdprobe.transform.attention_loss_guidance import AttentionGuidance
from sdprobe.transform.loss_guidance import LossGuidance

Images = Mapping[str, Coordinate]
"""The coordinate of the dimension ``"image"``; nothing where the numbers are not known."""

LeftOut = str
"""Why something is in no array."""

SCALE = {"units": "the scheduler's own scale"}
WHAT = {"latents": "x_t, as it enters the step", "noise_pred": "guided noise", "denoised": "predicted x0"}


def self_attention_arrays(hook: SelfAttentionMaps, images: Images) -> Iterator[LabelledArray]:
    """Return a matrix for each grid and image."""
    for grid, total in sorted(hook.sums.items(), reverse=True):
        name = named_grid(grid)
        dims = ("image", f"position_{name}", f"seen_{name}")
        coords = dict(images)
        for dim in dims[1:]:
            coords |= along(dim, range(prod(grid)))
        attrs = {
            "long_name": "mean probability of the attention of a position of the image to another; row by row",
            "units": "probability",
            "averaged_over": ["step", "layer", "head"],
            "calls": hook.counts[grid],
            "grid": list(grid),
        }
        yield LabelledArray(f"self_attention_{name}", dims, as_numpy(total / hook.counts[grid]), coords, attrs)


def latent_arrays(hook: LatentRecorder, images: Images) -> Iterator[LabelledArray]:
    """Return what was kept of the steps; each step is read once."""
    indices, values, kept_as = hook.indices, dict[str, Array](), {}
    for at, index in enumerate(indices):
        for name, x in hook.at(index).items():
            own = as_numpy(x)
            if name not in values:
                values[name], kept_as[name] = np.empty((len(indices), *own.shape), own.dtype), name_of(x.dtype)
            values[name][at] = own
    for name, whole in values.items():
        attrs = {"long_name": WHAT[name], "kept_as": kept_as[name], **SCALE}
        yield of_latents(name, whole, along("step", indices) | dict(images), attrs)


def of_latents(name: str, values: Array, coords: Mapping[str, Coordinate], attrs: Mapping[str, Any]) -> LabelledArray:
    """Return latents as an array; the first dimension is the step, if there is a coordinate of it.

    Pictures and videos have channels and places. What the axes of other latents mean, as of sound, is not known: they
    are numbered.
    """
    before = ("step",) * ("step" in coords) + ("image",)
    own = values.shape[len(before) :]
    if len(own) not in (3, 4):
        dims = before + tuple(f"axis_{i + 1}_latents" for i in range(len(own)))
        return LabelledArray(name, dims, values, coords, attrs)
    dims = (*before, "channel", *("frame_latents",) * (len(own) - 3), "y_latents", "x_latents")
    places = along("y_latents", range(own[-2])) | along("x_latents", range(own[-1]))
    return LabelledArray(name, dims, values, {**coords, **places}, attrs)


def statistics_arrays(hook: Statistics, images: Images) -> Iterator[LabelledArray]:
    """Return each moment of each value, and the cosines."""
    coords = along("step", hook.indices) | dict(images)
    for name in LINES if hook.indices else ():
        for moment, values in zip(Moments._fields, hook[name], strict=True):  # type: ignore[index]
            attrs = {"long_name": f"{moment} of {WHAT[name]}", **SCALE}
            yield LabelledArray(f"{name}_{moment}", ("step", "image"), as_numpy(values), coords, attrs)
    if hook.indices:
        attrs = {"long_name": "cosine of the output with and without prompt; NaN without guidance", "units": "1"}
        yield LabelledArray("cosine", ("step", "image"), as_numpy(hook.cosine), coords, attrs)


def loss_arrays(hook: LossGuidance | AttentionGuidance, images: Images) -> Iterator[LabelledArray]:
    """Return the columns of the hook's table, named after its class."""
    coords = along("step", hook.indices) | dict(images)
    kept = {"losses": "loss before the change", "norms": "norm of the gradient", "pushes": "number of updates"}
    kept["changes"] = "root mean square of the change, in standard deviations of what is changed"
    for name, said in kept.items():
        if hook.indices and hasattr(type(hook), name):
            own = f"{_snake(type(hook).__name__)}_{name}"
            values = as_numpy(getattr(hook, name))
            yield LabelledArray(own, ("step", "image"), values, coords, {"long_name": said})


def preview_arrays(hook: Preview, images: Images) -> Iterator[LabelledArray]:
    """Return the pictures of the steps, and the last."""
    for name in hook.keep if hook.indices else ():
        pictures = np.stack([_pixels(step, hook.frames) for step in hook[name]])
        yield of_pictures(f"preview_{name}", pictures, along("step", hook.indices) | dict(images), WHAT[name])
    with suppress(AttributeError):  # in a run that has not come to its end
        yield of_pictures("preview_final", _pixels(hook.final, hook.frames), images, "final latents")


def picture_arrays(pictures: Sequence[Image], images: Images) -> Iterator[LabelledArray]:
    """Return the pictures of a run; of videos, the frames of each."""
    if pictures:
        frames = len(pictures) // len(images["image"][1]) if images else 1
        yield of_pictures("picture", _pixels(pictures, frames), images, "")


def of_pictures(name: str, values: Array, coords: Mapping[str, Coordinate], of: str) -> LabelledArray:
    """Return pictures as an array; the first dimension is the step, if there is a coordinate of it."""
    *_, h, w, _ = values.shape
    y, x = (f"{axis}_{'preview' if name.startswith('preview') else name}" for axis in "yx")
    before = ("step",) * ("step" in coords) + ("image",)
    frame = ("frame_preview" if name.startswith("preview") else "frame",) * (values.ndim - len(before) - 3)
    dims = (*before, *frame, y, x, "rgb")
    places = along(y, range(h)) | along(x, range(w)) | along("rgb", ("red", "green", "blue"))
    attrs = {"long_name": f"picture of the {of}" if of else "picture", "units": "0 to 255"}
    return LabelledArray(name, dims, values, {**coords, **places}, attrs)


def activation_arrays(hook: Activations, images: Images) -> Iterator[LabelledArray | LeftOut]:
    """Return an array for each tensor that is of the same shape and the same rows in all steps."""
    return _of_record(hook.record, "activation")


def probability_arrays(hook: AttentionRecorder, images: Images) -> Iterator[LabelledArray | LeftOut]:
    """Return the probabilities of each site, to the text and to the picture, as those of activations."""
    return _of_record(hook.record, "probabilities")


def query_arrays(hook: AttentionQueries, images: Images) -> Iterator[LabelledArray]:
    """Return the queries of each module; those of a further call in a step by themselves."""
    keys = list(hook.queries)
    for layer, call in dict.fromkeys((key.layer, key.call) for key in keys):
        steps = [key.step for key in keys if (key.layer, key.call) == (layer, call)]
        x, grid = torch.stack([hook.queries[QueryKey(step, layer, call)] for step in steps]), hook.grids_of[layer]
        places = [f"{axis}_{layer}" for axis in ("frame", "y", "x")[-len(grid) :]]
        dims = ("step", "image", f"head_{layer}", *places, f"width_{layer}")
        coords = along("step", steps) | dict(images)
        for dim, size in zip(places, grid, strict=True):
            coords |= along(dim, range(size))
        attrs = {"module": layer, "call": call, "scale": hook.scales[layer], "kept_as": name_of(x.dtype)}
        name = f"queries_{layer}" + f"_{call}" * bool(call)
        values = as_numpy(x.unflatten(3, grid))
        yield LabelledArray(name, dims, values, coords, {"long_name": "queries of cross-attention", **attrs})


def _of_record(record: ActivationRecord, what: str) -> Iterator[LabelledArray | LeftOut]:
    for key in record.keys:
        indices = record.indices_of(key)
        form = record.form_of(indices[0], key)
        try:
            x = record[key]
        except KeyError as error:
            yield str(error.args[0])
            continue
        own = {"rows": "row", "h": f"y_{key.name}", "w": f"x_{key.name}", "keys": f"keys_{key.stream}_{key.name}"}
        dims = ("step", *(own.get(axis, f"{axis.replace(' ', '_')}_{key.name}") for axis in form.axes))
        coords = _of_rows(form.rows)
        for name, size in zip(dims, x.shape, strict=True):
            coords |= along(name, range(size)) if name.startswith(("y_", "x_")) else {}
        if form.positions is not None:
            coords["token_kept"] = (("row", f"tokens_{key.name}"), np.array(form.positions))
        attrs = {of: list(at) for of in ("grid", "image", "text") if (at := getattr(form, of)) is not None}
        array = LabelledArray(_named(what, key), dims, as_numpy(x), coords, {**attrs, **_of_key(key, x)})
        yield array.at_steps(indices)


def feature_arrays(hook: Features, images: Images) -> Iterator[LabelledArray | LeftOut]:
    """Return the activations that were kept of each place, strongest first, and the numbers of their features."""
    record = hook.record
    for key in record.keys:
        reads = {index: record._reads(index, key) for index in record.indices if (index, key) in record._kept}
        rows = [tuple(row for read in own for row in read.rows) for own in reads.values()]
        if len(set(rows)) > 1:
            yield f"the features of {key} have not the same rows in all steps: read each step with at(step)"
            continue
        numbers = images["image"][1] if images else None
        labels = [row if numbers is None else row._replace(image=int(numbers[row.image])) for row in rows[0]]
        for what in ("values", "indices"):
            x = torch.stack([torch.cat([getattr(read, what).value for read in own]) for own in reads.values()])
            dims = ("step", "row", f"position_{key.name}", f"kept_{key.name}")
            said = "activations of the features kept" if what == "values" else "numbers of the features kept"
            attrs = {"long_name": said, "features": record.features, **_of_key(key, x)}
            name = _named(f"feature_{what}", key)
            yield LabelledArray(name, dims, as_numpy(x), _of_rows(labels), attrs).at_steps(list(reads))


def _named(what: str, key: ActivationKey) -> str:
    parts = (key.name, key.side * (key.side != "output"), key.stream * (key.stream != "hidden"))
    return "_".join([what, *filter(None, parts), *[str(key.call)] * bool(key.call)]).replace(" ", "_")


def _of_rows(rows: Sequence[RowLabel]) -> dict[str, Coordinate]:
    columns = zip(("row_image", "row_role", "row_prompt"), zip(*rows, strict=True), strict=True)
    return along("row", range(len(rows))) | {name: (("row",), np.array(values)) for name, values in columns}


def _of_key(key: ActivationKey, x: Shaped[Tensor, ...]) -> dict[str, Any]:
    return {"module": key.name, "side": key.side, "stream": key.stream, "call": key.call, "kept_as": name_of(x.dtype)}


def _pixels(pictures: Iterable[Image], frames: int = 1) -> Array:
    every = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return every if frames < 2 else every.reshape(-1, frames, *every.shape[1:])


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
