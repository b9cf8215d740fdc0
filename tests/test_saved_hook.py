"""Hooks of saved runs: limited, named, several of a class; of runs of every kind, interrupted ones too."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

import sdprobe
from sdprobe import (
    Activations,
    AttentionMaps,
    LatentRecorder,
    LossGuidance,
    Observer,
    Preview,
    ReplaceToken,
    SelfAttentionMaps,
    Statistics,
    attach,
    only,
)
from sdprobe.testing.flat_records import answers_of, asked_for, difference
from sdprobe.testing.saving_laws import refuse_unequal
from tests.configured import IN_EVERY_FAMILY, darkness
from tests.laws.strategies import run
from tests.tiny import stable_diffusion

PROMPTS = ["a red circle", "a blue star"]


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
