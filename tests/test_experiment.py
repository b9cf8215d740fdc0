"""Conditions × cases × measures."""

import dataclasses

import pytest
import torch

import sdprobe
from sdprobe.core.limits.row_subset import PartialRun
from sdprobe.experiments import Case, Condition, Result, attached, cases, experiment
from tests.families import ASKED, FAMILIES

SETTINGS = {"steps": 2, "guidance_scale": 3.0, "progress": False}
SWAP = [sdprobe.ReplaceToken("red", with_="blue")]


def mean(run):
    return run.latents.mean()


def moved(run, untouched):
    return (run.latents - untouched.latents).abs().max()


def named(run, untouched, case):
    return {"seed": case.seed, "red": "red" in case.prompt}


def value(result, condition, measure):
    return result.values(condition, measure)


def test_the_table(tiny):
    over = cases(["a red circle", "a blue star"], seeds=[0, 5])
    result = experiment(
        tiny, over, {"half": [sdprobe.ScalePrompt(0.5)], "nothing": []}, [mean, moved, named], **SETTINGS
    )
    assert result.conditions == ("untouched", "half", "nothing")
    assert result.measures == ("mean", "moved", "named.seed", "named.red")
    assert len(result.rows) == 4 * 3 * 4
    assert value(result, "half", "named.seed") == [0.0, 5.0, 0.0, 5.0]
    assert value(result, "half", "named.red") == [True, True, False, False]
    assert value(result, "nothing", "moved") == value(result, "untouched", "moved") == [0.0] * 4
    assert value(result, "nothing", "mean") == value(result, "untouched", "mean")
    assert min(value(result, "half", "moved")) > 0
    assert {(row["condition"], row["unchanged"]) for row in result.rows} == {
        ("untouched", True),
        ("half", False),
        ("nothing", True),
    }
    assert "changed nothing in 4 cases" in repr(result.summary())


def test_any_hook_is_a_condition_and_the_picture_is_that_of_sample(tiny):
    class Shift(sdprobe.Transform):
        def noise_pred(self, x, step):
            return x + 0.1

    (first,) = value(experiment(tiny, "a red circle", {"own": [Shift()]}, [mean], **SETTINGS), "own", "mean")
    run = sdprobe.sample(tiny, ["a red circle"] * 2, seed=[0, 0], hooks=[sdprobe.only(Shift(), rows=[1])], **SETTINGS)
    assert first == run.latents[1].mean().item()


def test_batches_make_no_difference_but_rounding(tiny):
    conditions = {f"scale {k}": [sdprobe.ScalePrompt(k / 5)] for k in range(5)}
    one, two, many = (
        experiment(tiny, "a red circle", conditions, [mean], batch=batch, **SETTINGS) for batch in (1, 3, 8)
    )
    for name in ("untouched", *conditions):
        a, b, c = (value(result, name, "mean")[0] for result in (one, two, many))
        assert a == pytest.approx(c, abs=1e-5)
        assert b == pytest.approx(c, abs=1e-5)
    assert [row["condition"] for row in one.rows] == [row["condition"] for row in many.rows]


def test_conditions_of_the_case(tiny):
    over = [Case("a red circle", words={"colour": "red"}), Case("a blue circle", words={"colour": "blue"})]

    def green(case):
        return [sdprobe.ReplaceToken(case.words["colour"], with_="green")]

    result = experiment(tiny, over, {"green": green}, [mean], **SETTINGS)
    first, second = value(result, "green", "mean")
    assert first == pytest.approx(second, abs=1e-6)
    assert len(set(value(result, "untouched", "mean"))) == 2


def test_hooks_for_measures(tiny):
    maps = sdprobe.AttentionMaps()

    def heat(run):
        return run[maps].heat_map("circle").values.sum()

    result = experiment(tiny, "a red circle", {"swap": SWAP}, [heat], hooks=[maps], **SETTINGS)
    plain, swapped = value(result, "untouched", "heat"), value(result, "swap", "heat")
    run = sdprobe.sample(tiny, "a red circle", seed=0, hooks=[maps], **SETTINGS)
    assert plain == [pytest.approx(run[maps].heat_map("circle").values.sum().item(), rel=1e-4)]
    assert plain != swapped


def test_what_needs_gradients_runs_alone_beside_its_own_untouched_run(tiny):
    loss = sdprobe.LossGuidance(sdprobe.losses.brightness(0.9), scale=5.0, through="model")
    result = experiment(tiny, "a red circle", {"loss": [loss], "swap": SWAP}, [mean, moved], **SETTINGS)
    alone = sdprobe.sample(tiny, ["a red circle"], seed=[0], hooks=[loss], **SETTINGS)
    assert value(result, "loss", "mean") == [alone.latents.mean().item()]
    assert value(result, "untouched", "moved") == [0.0]


def test_what_fails_is_a_row_that_says_so_and_the_rest_goes_on(tiny):
    class Broken(sdprobe.Transform):
        def noise_pred(self, x, step):
            raise RuntimeError("lost the thread")

    def never(run):
        raise LookupError("no number")

    result = experiment(tiny, "a red circle", {"broken": [Broken()], "swap": SWAP}, [mean, never], **SETTINGS)
    assert value(result, "swap", "mean") != [None]
    assert {(row["condition"], row["measure"]) for row in result.failed} == {
        ("untouched", "never"),
        ("broken", "mean"),
        ("broken", "never"),
        ("swap", "never"),
    }
    said = {row["condition"]: row["error"] for row in result.failed}
    assert "lost the thread" in said["broken"]
    assert "no number" in said["swap"]
    assert "an error in 1 case" in repr(result.summary())
    assert "4 rows without a value" in repr(result)


def test_errors_help(tiny):
    with pytest.raises(ValueError, match="'untouched' is the condition without hooks"):
        experiment(tiny, "a", {"untouched": []}, [mean], **SETTINGS)
    with pytest.raises(ValueError, match="measures something"):
        experiment(tiny, "a", {"b": []}, [], **SETTINGS)
    with pytest.raises(ValueError, match="two measures are called 'mean'"):
        experiment(tiny, "a", {"b": []}, [mean, mean], **SETTINGS)
    with pytest.raises(TypeError, match="a function of a run, of a run and the untouched one"):
        experiment(tiny, "a", {"b": []}, {"four": lambda a, b, c, d: 1}, **SETTINGS)
    many = experiment(tiny, "a", {"b": []}, {"all": lambda run: run.latents}, **SETTINGS)
    assert "one number of a picture" in many.failed[0]["error"]


def test_a_design_makes_conditions_of_runs_of_its_own(tiny):

    @dataclasses.dataclass(frozen=True)
    class Add:
        by: float

        def conditions(self, case, runner):
            def hooks():
                other = runner.once("other", lambda: runner.run(prompt="a blue star"))
                return [sdprobe.on("final_latents", lambda x: x + self.by * other.latents)]

            return {"added": Condition(hooks, control=True, labels={"by": self.by})}

        def result(self):
            return Result

    result = experiment(tiny, "a red circle", Add(0.5), [mean], **SETTINGS)
    (row,) = (row for row in result.rows if row["condition"] == "added")
    assert (row["by"], row["control"]) == (0.5, True)
    other = sdprobe.sample(tiny, ["a blue star"], seed=[0], **SETTINGS).latents.mean()
    assert row["value"] == pytest.approx((value(result, "untouched", "mean")[0] + 0.5 * other).item(), abs=1e-5)


def test_attached_equals_the_loop(tiny):
    conditions = {"swap": SWAP, "maps": [sdprobe.AttentionMaps()]}
    over = cases("a red circle", seeds=range(2))
    own = experiment(tiny, over, conditions, [mean, moved], **SETTINGS)
    stock = experiment(attached(tiny.pipe), over, conditions, [mean, moved], **SETTINGS)
    assert own.rows == stock.rows


def test_from_an_image(tiny):
    picture = sdprobe.sample(tiny, "a red circle", seed=0, height=32, width=32, **SETTINGS).images[0]
    over = Case("a blue circle", seed=1, image=picture, strength=0.5)
    result = experiment(tiny, over, {"half": [sdprobe.ScalePrompt(0.5)]}, [mean], **{**SETTINGS, "steps": 4})
    run = sdprobe.sample(tiny, ["a blue circle"], seed=[1], image=picture, strength=0.5, **{**SETTINGS, "steps": 4})
    assert value(result, "untouched", "mean") == [pytest.approx(run.latents.mean().item(), abs=1e-5)]
    assert torch.isfinite(run.latents).all()


def test_a_measure_of_several_values_that_fails_is_missing_in_each(tiny):
    def several(run, untouched, case):
        if case.seed == 1:
            raise LookupError("not here")
        return {"a": 1.0, "b": run.latents.mean()}

    result = experiment(tiny, cases("a red circle", seeds=range(3)), {"swap": SWAP}, several, **SETTINGS)
    assert result.measures == ("several.a", "several.b")
    assert [own is None for own in value(result, "swap", "several.b")] == [False, True, False]
    assert result.summary()["swap", "several.a"].failed == 1


def test_a_difference_is_to_the_untouched_run_of_the_same_batch(tiny):
    """The last job has fewer images than the first, and rounds otherwise."""
    conditions = {f"scale {k}": [sdprobe.ScalePrompt(0.5 + k / 100)] for k in range(7)} | {"nothing": []}
    line = experiment(tiny, cases("a red circle", seeds=range(3)), conditions, mean, **SETTINGS).summary()
    assert tuple(line["nothing", "mean"].difference) == (0.0, 0.0, 0.0, 3)
    assert line["nothing", "mean"].unchanged == 3


def test_what_collides_is_refused(tiny):
    for conditions in ({1: [], "1": []}, [SWAP]):
        with pytest.raises((ValueError, TypeError), match=r"called '1'|hooks by name"):
            experiment(tiny, "a", conditions, mean, **SETTINGS)
    with pytest.raises(ValueError, match=r"'a\.b' is called as a part of the measure 'a'"):
        experiment(tiny, "a", {"b": []}, {"a": mean, "a.b": mean}, **SETTINGS)
    with pytest.raises(TypeError, match=r"no setting 'step'; those of sdprobe.sample: steps, guidance_scale"):
        experiment(tiny, "a", {"b": []}, mean, step=2)
    with pytest.raises(TypeError, match="an executor has submit"):
        experiment(tiny, "a", {"b": []}, mean, executor=4, **SETTINGS)
    with pytest.raises(ValueError, match="'value' is a column of every table"):
        Condition([], labels={"value": 1})
    maps = sdprobe.AttentionMaps()
    both = experiment(tiny, "a red circle", {"b": {"own": SWAP[0]}}, mean, hooks={"own": maps}, **SETTINGS)
    assert "two hooks are called 'own'" in both.failed[0]["error"]


def test_a_picture_with_transparency_is_a_picture(tiny):
    picture = sdprobe.sample(tiny, "a red circle", seed=0, height=32, width=32, **SETTINGS).images[0]
    kinds = [Case("a", image=picture.convert(mode), strength=0.5) for mode in ("RGB", "RGBA")]
    first, second = (experiment(tiny, own, {"b": []}, mean, **{**SETTINGS, "steps": 4}) for own in kinds)
    assert value(first, "untouched", "mean") == value(second, "untouched", "mean")


VIDEOS = ("LTX-Video", "CogVideoX", "CogVideoX 1.5", "HunyuanVideo", "Wan 2.1", "Wan 2.2")


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.nightly] * (name != "Wan 2.1")) for name in FAMILIES]
)
def test_a_condition_that_does_nothing_is_untouched_to_the_last_bit(family):
    """In one batch, and in a model of videos in runs of one video each."""
    model, asked = sdprobe.load(FAMILIES[family]()), {"height": 16, "width": 16, **ASKED.get(family, {})}
    asked.pop("images_per_prompt", None)
    images = []

    def apart(run, untouched):
        images.append(run)
        return (run.latents - untouched.latents).abs().max()

    conditions = {"nothing": [], "weight 1": [sdprobe.ScalePrompt(1.0)], "half": [sdprobe.ScalePrompt(0.5)], "none": []}
    result = experiment(model, "a red circle", conditions, apart, **SETTINGS | asked)
    assert not result.failed
    unchanged = {row["condition"] for row in result.rows if row["unchanged"] and row["value"] == 0}
    assert unchanged == {"untouched", "nothing", "weight 1", "none"}
    assert all(isinstance(run, PartialRun) == (family not in VIDEOS) for run in images)
