"""Cases of coloured shapes: of the model's own words, all different, the same each time."""

from __future__ import annotations

import pytest

from sdprobe.experiments.shape_cases import shape_cases
from sdprobe.shapes import COLOURS, RELATIONS, SHAPES, Object, render


@pytest.mark.parametrize("objects", [1, 2])
def test_no_prompt_and_seed_come_twice(objects):
    drawn = shape_cases(200, objects)
    assert len({(case.prompt, case.seed) for case in drawn}) == 200
    assert drawn == shape_cases(200, objects)
    assert [case.words for case in drawn[:20]] == [case.words for case in shape_cases(20, objects)]


def test_every_prompt_comes_before_any_comes_again():
    prompts = [case.prompt for case in shape_cases(2 * 48)]
    assert len(set(prompts[:48])) == 48
    assert prompts[:48] == prompts[48:]
    assert len({case.prompt for case in shape_cases(6720, objects=2)}) == 6720


def test_other_seeds_draw_other_prompts_and_other_noise():
    first, second = shape_cases(40, seed=0), shape_cases(40, seed=1)
    assert [case.prompt for case in first] != [case.prompt for case in second]
    assert not {case.seed for case in first} & {case.seed for case in second}


def test_each_word_is_a_word_of_the_prompt_and_of_the_models_world():
    for case in shape_cases(50, objects=2):
        assert set(case.prompt.split()) >= set(case.words.values())
        assert {case.words["colour"], case.words["other_colour"]} <= set(COLOURS)
        assert {case.words["shape"], case.words["other_shape"]} <= set(SHAPES)
        assert case.words["relation"] in RELATIONS
        assert case.words["colour"] != case.words["other_colour"]
        assert case.words["shape"] != case.words["other_shape"]


def test_prompts_are_the_captions_of_the_scenes_that_they_describe():
    """Up to the background, which captions of a scene may name."""
    places = {"left": ((16, 32), (48, 32)), "right": ((48, 32), (16, 32))}
    places |= {"above": ((32, 16), (32, 48)), "below": ((32, 48), (32, 16))}
    for case in shape_cases(40, objects=2):
        first, second = places[case.words["relation"]]
        things = [Object(case.words["shape"], case.words["colour"], first, 13)]
        things.append(Object(case.words["other_shape"], case.words["other_colour"], second, 13))
        assert render(things).caption == f"{case.prompt} on a white background"
    for case in shape_cases(48):
        caption = render([Object(case.words["shape"], case.words["colour"], (32, 32), 13)]).caption
        assert caption == f"{case.prompt} on a white background"


def test_other_numbers_are_refused():
    with pytest.raises(ValueError, match="1 object or 2, not 3"):
        shape_cases(4, objects=3)
    with pytest.raises(ValueError, match="1 or more, not 0"):
        shape_cases(0)
