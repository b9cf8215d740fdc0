"""Texts get several seeds; cases keep their own."""

from sdprobe.experiments.case import Case
from sdprobe.experiments.seeded_cases import seeded_cases


def test_texts_get_seeds_and_cases_keep_theirs():
    own = Case("a star", seed=7)
    assert [case.seed for case in seeded_cases(["a circle", own], None)] == [*range(12), 7]
    assert [case.seed for case in seeded_cases(["a circle", own], range(2))] == [0, 1, 0, 1]
    assert seeded_cases(own, None) == [own]
