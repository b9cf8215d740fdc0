"""`insertion`: the word is hidden everywhere but where `deletion` hides it."""

from __future__ import annotations

import pytest
import torch

from sdprobe.experiments.case import Case
from sdprobe.experiments.case_runner import CaseRunner
from sdprobe.experiments.deletion import Deletion
from sdprobe.experiments.insertion import Insertion, insertion
from sdprobe.experiments.sampler import sampler_of
from sdprobe.transform.attention_edits.share_of_places import ShareOfPlaces

CASE = Case("a red circle left of a blue star", seed=1)
SETTINGS = {"steps": 1, "guidance_scale": 3.0}


def test_it_hides_where_deletion_does_not(embedded):
    runner = CaseRunner(sampler_of(embedded), CASE, SETTINGS)
    deleted, inserted = (kind("circle", "star", (0.25,)).conditions(CASE, runner) for kind in (Deletion, Insertion))
    assert [*deleted] == [*inserted]
    for name in deleted:
        pair = [own[name].hooks()[0] for own in (deleted, inserted)]
        for grid in ((16, 16), (8, 8), (4, 4)):
            places = [ShareOfPlaces.of(hook.order, hook.share).at(grid) for hook in pair]
            assert torch.equal(*[places[0], ~places[1]])


def test_where_every_place_sees_the_word_it_is_untouched(tiny):
    size = {"size": lambda run: run.latents.norm()}
    result = insertion(tiny, CASE, "circle", shares=[0.0, 0.5], measures=size, progress=False, **SETTINGS)
    for order in result.orders:
        shares, means = result.curve(order, "size")
        assert shares == (0.0, 0.5, 1.0)
        assert means[-1].value == result.values("untouched", "size")[0]
        assert means[0].value == pytest.approx(result.curve(result.orders[0], "size")[1][0].value, rel=1e-4)
    with pytest.raises(ValueError, match="the share 1 is the untouched condition"):
        insertion(tiny, CASE, "circle", shares=[0.5, 1])
