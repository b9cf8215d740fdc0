"""The table of an experiment, and its figure."""

import csv
import json

import pytest

from sdprobe.experiments import Case, Result
from sdprobe.experiments.summary import summarize


def rows(error=False):
    return [
        {"case": k, "prompt": "a", "seed": k, "condition": name, "control": name == "random", "measure": "m"}
        | {"value": None if error and k == 1 else float(k + add), "untouched": float(k), "unchanged": add == 0}
        | ({"error": "RuntimeError: gone"} if error and k == 1 else {})
        for k in range(5)
        for name, add in (("untouched", 0), ("more", 2), ("random", 0))
    ]


def result(**how):
    return Result(rows(**how), [Case("a", k) for k in range(5)], about="a test")


def test_files_hold_the_rows(tmp_path):
    own = result()
    assert json.loads(own.to_json(tmp_path / "t.json").read_text()) == own.rows
    with own.to_csv(tmp_path / "t.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [(row["condition"], float(row["value"])) for row in read] == [
        (row["condition"], row["value"]) for row in own.rows
    ]
    frame = own.to_pandas()
    assert frame.to_dict("records") == own.rows
    assert len(own.summary().to_pandas()) == 3


def test_the_difference_is_paired():
    line = result().summary()["more", "m"]
    assert tuple(line.difference) == (2.0, 2.0, 2.0, 5)
    assert line.mean.value == 4.0
    assert line.mean.high - line.mean.low > 1
    assert result().summary()["random", "m"].unchanged == 5


def test_missing_values_are_counted():
    line = result(error=True).summary()["more", "m"]
    assert (line.mean.cases, line.difference.cases, line.failed) == (4, 4, 1)
    assert len(result(error=True).failed) == 3


def test_errors_help():
    with pytest.raises(KeyError, match="conditions: untouched, more, random; measures: m"):
        result().values("less", "m")


def test_the_figure_tells_controls_apart():
    figure = result().plot()
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["untouched", "more", "random"]
    marks = [line.get_marker() for line in ax.lines if line.get_marker() != "None"]
    assert marks == ["o", "o", "s"]
    assert ax.get_xlabel() == "m"
    assert summarize(rows()) == result().summary()
