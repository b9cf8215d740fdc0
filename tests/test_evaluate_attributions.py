"""`evaluate_attributions`: each number is that of the maps themselves; a picture that is changed is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image

import sdprobe
from sdprobe import attributions
from sdprobe.attributions.map_scores import THRESHOLDS
from sdprobe.attributions.mask_cases import mask_cases
from sdprobe.experiments import given_pictures, shape_cases
from sdprobe.experiments.bootstrap import mean_with_interval
from sdprobe.experiments.measures import Area
from tests.laws.strategies import run

SETTINGS = {"steps": 6, "guidance_scale": 5.0, "progress": False}
QUICK = {"deletion": 0, "timing": 0, **SETTINGS}


@pytest.fixture(scope="module")
def cases():
    return shape_cases(5, objects=2)


@pytest.fixture(scope="module")
def evaluated(embedded, cases):
    methods = {"twice": ("self_refined", {"power": 2})}
    return attributions.evaluate_attributions(embedded, cases, methods, choosing=0.4, deletion=3, timing=1, **SETTINGS)


def masked_maps(embedded, case):
    """The mask of each thing that is seen, with its maps by two methods."""
    own = run(
        embedded, sdprobe.AttentionMaps(), sdprobe.SelfAttentionMaps(), prompt=case.prompt, seed=case.seed, **SETTINGS
    )
    for target in attributions.TARGETS:
        mask = target.region.mask(own, own, case)
        if mask is not None:
            maps = [
                own[sdprobe.AttentionMaps].heat_map(case.fill(target.word), method=method)
                for method in ("mean", ("self_refined", {"power": 2}))
            ]
            yield mask, maps


@pytest.mark.slow
def test_the_numbers_are_those_of_the_maps(embedded, cases, evaluated):
    """The threshold is the best of the first cases; a later case counts with the mean of its things."""
    every = [[*masked_maps(embedded, case)] for case in cases]
    for number, name in enumerate(("mean", "twice")):
        chosen = [(mask, maps[number]) for some in every[:2] for mask, maps in some]
        best = max(THRESHOLDS, key=lambda at: np.mean([heat.iou(mask, at) for mask, heat in chosen]))
        assert evaluated.thresholds[name] == best
        per_case = [np.mean([maps[number].iou(mask, best) for mask, maps in some]) for some in every[2:] if some]
        assert np.isclose(evaluated[name, "IoU"].mean.value, np.mean(per_case))
        assert np.allclose(evaluated[name, "IoU"].mean, mean_with_interval(np.array(per_case)))
        points = [np.mean([maps[number].points_into(mask) for mask, maps in some]) for some in every[2:] if some]
        assert np.isclose(evaluated[name, "pointing"].mean.value, np.mean(points))
    pointing = [evaluated[name, "pointing"].mean for name in evaluated.names]
    assert all(0 <= own.low < own.high <= 1 for own in pointing)  # also where all agree
    assert evaluated.objects == sum(map(len, every[2:]))
    difference = evaluated["twice", "IoU"].difference.value
    assert np.isclose(difference, evaluated["twice", "IoU"].mean.value - evaluated["mean", "IoU"].mean.value)


@pytest.mark.slow
def test_it_shows_every_method_with_controls_and_costs(evaluated):
    assert evaluated.names == ("mean", "twice", "random word", "centre", "random field")
    assert [name for name in evaluated.names if evaluated[name, "IoU"].control] == [*evaluated.controls]
    assert evaluated.ranked()[-1] in evaluated.controls
    assert all(cost.time > 0 and cost.memory >= 0 for cost in evaluated.costs.values())
    assert len({evaluated[name, "deletion"].mean.cases for name in evaluated.names} - {0}) == 1
    frame = evaluated.to_pandas()
    assert [*frame["method"]] == [*evaluated.names]
    lines = evaluated.to_markdown().splitlines()
    assert len(lines) == 2 + len(evaluated.names)
    assert lines[4].startswith("| random word (control) |")
    assert len(evaluated.plot().axes) == 4
    with pytest.raises(KeyError, match="conditions: mean, twice"):
        evaluated["median", "IoU"]


class Writes(attributions.Mean):
    """A method whose hook changes the picture."""

    def hooks(self, words=None):
        return sdprobe.Hooks(sdprobe.AttentionMaps(), sdprobe.ScalePrompt(1.5))


def test_a_method_that_changes_pictures_is_refused(tiny, cases):
    targets = [attributions.Target("{colour}", Area(np.eye(8, dtype=bool)))]
    with pytest.raises(RuntimeError, match="changed the pictures of 2 cases"):
        attributions.evaluate_attributions(
            tiny, cases[:2], {"writes": Writes()}, targets=targets, choosing=0.5, **QUICK
        )


@dataclass(frozen=True)
class Fails(attributions.Mean):
    """A method that can do it where it is tried, and not of every picture."""

    prompts: tuple[str, ...] = ()

    def attribute(self, run, asked):
        if run.settings.steps > 2 and run.prompt_of(asked.image).text in self.prompts:
            raise ValueError("not this one")
        return super().attribute(run, asked)


def test_a_method_that_fails_is_counted_and_leaves_the_others_their_scores(tiny, cases):
    """A case counts once as failed; without a case for choosing there is no threshold, but the rest is there."""
    prompts = [case.prompt for case in cases[:4]]
    methods = {
        "some": Fails(prompts=(prompts[0], prompts[3])),
        "unchosen": Fails(prompts=(*prompts[:2],)),
        "none": Fails(prompts=tuple(case.prompt for case in cases)),
    }
    targets = [attributions.Target("{colour}", Area(np.eye(8, dtype=bool)))]
    found = attributions.evaluate_attributions(tiny, cases[:4], methods, targets=targets, choosing=0.5, **QUICK)
    assert [(found[name, "IoU"].mean.cases, found[name, "IoU"].failed) for name in ("mean", *methods)] == [
        (2, 0), (1, 1), (0, 0), (0, 2)
    ]  # fmt: skip
    assert np.isnan(found.thresholds["unchosen"])
    assert found["unchosen", "pointing"] == replace(found["mean", "pointing"], condition="unchosen")
    assert {*found.ranked()[-2:]} == {"unchosen", "none"}
    assert "none failed in 4 of 4 cases: ValueError: not this one" in repr(found)


def test_the_cost_is_measured_on_cases_with_the_word(tiny, cases):
    some = [*cases[:2], sdprobe.experiments.Case("a star"), cases[2]]
    targets = [attributions.Target("{colour}", Area(np.eye(8, dtype=bool)))]
    how = {**QUICK, "steps": 2, "timing": 1, "targets": targets}
    found = attributions.evaluate_attributions(tiny, some, [], choosing=0.5, **how)
    assert found.costs["mean"].time > 0


def test_what_cannot_be_asked_is_said_before_anything_runs(tiny, cases):
    with pytest.raises(ValueError, match="give more"):
        attributions.evaluate_attributions(tiny, cases[:1], **QUICK)
    with pytest.raises(ValueError, match=r"no case has the words of {colour}"):
        attributions.evaluate_attributions(tiny, ["a red circle", "a star"], choosing=0.5, **QUICK)
    with pytest.raises(ValueError, match="of the 1 that are tested"):
        attributions.evaluate_attributions(tiny, [*cases[:1], "a star"], choosing=0.5, **QUICK)
    with pytest.raises(ValueError, match="'mean' is the plain mean"):
        attributions.evaluate_attributions(tiny, cases, {"mean": "daam"}, **QUICK)
    with pytest.raises(ValueError, match="daam, daam is there twice"):
        attributions.evaluate_attributions(tiny, cases, ["daam", "daam"], **QUICK)
    with pytest.raises(TypeError, match="methods are a list of names"):
        attributions.evaluate_attributions(tiny, cases, [("self_refined", {"power": 2})], **QUICK)
    with pytest.raises(ValueError, match="'centre' is a control"):
        attributions.evaluate_attributions(tiny, cases, {"centre": "mean"}, **QUICK)


def test_a_folder_of_pictures_with_masks(embedded, tmp_path):
    """The layout of COCO-Gen: what is held against the maps is the mask that was drawn."""
    for k, word in enumerate(("circle", "star", "ring")):
        home = tmp_path / str(k)
        home.mkdir()
        made = run(embedded, prompt=f"a red {word}", seed=k, **SETTINGS).images[0]
        made.save(home / "output.png")
        (home / "prompt.txt").write_text(f"a red {word}")
        alpha = torch.zeros(64, 64, 4, dtype=torch.uint8)
        alpha[16:48, 16:48] = 255
        Image.fromarray(alpha.numpy()).save(home / f"{word}.gt.png")
    cases, targets = mask_cases(tmp_path)
    found = attributions.evaluate_attributions(
        given_pictures(embedded),
        cases,
        ["self_refined"],
        targets=targets,
        choosing=0.34,
        deletion=0,
        timing=0,
        steps=4,
        progress=False,
    )
    assert found.objects == 2
    assert 0 < found["mean", "IoU"].mean.value < 1
    told = tmp_path / "0" / "prompt.txt"
    told.write_text("\ufeffa red circle\n", encoding="utf-8")
    assert mask_cases(tmp_path) == (cases, targets)
    Image.new("L", (64, 64), 255).save(tmp_path / "1" / "star.gt.png")
    assert mask_cases(tmp_path)[1] != targets
    for wrong in (b"", b"a red \xff"):
        told.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"prompt.txt, a text in UTF-8"):
            mask_cases(tmp_path)
    told.write_text("a red circle")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match=r"no folder with an output.png"):
        mask_cases(empty)
    (tmp_path / "0" / "circle.gt.png").unlink()
    with pytest.raises(ValueError, match=r"has no mask WORD.gt.png and prompt.txt"):
        mask_cases(tmp_path)
