"""All that a run and its hooks answer, flat, so that a live run and one that was opened can be compared.

``python -m tests.answers FOLDER`` opens every run in a folder in a process that cannot make a model, and writes what
they answer to ``answers.pickle``.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

import sdprobe
from sdprobe.core.run import Run
from sdprobe.testing.flat_records import answers_of, asked_for, records_of

Questions = Iterator[tuple[str, Callable[[], Any]]]


def answers(run: Run, names: Mapping[str, list[str]]) -> dict[str, Any]:
    """All that a run answers, and its hooks that have been given names.

    Args:
        run: the run.
        names: for each hook's name, the attributes and properties to ask it for.
    """
    found = {f"run.{path}": own for path, own in _flat(_of_run(run)).items()}
    for name, asked in names.items():
        copied = run[name]
        found |= {f"{name}.{path}": own for path, own in answers_of(copied, asked).items()}
        found |= {f"{name} {path}": own for path, own in _flat(_questions(copied)).items()}
    return found


def asked(run: Run) -> dict[str, list[str]]:
    """Which attributes and properties the hooks of a live run can be asked for, by the hook's name."""
    return {name: asked_for(run[name], given) for name, given in run.names.items()}


def _of_run(run: Run) -> Questions:
    for name in ("images", "latents", "prompts", "negative_prompts", "settings", "roles", "resumed_at", "provenance"):
        yield name, lambda name=name: getattr(run, name)
    for name in ("model_name", "seed"):
        yield name, lambda name=name: getattr(run, name)
    yield "coverage", lambda: str(run.coverage)
    yield "coverage in HTML", run.coverage._repr_html_
    yield "repr", lambda: repr(run)
    for image in range(run.settings.images):
        for role in run.roles:
            yield f"prompt of {image}, {role}", lambda image=image, role=role: run.prompt_of(image, role)


def _questions(copied: Any) -> Questions:
    yield "repr", lambda: repr(copied)
    for kind, ask in QUESTIONS.items():
        if isinstance(copied, getattr(sdprobe, kind)):
            yield from ask(copied)


def _of_maps(maps: Any) -> Questions:
    for role in maps.roles:
        for image in range(maps.run.settings.images):
            for method in ("mean", "daam"):
                yield f"maps {role}, {image}, {method}", lambda r=role, i=image, m=method: _maps(maps, i, m, r)
    yield "row sums", maps.row_sums
    words = [word for prompt in maps.run.prompts for word in prompt.words]
    for word in [*words, "<start>", "<end>", 1, "hexagon"]:
        for chosen in ({"step": 1}, {"head": 0}, {"layer": next(iter(maps.sums)).layer} if len(maps.sums) else {}):
            yield f"{word} {chosen}", lambda w=word, c=chosen: maps.heat_map(w, **c).values


def _maps(maps: Any, image: int, method: Any, role: Any) -> Any:
    found = maps.heat_maps(image, method, role=role)
    return {word: (own.values, own.picture) for word, own in found.items()}


def _of_self_attention(maps: Any) -> Questions:
    for grid in [None, *maps.sums, (3, 7)]:
        yield f"matrix {grid}", lambda g=grid: maps.matrix(grid=g)
        yield f"position {grid}", lambda g=grid: maps.heat_map((1, 2), grid=g).values
        yield f"region {grid}", lambda g=grid: maps.heat_map(torch.eye(16), grid=g).values
        yield f"components {grid}", lambda g=grid: [own.values for own in maps.components(2, grid=g)]


def _of_activations(kept: Any) -> Questions:
    record = kept.record
    yield "unknown", lambda: kept["nothing"]
    yield "unknown step", lambda: kept.at(77, next(iter(record.keys), "nothing"))
    yield "description", lambda: json.loads(json.dumps(record.description))
    for key in record.keys:
        yield f"{key}", lambda key=key: kept[key]
        yield f"{key} some rows", lambda key=key: record.at(record.indices_of(key)[0], key, slice(1, 2))
        yield f"{key} axes", lambda key=key: (kept.axes(key), record.axes_of(key), record.indices_of(key))
        yield f"{key} flat", lambda key=key: _flattened(kept.flat(key))
        for index in record.indices_of(key):
            yield (
                f"{key} at {index}",
                lambda key=key, index=index: (
                    kept.at(index, key),
                    record.form_of(index, key),
                    record.rows_at(index, key),
                    record.shape_of(index, key),
                ),
            )


def _flattened(flat: Any) -> Any:
    return flat.vectors, {name: column.tolist() for name, column in flat.table.items()}


def _of_features(features: Any) -> Questions:
    record = features.record
    yield "two modules", lambda: features.heat_map(0)
    for key in record.keys:
        yield f"top {key}", lambda key=key: features.top(5, name=key.name)
        for feature, _, _ in features.top(2, name=key.name):
            yield f"map {key} {feature}", lambda key=key, k=feature: features.heat_map(k, name=key.name).values
        for index in record.indices:
            yield f"{key} at {index}", lambda key=key, index=index: features.at(index, key.name)
            yield f"{key} rows at {index}", lambda key=key, index=index: record.rows_at(index, key.name)


def _of_latents(recorder: Any) -> Questions:
    for name in ("latents", "noise_pred", "denoised"):
        yield name, lambda name=name: recorder[name]
    for index in recorder.indices:
        yield f"at {index}", lambda index=index: dict(recorder.at(index))


def _of_matrices(own: Any) -> Questions:
    for from_ in ("image", "text"):
        for to in ("image", "text"):
            yield f"{from_} to {to}", lambda a=from_, b=to: own.matrix(a, b).values
    yield "word", lambda: own.heat_map("circle", ("image", "text")).values


def _of_queries(own: Any) -> Questions:
    for image in range(own.run.settings.images):
        yield f"sites {image}", lambda i=image: [(site.layer, site.query) for site in own.sites(i)]


def _of_gradients(own: Any) -> Questions:
    for word in own.run.prompts[0].words:
        for kind in ("norm", "product", "path"):
            yield f"{word} {kind}", lambda w=word, k=kind: own.values(w, k)


def _of_concepts(own: Any) -> Questions:
    method = sdprobe.attributions.OutputSpace()
    for word in own.run.prompts[0].words:
        yield word, lambda w=word: method.heat_map(own.run, w).values


QUESTIONS: Mapping[str, Callable[[Any], Questions]] = {
    "AttentionMaps": _of_maps,
    "SelfAttentionMaps": _of_self_attention,
    "AttentionMatrices": _of_matrices,
    "AttentionQueries": _of_queries,
    "WordGradients": _of_gradients,
    "ConceptOutputs": _of_concepts,
    "Activations": _of_activations,
    "Features": _of_features,
    "LatentRecorder": _of_latents,
    "Preview": lambda preview: ((name, lambda n=name: preview[n]) for name in ("latents", "denoised")),
    "Statistics": lambda own: ((name, lambda n=name: own[n]) for name in ("latents", "noise_pred", "denoised")),
}
"""What the hooks of each class are asked, besides their attributes and properties."""


class Answer:
    """Holds an answer, for `records_of`."""

    def __init__(self, value: Any) -> None:
        self.answer = value


def _flat(questions: Questions) -> dict[str, Any]:
    """What each question is answered with. An error is an answer too, in its own words."""
    found: dict[str, Any] = {}
    for name, ask in questions:
        try:
            found |= {f"{name}: {path}": own for path, own in records_of(Answer(ask())).items()}
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def _refuse(*given: object, **named: object) -> None:
    raise AssertionError("in this process no model is made")


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    torch.nn.Module.__init__ = _refuse  # type: ignore[method-assign]
    every = pickle.loads((folder / "asked.pickle").read_bytes())
    found = {name: answers(sdprobe.open(folder / name), names) for name, names in every.items()}
    assert not torch.cuda.is_initialized()
    (folder / "answers.pickle").write_bytes(pickle.dumps(found))
