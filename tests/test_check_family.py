"""Every family keeps its promises, and a family that does not is told which."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sdprobe.model.families.aura_flow import AuraFlow
from sdprobe.model.families.flux import Flux
from sdprobe.testing import FAMILY_LAWS, LawsBroken, check_family, examine_family
from tests.families import ASKED, FAMILIES

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "concepts" / "adding_a_family.md"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_keeps_its_promises(family):
    report = check_family(FAMILIES[family], settings=ASKED.get(family, {}))
    assert report.named("holds") == tuple(law.name for law in FAMILY_LAWS)


def broken(monkeypatch, name, value, kind=AuraFlow, family="AuraFlow"):
    """The promises that are not kept once a family says something wrong of its pipeline."""
    monkeypatch.setattr(kind, name, value)
    return examine_family(FAMILIES[family]).named("fails")


def test_text_and_picture_taken_for_each_other(monkeypatch):
    assert broken(monkeypatch, "text_first", False) == ("finds words at their keys",)


def test_places_that_are_one_off(monkeypatch):
    assert {"finds words at their keys", "knows its places"} <= {*broken(monkeypatch, "registers", 7)}


def test_a_kind_of_attention_that_is_left_out(monkeypatch):
    alone = lambda self, module: None  # noqa: E731
    assert "sees its attention" in broken(monkeypatch, "attention_kind", alone)


def test_another_timestep(monkeypatch):
    right = AuraFlow.predict
    wrong = lambda self, rows, timestep, told: right(self, rows, timestep * 0.999, told)  # noqa: E731
    assert broken(monkeypatch, "predict", wrong) == ("is the stock pipeline",)


def test_a_prompt_read_otherwise_than_encoded(monkeypatch):
    right = AuraFlow.encoded
    wrong = lambda self, texts: right(self, [text.upper() for text in texts])  # noqa: E731
    assert broken(monkeypatch, "encoded", wrong)[0] == "reads what encoders are given"


def test_embeddings_put_back_in_the_wrong_place(monkeypatch):
    failed = broken(monkeypatch, "encoded_at", {"cond": (2,), "uncond": (0,)})
    assert "every point changes the picture" in failed


def test_an_output_in_the_wrong_sign(monkeypatch):
    right = Flux.output_of
    wrong = lambda self, answer, *size: -right(self, answer, *size)  # noqa: E731
    assert "can be attached" in broken(monkeypatch, "output_of", wrong, Flux, "Flux.1 dev")


def test_the_table_is_raised_with_the_error(monkeypatch):
    monkeypatch.setattr(AuraFlow, "text_first", False)
    with pytest.raises(LawsBroken, match="AuraFlow") as raised:
        check_family(FAMILIES["AuraFlow"])
    assert raised.value.report.failures


def bare(text):
    """Code without white space: on the page it stands further left, and breaks elsewhere."""
    return re.sub(r"\s+", "", text)


def test_the_page_shows_the_file():
    """What the page quotes of AuraFlow is what its file says, and no method of the class is left out."""
    source = (ROOT / "sdprobe" / "model" / "families" / "aura_flow.py").read_text(encoding="utf-8")
    quoted = re.findall(r"```py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    for block in quoted:
        for part in block.strip("\n").split("\n\n"):
            assert bare(part) in bare(source), part
    shown = "\n".join(quoted)
    assert all(f"def {name}" in shown for name in re.findall(r"    def (\w+)", source))
