"""`labelled_arrays`: all that a run recorded, as arrays with names, dimensions and coordinates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sdprobe.core.hook import Observer
from sdprobe.core.run import Run
from sdprobe.observe.activations import Activations
from sdprobe.observe.attention_maps import AttentionMaps
from sdprobe.observe.attention_matrices import AttentionMatrices
from sdprobe.observe.attention_queries import AttentionQueries
from sdprobe.observe.attention_recorder import AttentionRecorder
from sdprobe.observe.checkpoints import Checkpoints
from sdprobe.observe.concept_outputs import ConceptOutputs
from sdprobe.observe.latents import LatentRecorder
from sdprobe.observe.preview import Preview
from sdprobe.observe.progress import Progress
from sdprobe.observe.self_attention_maps import SelfAttentionMaps
from sdprobe.observe.statistics import Statistics
from sdprobe.observe.word_gradients import WordGradients
from sdprobe.runs.export.attention_arrays import attention_arrays
from sdprobe.runs.export.labelled_array import LabelledArray, along, as_numpy, share_dimensions
from sdprobe.runs.export.matrix_arrays import matrix_arrays
from sdprobe.runs.export.record_arrays import (
    Images,
    LeftOut,
    activation_arrays,
    feature_arrays,
    latent_arrays,
    loss_arrays,
    of_latents,
    picture_arrays,
    preview_arrays,
    probability_arrays,
    query_arrays,
    self_attention_arrays,
    statistics_arrays,
)
from sdprobe.runs.export.word_arrays import concept_arrays, gradient_arrays
from sdprobe.runs.hooks_of_run import hooks_of_run
from sdprobe.sae.features import Features
from sdprobe.transform.attention_loss_guidance import AttentionGuidance
from sdprobe.transform.loss_guidance import LossGuidance

MADE_OF: Mapping[type, Callable[[Any, Images], Iterator[LabelledArray | LeftOut]]] = {
    AttentionMaps: attention_arrays,
    SelfAttentionMaps: self_attention_arrays,
    LatentRecorder: latent_arrays,
    Statistics: statistics_arrays,
    LossGuidance: loss_arrays,
    AttentionGuidance: loss_arrays,
    Activations: activation_arrays,
    Features: feature_arrays,
    Preview: preview_arrays,
    AttentionMatrices: matrix_arrays,
    AttentionQueries: query_arrays,
    AttentionRecorder: probability_arrays,
    WordGradients: gradient_arrays,
    ConceptOutputs: concept_arrays,
}
"""How the records of a hook are made into arrays."""


@dataclass(frozen=True, eq=False)
class LabelledArrays:
    """The arrays of a run.

    Args:
        arrays: the arrays; a dimension of one name has the same size and coordinates in all of them.
        attrs: the settings of the run, its prompts, its model, versions; and what is in no array, ``"left_out"``.
    """

    arrays: tuple[LabelledArray, ...]
    attrs: Mapping[str, Any]


def labelled_arrays(run: Run) -> LabelledArrays:
    """Return all that a run recorded, its final latents and its pictures, as labelled arrays.

    Raises ValueError for a run that has not been made yet.
    """
    if not hasattr(run, "settings"):
        raise ValueError(f"there is nothing to export of {run!r}: call the pipeline inside the `with` first")
    arrays: list[LabelledArray] = []
    left_out: list[str] = []
    numbers: Counter[str] = Counter()
    for own in hooks_of_run(run):
        hook, within, images = own.live, repr(own.given), along("image", own.images)
        if hook is None:
            left_out.append(f"{within}: its records were not saved, or its class is not known here")
            continue
        make = next((own for kind, own in MADE_OF.items() if isinstance(hook, kind)), None)
        if make is None:
            if isinstance(hook, Observer) and not isinstance(hook, Progress):
                why = "states to continue from" if isinstance(hook, Checkpoints) else "records of its own kind"
                left_out.append(f"{within}: {why}")
            continue
        family = type(hook).__name__ if make is loss_arrays else make.__name__
        numbers[family] += 1
        found: list[LabelledArray | LeftOut] = list(make(hook, images)) or ["recorded nothing"]
        for made in found:
            if isinstance(made, LeftOut):
                left_out.append(f"{within}: {made}")
                continue
            name = made.name + f"_{numbers[family]}" * (numbers[family] > 1)
            arrays.append(_checked(replace(made, name=name, attrs={**made.attrs, "hook": within})))
    images = along("image", range(run.settings.images))
    if run.latents is not None:
        said = {"long_name": "final latents", "units": "the scheduler's own scale"}
        arrays.append(of_latents("final_latents", as_numpy(run.latents).copy(), images, said))
    arrays += picture_arrays(run.images, images)
    return LabelledArrays(tuple(share_dimensions(arrays)), {**_settings(run), "left_out": left_out})


def _checked(array: LabelledArray) -> LabelledArray:
    """Return it without the numbers of its images where these are of other images than it has."""
    if "image" not in array.coords or len(array.coords["image"][1]) == array.sizes["image"]:
        return array
    coords = {name: own for name, own in array.coords.items() if name != "image"}
    attrs = {**array.attrs, "image_numbers": "not known: they are counted from 0 among the images of the hook"}
    return replace(array, coords=coords, attrs=attrs)


def _settings(run: Run) -> dict[str, Any]:
    """Return what determines the run, as texts, numbers and lists of them."""
    own = asdict(run.settings)
    prompts, negative = own.pop("prompt"), own.pop("negative_prompt")
    made_by = run.provenance
    seed = "not known" if own["seed"] is None else own["seed"]
    plain = {name: value for name, value in own.items() if value is not None} | {
        "seed": list(seed) if isinstance(seed, Sequence) and not isinstance(seed, str) else seed
    }
    return {
        "prompts": list(prompts),
        "negative_prompts": list(negative),
        **plain,
        "resumed_at": run.resumed_at,
        "model": run.model_name,
        "hooks": [repr(own.given) for own in hooks_of_run(run)],
        "weights": made_by.weights or "not known",
        "versions": [f"{name} {number}" for name, number in made_by.versions.items()],
    }
