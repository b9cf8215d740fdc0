"""A matrix with labels: what it shows, and what it is in other forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sdprobe
from sdprobe import LabelledMatrix
from sdprobe.observe.labelled_matrix import place_labels, token_labels
from tests.families import stable_diffusion_3


def matrix(h=3, w=5):
    values = torch.rand(h, w, generator=torch.Generator().manual_seed(0))
    return LabelledMatrix(values, ("a", "<pad>", "a")[:h], tuple(f"0,{x}" for x in range(w)), "text", "image")


def test_labels_of_the_tokens_of_two_encoders():
    prompt = sdprobe.load(stable_diffusion_3()).read("a checkered circle")
    labels = token_labels(prompt)
    assert labels[:7] == ("<start>", "a", "check", "ered", "circle", "<end>", "<pad>")
    assert labels[15:22] == ("<pad>", "a", "check", "ered", "circle", "<end>", "<pad>")
    assert len(labels) == len(prompt.ids)


def test_places_are_named_in_the_order_of_rows():
    labels = place_labels((4, 6))
    assert len(set(labels)) == 24
    assert labels[1 * 6 + 2] == "1,2"


def test_without_padding_the_other_numbers_stay():
    own = matrix()
    kept = own.without_padding()
    assert kept.rows == ("a", "a")
    assert torch.equal(kept.values, own.values[[0, 2]])
    assert kept.columns == own.columns


def test_as_a_table_and_an_array():
    pytest.importorskip("pandas")
    own = matrix()
    table = own.to_pandas()
    assert len(table) == 15
    assert np.array_equal(table.pivot(index="from", columns="to", values="attention"), own.numpy())
    assert set(table[table["from"] == 1].from_label) == {"<pad>"}
    half = LabelledMatrix(own.values.half(), own.rows, own.columns)
    assert half.numpy().dtype == np.float32


def test_labels_must_fit():
    with pytest.raises(ValueError, match=r"\[2, 2\] numbers need a label for each row and column, not 1 and 2"):
        LabelledMatrix(torch.eye(2), ("a",), ("b", "c"))


@pytest.mark.parametrize("log", [False, True])
def test_a_figure_names_both_sides(log):
    figure = matrix().plot(log)
    ax = figure.axes[0]
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("from: text", "to: image")
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "<pad>", "a"]
    large = LabelledMatrix(torch.zeros(1, 256), ("a",), place_labels((16, 16))).plot(log).axes[0]
    assert len(large.get_xticklabels()) <= 40
