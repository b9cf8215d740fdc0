"""What hooks recorded is saved with their run and restored from it, of built-in hooks and of hooks of one's own."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import torch

import sdprobe
from sdprobe import (
    Activations,
    AttentionMaps,
    Features,
    LatentRecorder,
    LossGuidance,
    Observer,
    Preview,
    ReplaceToken,
    SelfAttentionMaps,
    Statistics,
    film,
)
from sdprobe.core.activations.record import ActivationRecord
from sdprobe.core.hook_records import HookRecords, TensorsByKey
from sdprobe.runs.saved.run_folder import SavedTensors
from sdprobe.testing.saving_laws import refuse_unequal
from tests.configured import IN_EVERY_FAMILY, autoencoder, darkness, narrow
from tests.laws.strategies import run

PROMPTS = ["a red circle", "a blue star"]


@pytest.fixture
def unread(monkeypatch):
    """The names of the tensors that were read from files since."""
    read: list[str] = []
    own = SavedTensors.__getitem__
    monkeypatch.setattr(SavedTensors, "__getitem__", lambda self, name: read.append(name) or own(self, name))
    return read


# Built-in hooks


def test_nothing_is_read_before_it_is_asked_for(tiny, reopened, unread):
    features = Features(autoencoder(tiny), narrow(tiny))
    guided = LossGuidance(darkness, 1.0)
    hooks: list[Any] = [AttentionMaps(), LatentRecorder(), Preview(), Statistics(), Activations(IN_EVERY_FAMILY)]
    hooks += [SelfAttentionMaps(), features, guided]
    again = reopened(run(tiny, *hooks))
    for hook in hooks:
        _ = again[type(hook)]
    assert unread == []
    found = again[Activations].at(1, again[Activations].record.keys[0])
    assert len(found) == 2
    assert len(unread) == 1


class Counted(ActivationRecord):
    """A record of which the steps are made when they are read, and let go."""

    def __init__(self, own: ActivationRecord) -> None:
        self.own, self.description, self.read = own, own.description, 0

    @property
    def indices(self):
        return self.own.indices

    def forms(self, index):
        return self.own.forms(index)

    def shape_of(self, index, key):
        return self.own.shape_of(index, key)

    def write(self, index, kept): ...
    def finish(self): ...

    def _read(self, index, key, rows):
        self.read += 1
        return self.own.at(index, key, rows)


def test_activations_on_disk_are_copied_a_tensor_at_a_time(tiny, tmp_path):
    live = run(tiny, kept := Activations(IN_EVERY_FAMILY, to=tmp_path / "record"))
    live[kept].record = counted = Counted(live[kept].record)
    records = live[kept].records()
    assert counted.read == 0
    count = len(records.tensors)
    for read, name in enumerate(records.tensors, 1):
        assert len(records.tensors[name]) == 2
        assert counted.read == read
    assert count == 2 * len(counted.keys)


def test_the_same_form_is_written_once(tiny):
    live = run(tiny, kept := Activations("mid_block*.attn2"), steps=4)
    assert len(live[kept].records().values["forms"]) == 1
    assert len(live[kept].records().values["kept"]) == 4


def test_a_record_of_activations_is_used_as_the_live_one(tiny, reopened):
    live = run(tiny, Activations("mid_block*.ff"))
    again = reopened(live)
    with pytest.raises(ValueError, match="nothing can be added"):
        again[Activations].record.write(7, {})
    patched = [run(tiny, sdprobe.Patch(own, "mid_block*.ff"), prompt="a blue star") for own in (live, again)]
    assert torch.equal(patched[0].latents, patched[1].latents)


def test_a_film_of_an_opened_run(tiny, reopened):
    shown: list[Any] = []
    live = run(tiny, Preview(show=shown.append))
    frames = [film(own[Preview]).frames(height=32) for own in (live, reopened(live))]
    assert len(shown) == 2
    assert [own.tobytes() for own in frames[0]] == [own.tobytes() for own in frames[1]]


def test_figures_are_drawn_from_an_opened_run(tiny, reopened):
    live = run(tiny, Statistics(), SelfAttentionMaps(), LossGuidance(darkness, 1.0), AttentionMaps(keep="step"))
    again = reopened(live)
    for draw in (
        lambda own: own[Statistics].plot(),
        lambda own: own[SelfAttentionMaps].figure(2),
        lambda own: own[LossGuidance].plot(),
        lambda own: own[AttentionMaps].grid("step"),
        lambda own: own[AttentionMaps].heat_map("red").overlay(),
    ):
        drawn = []
        for own in (live, again):
            draw(own).savefig(png := io.BytesIO(), format="png")
            drawn.append(png.getvalue())
        assert drawn[0] == drawn[1]


def test_a_run_without_guidance_has_no_cosine(tiny, reopened):
    again = reopened(run(tiny, Statistics(), guidance_scale=1.0))
    assert again[Statistics].cosine.isnan().all()
    assert again[Statistics]["latents"].std.isfinite().all()


def test_what_was_skipped(tiny):
    guided = LossGuidance(darkness, 1e9, start=1, bad="skip")
    live = run(tiny, guided, prompt=PROMPTS, seed=[0, 1])
    assert (1, 0) in live[guided].skipped
    refuse_unequal(live, guided)


def test_a_hook_prints_as_it_did(tiny, reopened):
    guided = LossGuidance(darkness, 1.0, start=1)
    assert repr(guided) == "LossGuidance(darkness, 1.0, start=1)"
    again = reopened(run(tiny, guided, ReplaceToken("circle", "star"), Preview(show=print)))
    assert [repr(again[kind]) for kind in (LossGuidance, ReplaceToken, Preview)] == [
        "LossGuidance(darkness, 1.0, start=1)",
        "ReplaceToken('circle', 'star')",
        f"{Preview(show=print)}",
    ]
    assert repr(again[LossGuidance].loss) == "<the function darkness, not saved>"
    assert again[LossGuidance].apply == "noise"
    assert callable(again[LossGuidance].start)


# Of one's own classes


class Noted(Observer):
    """Attributes of many kinds, without a word on how to save them."""

    def __init__(self, factor: float = 2.0) -> None:
        self.factor = factor

    def start(self, run):
        self.run = run
        self.norms: dict[int, float] = {}
        self.records: list[str] = []  # the name of a method
        self.seen: set[tuple[int, str]] = set()
        self._private = object()

    def noise_pred(self, x, step):
        self.norms[step.index] = x.norm().item() * self.factor
        self.seen.add((step.index, "noise"))
        self.records.append("called")
        self.last = {"x": [x.clone()]}
        self.handle = object() if step.index == 1 else None


def test_of_a_hook_of_ones_own_all_public_attributes(tiny, tmp_path):
    live = run(tiny, noted := Noted())
    with pytest.warns(UserWarning, match=r"records of Noted\(\) were not all saved: handle: handle is <object"):
        live.save(tmp_path / "run")
    again = sdprobe.open(tmp_path / "run")
    with pytest.raises(KeyError, match="Noted, which no installed package registers"):
        again["noted"] if "noted" in again.names else again.record_of(again.hooks[0])
    own, found = live[noted], again[Noted]
    assert found is again[noted]
    assert found.norms == own.norms
    assert found.seen == own.seen
    assert vars(found)["records"] == ["called", "called"]
    assert torch.equal(found.last["x"][0], own.last["x"][0])
    assert found.run is again
    assert repr(found) == "Noted()"
    with pytest.raises(AttributeError, match="has no 'handle'"):
        _ = found.handle


class Own(Observer):
    def start(self, run):
        self._kept: Any = {}

    def noise_pred(self, x, step):
        self._kept[step.index] = x.mean()

    def records(self):
        return HookRecords({"steps": [*self._kept]}, {f"{index}": x for index, x in self._kept.items()})

    def restore(self, records, run):
        self._kept = TensorsByKey({index: f"{index}" for index in records.values["steps"]}, records.tensors.__getitem__)

    @property
    def total(self):
        return sum(self._kept.values())


class Fails(Own):
    def records(self):
        raise ZeroDivisionError("by mistake")


class NoJson(Own):
    def records(self):
        return HookRecords({"a": {1, 2}})


class Forgetful(Own):
    def restore(self, records, run):
        self._kept = dict.fromkeys(records.values["steps"], records.tensors["lost"])


def test_a_hook_says_how_by_two_methods(tiny, reopened):
    live = run(tiny, own := Own())
    refuse_unequal(live, own)
    assert torch.equal(reopened(live)[Own].total, live[own].total)


@pytest.mark.parametrize(("kind", "why"), [(Fails, "ZeroDivisionError: by mistake"), (NoJson, "TypeError: .*set")])
def test_a_hook_that_fails_does_not_cost_the_run(tiny, tmp_path, kind, why):
    live = run(tiny, kind(), LatentRecorder())
    with pytest.warns(UserWarning, match=f"were not all saved: {why}"):
        live.save(tmp_path / "run")
    again = sdprobe.open(tmp_path / "run")
    assert again.complete
    assert torch.equal(again[LatentRecorder]["latents"], live[LatentRecorder]["latents"])
    assert [type(own) for _, own in again.records] == [LatentRecorder]
    with pytest.raises(KeyError, match=f"were not saved: {why}"):
        again[kind]


def test_records_that_a_hook_cannot_read_are_a_fault_of_the_folder(tiny, reopened):
    again = reopened(run(tiny, Forgetful()))
    with pytest.raises(
        ValueError,
        match=r"records of Forgetful\(\), hooks/00/records.json in .* are not those of this hook: KeyError: 'lost'",
    ):
        again[Forgetful]


@pytest.mark.parametrize(
    "kind",
    [AttentionMaps, LatentRecorder, Preview, Statistics, Activations, SelfAttentionMaps, Features],
    ids=lambda kind: kind.__name__,
)
def test_records_of_other_hooks_are_refused(tiny, reopened, kind):
    hooks: dict[Any, Any] = {own: own() for own in (AttentionMaps, LatentRecorder, Preview, Statistics)}
    hooks |= {SelfAttentionMaps: SelfAttentionMaps(), Activations: Activations(IN_EVERY_FAMILY)}
    hooks[Features] = Features(autoencoder(tiny), narrow(tiny))
    again = reopened(run(tiny, hooks[kind]))
    path = again.folder / "hooks" / "00" / "records.json"
    text = path.read_text(encoding="utf-8")
    for key in json.loads(text)["values"]:
        path.write_text(text.replace(f'"{key}"', '"other"'), encoding="utf-8")
        with pytest.raises(ValueError, match=r"are not those of this hook"):
            sdprobe.open(again.folder)[kind]


def test_the_law_names_what_is_not_saved(tiny):
    live = run(tiny, noted := Noted())
    with pytest.raises(AssertionError, match=r"not all saved: handle: .*name that begins with an underscore"):
        refuse_unequal(live, noted)


def test_tensors_by_key():
    read: list[str] = []
    tensors = TensorsByKey({1: "a", 2: "b"}, lambda place: read.append(place) or torch.ones(1))
    assert (list(tensors), len(tensors), 2 in tensors, 3 in tensors, read) == ([1, 2], 2, True, False, ["b"])
