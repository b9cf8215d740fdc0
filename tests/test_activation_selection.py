"""What of an activation is kept: the positions of words, in each row's own prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdprobe.core.activations.flat import flatten
from sdprobe.core.prompt import WordNotInPrompt
from sdprobe.core.run import Row, Run
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.observe.activation_selection import at_tokens, form_of
from sdprobe.observe.activations import Activations
from tests.laws.strategies import run


def step_of(rows):
    """A step with these rows, of which no more is known."""
    step = object.__new__(Step)
    vars(step).update(index=0, rows=tuple(rows), run=object.__new__(Run))
    return step


@pytest.mark.parametrize(("tokens", "positions"), [("circle", (3,)), (["red", "<end>"], (2, 4)), ([0, 3], (0, 3))])
def test_tokens_are_those_of_each_rows_prompt(tiny, tokens, positions):
    """At a site that says where the text stands, as those of joint attention do."""
    prompts = [tiny.read(text) for text in ("a red circle", "a big red circle")]
    rows = [Row(0, prompts[0], "cond"), Row(1, prompts[1], "cond")]
    x, text = torch.randn(2, 20, 3), slice(5, 20)
    site = Site("block", "activation", "block", None, 0, step_of(rows), image=slice(0, 5), text=text)
    form = form_of(x, site, rows)
    kept, found = at_tokens(x, form, site, rows, tokens)
    expected = [
        tuple(p for word in np.atleast_1d(tokens).tolist() for p in prompt.positions(word)) for prompt in prompts
    ]
    assert found.positions == tuple(expected)
    assert expected[0] == positions
    assert torch.equal(kept, torch.stack([x[k, [5 + p for p in own]] for k, own in enumerate(expected)]))
    assert flatten({0: (kept, found)}).table["token"].tolist() == [p for own in expected for p in own]
    found.check(tuple(kept.shape))


def test_tokens_that_cannot_be_kept(tiny):
    with pytest.raises(ValueError, match=r"no positions of the text in its output 'hidden'.*choose other modules"):
        run(tiny, Activations("mid_block", tokens="circle"))
    rows = [Row(k, tiny.read(text), "cond") for k, text in enumerate(["a red circle", "a red, red circle"])]
    site = Site("block", "activation", "block", None, 0, step_of(rows), image=slice(0, 5), text=slice(5, 20))
    x = torch.zeros(2, 20, 3)
    with pytest.raises(
        ValueError, match=r"not equally many in all rows \(1 in 'a red circle', 2 in 'a red, red circle"
    ):
        at_tokens(x, form_of(x, site, rows), site, rows, "red")
    with pytest.raises(WordNotInPrompt, match="'star' is not in the prompt"):
        at_tokens(x, form_of(x, site, rows), site, rows, "star")
