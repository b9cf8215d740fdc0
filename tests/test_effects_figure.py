"""The figure of effects: the control beside them in the same colours, and grey where an interval includes no effect."""

import pytest

from sdprobe.experiments.bootstrap import Estimate
from sdprobe.experiments.effects import Effects
from sdprobe.experiments.effects_figure import beside_control, row_names


def effects(*cells):
    return Effects(
        {("mid_block", str(k)): Estimate(*own, 12) for k, own in enumerate(cells)}, "share", ("module", "steps")
    )


@pytest.mark.parametrize("signed", [False, True])
def test_the_control_has_the_same_colours(signed):
    figure = beside_control([("a", effects((0.5, 0.2, 0.8))), ("b", effects((-2.0, -3.0, 1.0)))], signed=signed)
    limits = [ax.images[0].get_clim() for ax in figure.axes[:2]]
    assert limits == [(-2.0, 2.0)] * 2 if signed else [(0, 1)] * 2


def test_without_a_value_there_is_nothing_to_plot():
    with pytest.raises(ValueError, match="no case has a value"):
        beside_control([("a", effects()), ("b", effects())])


def test_numbers_are_grey_where_the_interval_includes_no_effect():
    figure = beside_control([("a", effects((0.5, 0.2, 0.8), (0.1, 0.0, 0.3)))])
    assert [text.get_alpha() for text in figure.axes[0].texts] == [1.0, 1.0, 0.5, 0.5]
    assert [text.get_text() for text in figure.axes[0].texts][::2] == ["0.50", "0.10"]
    by_chance = beside_control([("a", effects((0.5, 0.4, 0.6), (0.9, 0.8, 1.0)))], zero=0.5)
    assert [text.get_alpha() for text in by_chance.axes[0].texts] == [0.5, 0.5, 1.0, 1.0]


def test_a_cell_that_did_nothing_says_so():
    cell = ("mid_block", "0")
    nothing = Effects({cell: Estimate(0.0, 0.0, 0.0, 3)}, "share", ("module", "steps"), {cell: 3}, {cell: 3})
    assert [text.get_text() for text in beside_control([("a", nothing)]).axes[0].texts] == ["="]


def test_names_of_rows_are_as_long_as_it_takes():
    several = [f"up_blocks.0.attentions.0.transformer_blocks.{k}.attn2" for k in (0, 1)]
    assert row_names(several) == ["up 0.0.0", "up 0.0.1"]
    assert row_names([f"{several[0]} head {k}" for k in (0, 1)]) == ["up 0.0 head 0", "up 0.0 head 1"]
