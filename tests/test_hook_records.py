"""What hooks recorded is saved with their run and restored from it: limited, named, interrupted, of one's own class."""

from __future__ import annotations

import io
import json
import pickle
import warnings
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
    attach,
    film,
    only,
)
from sdprobe.core.activations.record import ActivationRecord
from sdprobe.core.hook_records import HookRecords, TensorsByKey
from sdprobe.runs.run_folder import SavedTensors
from sdprobe.testing.flat_records import answers_of, asked_for, difference
from sdprobe.testing.saving_laws import refuse_unequal
from tests.configured import IN_EVERY_FAMILY, autoencoder, darkness, narrow
from tests.laws.strategies import run
from tests.tiny import stable_diffusion

PROMPTS = ["a red circle", "a blue star"]


@pytest.fixture
def reopened(tmp_path):
    """Saves a run, without a warning, and opens it."""

    def saved(live: sdprobe.Run) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return sdprobe.open(live.save(tmp_path / f"run {len([*tmp_path.iterdir()])}"))

    return saved


@pytest.fixture
def unread(monkeypatch):
    """The names of the tensors that were read from files since."""
    read: list[str] = []
    own = SavedTensors.__getitem__
    monkeypatch.setattr(SavedTensors, "__getitem__", lambda self, name: read.append(name) or own(self, name))
    return read


# Which hooks, and how they are asked for


def test_limits_on_rows_steps_and_sites(tiny):
    maps, late = AttentionMaps(), only(LatentRecorder(), steps=[1], rows=[1, 2])
    kept = only(Activations(IN_EVERY_FAMILY), sites="mid_block*", rows="cond")
    second = only(only(maps, steps=[1]), rows=[2])
    live = run(tiny, late, kept, second, prompt=PROMPTS, images_per_prompt=2, seed=[4, 5, 6, 7])
    for hook in (late, kept, second):
        refuse_unequal(live, hook)


def test_a_limited_hook_is_asked_as_the_live_one_is(tiny, reopened):
    limited = only(maps := AttentionMaps(), rows=[1])
    live = run(tiny, limited, prompt=PROMPTS)
    again = reopened(live)
    for asked in (limited, maps, AttentionMaps, "attention-maps"):
        found = again[asked]
        assert found.run.settings == live[maps].run.settings
        assert torch.equal(found.heat_map("star").values, live[maps].heat_map("star").values)
        assert found.heat_map("star").picture.tobytes() == live.images[1].tobytes()
    with pytest.raises(ValueError, match="image 1 is not in this run of 1 image"):
        again[maps].heat_map("star", image=1)


def test_two_hooks_of_one_class_are_told_apart(tiny, reopened):
    early, late = LatentRecorder(steps=[0]), LatentRecorder(steps=[1])
    again = reopened(run(tiny, early, late))
    assert (again[early].indices, again[late].indices) == ([0], [1])
    with pytest.raises(KeyError, match="2 hooks of this run"):
        again[LatentRecorder]


def test_hooks_given_by_name(tiny, reopened):
    names = {"first": LatentRecorder(), "second": LatentRecorder(), "swap": ReplaceToken("circle", "star")}
    again = reopened(run_of(tiny, names))
    for name in names:
        assert again[name] is again[name]
    assert torch.equal(again["first"]["latents"], again["second"]["latents"])
    by_registered_name = reopened(run_of(tiny, ["latents", ("attention-maps", {"keep": ["step"]})]))
    assert by_registered_name["latents"].indices == [0, 1]
    assert by_registered_name["attention-maps"].heat_map("circle", step=1).word == "circle"


def run_of(tiny: sdprobe.Model, hooks: Any) -> sdprobe.Run:
    return sdprobe.sample(tiny, "a red circle", hooks=hooks, steps=2, seed=0, progress=False)


# Which runs


def test_several_prompts_images_and_seeds(tiny):
    maps, kept, pictures = AttentionMaps(rows="both", keep="step"), SelfAttentionMaps(), Preview()
    settings = {"negative_prompt": ["a ring", "a dark sky"], "images_per_prompt": 2, "seed": [1, 2, 3, 4]}
    live = run(tiny, maps, kept, pictures, prompt=PROMPTS, **settings)
    for hook in (maps, kept, pictures):
        refuse_unequal(live, hook)


def test_negative_prompts_are_asked_by_their_role(tiny, reopened):
    live = run(tiny, maps := AttentionMaps(rows="both"), negative_prompt="a ring")
    again = reopened(live)
    assert again.negative_prompts == live.negative_prompts
    for role, word in (("cond", "circle"), ("uncond", "ring")):
        found, own = (own[maps].heat_map(word, role=role).values for own in (again, live))
        assert torch.equal(found, own)


def test_of_embeddings_alone(reopened):
    pipe, maps = stable_diffusion(), AttentionMaps()
    pipe.set_progress_bar_config(disable=True)
    embeds = pipe.encode_prompt("a red circle", "cpu", 1, True)
    with attach(pipe, [maps]) as live:
        pipe(prompt_embeds=embeds[0], negative_prompt_embeds=embeds[1], num_inference_steps=2, height=16, width=16)
    again = reopened(live)
    assert torch.equal(again[maps].heat_map(2).values, live[maps].heat_map(2).values)
    for asked in (lambda own: own[maps].heat_map("red"), lambda own: own[maps].heat_maps(), lambda own: own.seed):
        said = []
        for own in (live, again):
            with pytest.raises(ValueError, match="known") as error:
                asked(own)
            said.append(str(error.value))
        assert said[0] == said[1]


class Stops(Observer):
    def __init__(self, at: int = 2) -> None:
        self.at = at

    def latents(self, x, step):
        if step.index == self.at:
            raise KeyboardInterrupt


def test_of_a_run_that_was_interrupted_what_it_had_recorded(tiny, tmp_path):
    """The run is known to its hooks, here to one that keeps it."""
    observers: list[Any] = [AttentionMaps(), LatentRecorder(), Preview(), Statistics(), Activations(IN_EVERY_FAMILY)]
    pipe = stable_diffusion()
    pipe.set_progress_bar_config(disable=True)
    with pytest.raises(KeyboardInterrupt), attach(pipe, [*observers, Stops()]) as live:
        pipe("a red circle", num_inference_steps=4, height=16, width=16)
    for hook in observers:
        refuse_unequal(live, hook)
    again = sdprobe.open(live.save(tmp_path / "run"))
    assert (again.images, again.latents) == ([], None)
    assert again[LatentRecorder].indices == again[Activations].indices == again[Statistics].indices == [0, 1]
    assert again[AttentionMaps].heat_map("circle").picture is None
    with pytest.raises(AttributeError):
        _ = again[Preview].final
    with pytest.raises(KeyError, match="has not come to its end"):
        _ = again[LatentRecorder].final


def test_of_a_run_that_was_stopped_before_its_first_step(tmp_path):
    hooks: list[Any] = [Statistics(), Preview(), SelfAttentionMaps(), Activations(IN_EVERY_FAMILY), AttentionMaps()]
    guided = [LossGuidance(darkness, 1.0)]
    pipe = stable_diffusion()
    pipe.set_progress_bar_config(disable=True)
    with pytest.raises(KeyboardInterrupt), attach(pipe, [*hooks, *guided, Stops(0)]) as live:
        pipe("a red circle", num_inference_steps=4, height=16, width=16)
    for hook in [*hooks, *guided]:
        refuse_unequal(live, hook)


def test_a_run_that_came_out_of_a_pickle(tiny, reopened):
    hooks: list[Any] = [AttentionMaps(), LatentRecorder(), Preview(), Statistics(), Activations(IN_EVERY_FAMILY)]
    live = run(tiny, *hooks)
    again = reopened(pickle.loads(pickle.dumps(live)))
    for hook in hooks:
        names = asked_for(live[hook], hook)
        assert difference(answers_of(live[hook], names), answers_of(again[type(hook)], names)) is None
    assert again.model_name == live.model_name
    assert str(again.coverage) == str(live.coverage)


def test_saved_again_it_is_equal_byte_for_byte(tiny, reopened):
    live = run(tiny, AttentionMaps(), only(LatentRecorder(), rows=[0]), Preview(), prompt=PROMPTS)
    first = reopened(live)
    second = reopened(first)
    files = [path.relative_to(first.folder) for path in sorted(first.folder.rglob("*")) if path.is_file()]
    assert files == [path.relative_to(second.folder) for path in sorted(second.folder.rglob("*")) if path.is_file()]
    for name in files:
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes(), name


def test_an_opened_run_can_be_pickled(tiny, reopened):
    live = run(tiny, AttentionMaps(), Activations(IN_EVERY_FAMILY), Preview(), Statistics())
    again = reopened(live)
    _ = again[Preview], again[Activations], again[Statistics]  # with what was restored of it
    back = pickle.loads(pickle.dumps(again))
    assert torch.equal(back[AttentionMaps].heat_map("red").values, live[AttentionMaps].heat_map("red").values)
    assert torch.equal(back[Statistics].cosine, live[Statistics].cosine)
    assert back[Activations].indices == [0, 1]


# What is in it


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
    with pytest.raises(ValueError, match=r"hooks/00' holds no records of Forgetful\(\): KeyError: 'lost'"):
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
        with pytest.raises(ValueError, match=r"hooks/00' holds no records of|names files of tensors"):
            sdprobe.open(again.folder)[kind]


def test_the_law_names_what_is_not_saved(tiny):
    live = run(tiny, noted := Noted())
    with pytest.raises(AssertionError, match=r"not all saved: handle: .*name that begins with an underscore"):
        refuse_unequal(live, noted)


def test_tensors_by_key():
    read: list[str] = []
    tensors = TensorsByKey({1: "a", 2: "b"}, lambda place: read.append(place) or torch.ones(1))
    assert (list(tensors), len(tensors), 2 in tensors, 3 in tensors, read) == ([1, 2], 2, True, False, ["b"])
