"""`ProbeResult`: its matrices, table and figure show the probes that it holds."""

from __future__ import annotations

import pytest
import torch

from sdprobe.core.activations.record import ActivationKey
from sdprobe.observe.linear_probe import LinearProbe
from sdprobe.observe.probe_result import ProbeResult

LABELS = [0, 1] * 15
MID, UP = ActivationKey("mid_block"), ActivationKey("up_blocks.1", "output", "skip 0")


def fitted(seed, signal):
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(seed))
    return LinearProbe().fit(x + signal * torch.tensor(LABELS)[:, None], LABELS)


@pytest.fixture(scope="module")
def result():
    return ProbeResult(
        {(MID, 5): fitted(0, 0), (MID, 10): fitted(1, 1), (UP, 10): fitted(2, 9), (UP, None): fitted(3, 0)}
    )


def test_matrices_are_of_the_probes(result):
    assert result.keys == [MID, UP]
    assert result.indices == [5, 10, None]
    for name in ("score", "low", "high", "control"):
        matrix = getattr(result, name)
        assert matrix.shape == (2, 3)
        assert matrix[1, 0].isnan()
        assert matrix[0, 2].isnan()
    for (key, index), own in result.fits.items():
        at = result.keys.index(key), result.indices.index(index)
        assert (result.score[at], result.low[at], result.high[at]) == own.score
        assert result.control[at] == own.control.value
        assert result[key, index] is own
    assert result["mid_block", 5] is result.fits[MID, 5]
    assert result.chance == 0.5


def test_what_is_not_there_is_refused_with_the_choices(result):
    with pytest.raises(KeyError, match=r"'down' at step 5; modules: mid_block, up_blocks\.1 · skip 0; steps"):
        result["down", 5]
    with pytest.raises(KeyError, match="'mid_block' at step 7"):
        result["mid_block", 7]
    two = ProbeResult({(UP, 0): result[UP, 10], (ActivationKey("up_blocks.1"), 0): result[UP, 10]})
    with pytest.raises(KeyError, match="several tensors"):
        two["up_blocks.1", 0]


def test_the_table_has_score_interval_control_and_chance(result):
    lines = repr(result).splitlines()
    assert lines[0].split("  ")[0] == "accuracy [95 % interval]"
    assert str(result["mid_block", 10].score) in lines[1]
    assert lines[-3].startswith("shuffled labels, mean")
    assert f"{result[MID, 5].control.value:.2f}" in lines[-3]
    assert lines[-2].split() == ["chance", "0.50", "0.50", "0.50"]
    assert lines[-1] == "30 pictures"


def test_the_figure_has_the_control_beside(result):
    found, control, bar = result.plot().axes
    assert torch.equal(torch.tensor(found.images[0].get_array().filled(torch.nan)).isnan(), result.score.isnan())
    for ax, kept in ((found, lambda own: own.score), (control, lambda own: own.control)):
        written = {text.get_text() for text in ax.texts}
        for own in result.fits.values():
            assert {f"{kept(own).value:.2f}", f"{kept(own).low:.2f}–{kept(own).high:.2f}"} <= written
    assert [tick.get_text() for tick in found.get_yticklabels()] == ["mid_block", "up_blocks.1 · skip 0"]
    assert [tick.get_text() for tick in bar.get_yticklabels()] == ["0", "chance 0.50", "1"]
