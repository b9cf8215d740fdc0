"""Numbers that end in a black picture are refused before a run."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from tests.laws.strategies import run

NAN, INF = float("nan"), float("inf")
VECTOR = torch.tensor([1.0, NAN])
REFUSED = {
    "ReplaceToken": (lambda: sdprobe.ReplaceToken("circle", with_=VECTOR), "with_ must be finite: 1 of its 2"),
    "AddVector": (lambda: sdprobe.AddVector("circle", VECTOR), "the vector must be finite: 1 of its 2"),
    "AddVector, by encoder": (lambda: sdprobe.AddVector("circle", {"text_encoder": VECTOR}), "text_encoder must be"),
    "AddVector, scale": (
        lambda: sdprobe.AddVector("circle", torch.ones(2), scale=INF),
        "scale must be a finite number",
    ),
    "MixTokens": (lambda: sdprobe.MixTokens({"star": NAN}, at="circle"), "the weight of 'star' must be a finite"),
    "MixPrompts": (lambda: sdprobe.MixPrompts({"a star": -INF}), "the weight of 'a star' must be a finite .* not -inf"),
    "ScaleToken": (lambda: sdprobe.ScaleToken("circle", NAN), "factor must be a finite number, not nan"),
    "ScalePrompt": (lambda: sdprobe.ScalePrompt(INF), "factor must be a finite number, not inf"),
    "NoisePrompt": (lambda: sdprobe.NoisePrompt(NAN), "amount must be a finite number, not nan"),
    "Guidance": (lambda: sdprobe.Guidance(NAN), "scale must be a finite number, not nan"),
    "Guidance, steps": (lambda: sdprobe.Guidance([1.0, INF]), "scale must be a finite number, not inf"),
    "PerturbedAttention": (lambda: sdprobe.PerturbedAttention(NAN), "scale must be a finite number"),
    "SelfAttentionGuidance": (lambda: sdprobe.SelfAttentionGuidance(INF), "scale must be a finite number"),
    "LossGuidance": (lambda: sdprobe.LossGuidance(torch.sum, NAN), "scale must be a finite number"),
    "AttendAndExcite": (lambda: sdprobe.AttendAndExcite(["circle"], NAN), "scale must be a finite number"),
    "Concept": (lambda: sdprobe.Concept({"text_encoder": VECTOR[None]}), "vectors of text_encoder must be finite"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_number_is_refused_as_it_is_made(what):
    make, message = REFUSED[what]
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: sdprobe.ScalePrompt("2"),
        lambda: sdprobe.Guidance("7"),
        lambda: sdprobe.Guidance(["7"]),
        lambda: sdprobe.MixPrompts({"a star": None}),
    ],
)
def test_what_is_a_text_is_refused(make):
    with pytest.raises(TypeError, match="is a number, not"):
        make()


def test_a_scale_that_a_function_gives(tiny):
    with pytest.raises(ValueError, match="the scale of step 1 must be a finite number, not nan"):
        run(tiny, sdprobe.Guidance(lambda step: NAN if step.index else 2.0))
