"""The effect is the share of the way from a to b, case by case."""

import numpy as np
import pytest

from sdprobe.experiments.case import Case
from sdprobe.experiments.effect_matrix import WHOLE, EffectMatrix, as_matrix
from sdprobe.experiments.head_ablation import HeadEffects


def rows(values, measure="m", unchanged=False):
    """A row for each case of each condition; all but untouched and the whole are cells, named by their last word."""
    for condition, own in values.items():
        told = (
            {"module": condition.split()[-1], "steps": "all", "head": "0"}
            if condition not in (WHOLE, "untouched")
            else {}
        )
        for case, value in enumerate(own):
            yield {
                "case": case,
                "condition": condition,
                "control": condition.startswith("control"),
                "measure": measure,
            } | {
                "value": value,
                "untouched": values["untouched"][case],
                "unchanged": unchanged,
                **told,
            }


def matrix(values, kind=EffectMatrix, **more):
    return kind(list(rows(values, **more)), [Case("a", seed=k) for k in range(len(values["untouched"]))])


def test_the_effect_is_a_share_of_the_way():
    made = matrix({"untouched": [1.0, 2.0], WHOLE: [3.0, 6.0], "mid": [2.0, 3.0], "control mid": [1.0, 2.0]})
    assert made.effect()["mid", "all"].value == pytest.approx((0.5 + 0.25) / 2)
    assert made.control()["mid", "all"].value == 0


def test_it_is_0_for_what_changes_nothing_and_1_for_the_whole():
    values = {"untouched": [1.0, 2.0, 0.5], WHOLE: [3.0, 6.0, 0.1]}
    made = matrix(values | {"none": values["untouched"], "every": values[WHOLE]})
    assert made.effect()["none", "all"].value == 0
    assert made.effect()["every", "all"][:3] == (1, 1, 1)


def test_cases_in_which_a_and_b_are_the_same_are_left_out():
    made = matrix({"untouched": [False, True, None], WHOLE: [True, True, True], "mid": [True, False, True]})
    found = made.effect()["mid", "all"]
    assert (found.value, found.cases) == (1.0, 1)
    assert np.isnan(matrix({"untouched": [1.0], WHOLE: [1.0], "mid": [2.0]}).effect()["mid", "all"].value)


def test_the_interval_of_answers_of_yes_and_no_has_a_width_even_where_all_are_the_same():
    made = matrix({"untouched": [False] * 12, WHOLE: [True] * 12, "mid": [True] * 12, "up": [False] * 12})
    low = made.effect()["mid", "all"].low
    assert 0.7 < low < 0.8
    assert made.effect()["up", "all"][:3] == pytest.approx((0, 0, 1 - low))


def test_of_heads_it_is_the_difference_to_untouched():
    made = matrix({"untouched": [1.0, 2.0], "mid": [2.0, 4.0], "control mid": [1.0, 2.0]}, HeadEffects)
    assert made.effect()["mid", "0"].value == 1.5
    assert made.plot().axes[0].images[0].get_clim() == (-1.5, 1.5)


def test_what_did_nothing_is_told():
    made = matrix({"untouched": [1.0, 2.0], "mid": [1.0, 2.0]}, HeadEffects, unchanged=True)
    assert made.effect().did_nothing(("mid", "0"))


def test_the_measure_is_the_one_asked_for():
    values = {"untouched": [0.0], WHOLE: [1.0], "mid": [0.5]}
    both = EffectMatrix([*rows(values), *rows(values | {"mid": [0.25]}, measure="n")], [Case("a")])
    assert both.effect()["mid", "all"].value == 0.5
    assert (
        both.effect("n")["mid", "all"].value
        == as_matrix(both, EffectMatrix, "n", "").effect()["mid", "all"].value
        == 0.25
    )
    with pytest.raises(ValueError, match="there is no measure 'o'; the measures: m, n"):
        as_matrix(both, EffectMatrix, "o", "")


def test_effects_and_controls_are_one_data_frame():
    pytest.importorskip("pandas")
    made = matrix({"untouched": [0.0], WHOLE: [1.0], "mid": [0.5], "control mid": [0.0]})
    assert made.effects_to_pandas()[["effect", "control"]].to_numpy().tolist() == [[0.5, False], [0.0, True]]
    assert [ax.get_title() for ax in made.plot().axes[:2]] == ["m", "control:\nrandom vectors of equal norm"]


def test_cases_that_have_no_effect_do_not_make_the_others_do_nothing():
    """In the first case a and b are alike, and the condition left it as it was; in the second it did all."""
    given = [*rows({"untouched": [1.0, 0.0], WHOLE: [1.0, 1.0], "mid": [1.0, 1.0]})]
    for row in given:
        row["unchanged"] = row["case"] == 0
    made = EffectMatrix(given, [Case("a"), Case("b")])
    assert made.effect()["mid", "all"].cases == 1
    assert not made.effect().did_nothing(("mid", "all"))
