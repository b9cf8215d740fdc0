"""Names that a user gives to tokens: of embeddings longer than the context, and beside a prompt's own words."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe import AttentionMaps
from sdprobe.observe.token_labels import TokenLabels
from tests.laws.strategies import run
from tests.planted import latents_for, square
from tests.planted_families import planted
from tests.tiny import TOKENS, stable_diffusion

TWICE = 2 * TOKENS
AT = TOKENS + 4
MASK = square((8, 8), 2, 4, 4)


def attached(*hooks, at=AT, rows="cond", images=1):
    """A call of a stock pipeline with embeddings of two chunks, of which one token is marked, on one side."""
    model = planted(stable_diffusion())
    model.pipe.set_progress_bar_config(disable=True)
    embeds = torch.zeros(1, TWICE, model.pipe.text_encoder.config.hidden_size)
    marked = embeds.clone()
    marked[:, at, 0] = 1
    positive, negative = (marked, embeds) if rows == "cond" else (embeds, marked)
    with sdprobe.attach(model.pipe, list(hooks)) as made:
        model.pipe(
            prompt_embeds=positive.repeat(images, 1, 1),
            negative_prompt_embeds=negative.repeat(images, 1, 1),
            latents=latents_for([MASK] * images),
            num_inference_steps=1,
            height=16,
            width=16,
        )
    return made


def labels_of(*positions):
    return ["wheel" if position in positions else None for position in range(TWICE)]


@pytest.mark.parametrize("rows", ["cond", "uncond"])
def test_a_token_of_the_second_chunk_has_its_planted_map(rows):
    maps = AttentionMaps(rows=rows, grids=[8], labels={"wheel": AT, "bell": [2, 3]})
    found = attached(maps, rows=rows)[maps]
    for asked in (AT, "wheel", "Wheel"):
        assert torch.allclose(found.heat_map(asked).values, MASK.float(), atol=1e-6)
    assert found.heat_map("bell").values[MASK].max() < 1e-6
    assert list(found.heat_maps()) == ["wheel", "bell"]
    assert torch.allclose(found.row_sums(), torch.ones(()), atol=1e-5)


def test_labels_of_every_position_are_those_of_a_mapping():
    given = (labels_of(AT, AT + 1, 3), {"wheel": [3, AT, AT + 1]})
    several = [AttentionMaps(labels=labels, grids=[8]) for labels in given]
    made = attached(*several)
    for occurrence in (None, 0, 1):
        a, b = (made[maps].heat_map("wheel", occurrence).values for maps in several)
        assert torch.equal(a, b)
    first, second = (made[several[0]].heat_map("wheel", k).values for k in (0, 1))
    assert torch.equal(first, made[several[0]].heat_map(3).values)
    assert torch.allclose(second[MASK], torch.tensor(0.5), atol=1e-6)  # one of its two tokens is the marked one
    with pytest.raises(sdprobe.WordNotInPrompt, match="occurs 2 times"):
        made[several[0]].heat_map("wheel", 2)


def test_labels_say_what_is_recorded():
    few, every = AttentionMaps(["wheel"], labels={"wheel": AT, "bell": 2}), AttentionMaps()
    made = attached(few, every, images=2)
    for image in range(2):
        assert torch.equal(
            made[few].heat_map("wheel", image=image).values, made[every].heat_map(AT, image=image).values
        )
    assert list(made[few].heat_maps()) == ["wheel"]
    with pytest.raises(ValueError, match="only the words"):
        made[few].heat_map("bell")


def test_labels_stand_beside_the_words_of_a_prompt(tiny):
    maps = AttentionMaps(labels={"thing": [2, 3], "circle": 3})
    found = run(tiny, maps)[maps]
    thing, red, circle = (found.heat_map(word).values for word in ("thing", "red", "circle"))
    assert torch.allclose(thing, (red + circle) / 2)
    assert list(found.heat_maps()) == ["a", "red", "circle", "thing"]


def test_labels_are_saved_with_the_run(reopened):
    maps = AttentionMaps(["wheel"], labels=labels_of(AT))
    made = attached(maps)
    again = reopened(made)
    assert torch.equal(again[maps].heat_map("wheel").values, made[maps].heat_map("wheel").values)
    with pytest.raises(sdprobe.WordNotInPrompt, match="'bell'; the labels are 'wheel'"):
        again[maps].heat_map("bell")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["wheel"] * TOKENS, f"{TOKENS} labels for {TWICE} tokens"),
        ({"wheel": TWICE}, f"'wheel' is of token {TWICE}"),
    ],
    ids=["too few", "beyond"],
)
def test_labels_of_other_tokens_are_refused_before_the_first_step(labels, said):
    with pytest.raises(ValueError, match=said):
        attached(AttentionMaps(labels=labels))


def test_a_label_that_is_a_word_elsewhere_is_refused(tiny):
    with pytest.raises(ValueError, match="call the label something else"):
        run(tiny, AttentionMaps(labels={"circle": 2}))


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        ("wheel", TypeError),
        ([None, ""], ValueError),
        ({"wheel": []}, ValueError),
        ({"wheel": -1}, ValueError),
        ([3], TypeError),
    ],
    ids=["a text", "none", "nowhere", "from the end", "a number"],
)
def test_what_are_no_labels_is_refused(labels, error):
    with pytest.raises(error, match="label"):
        AttentionMaps(labels=labels)


@pytest.mark.parametrize("plain", [[], {"wheel": []}, {"wheel": [[]]}, {"wheel": [[-1]]}, {"wheel": 3}])
def test_what_a_file_holds_is_checked(plain):
    with pytest.raises(ValueError, match=r"label|needed"):
        TokenLabels.from_plain(plain)


def test_labels_are_of_one_side():
    with pytest.raises(ValueError, match="each by itself"):
        AttentionMaps(rows="both", labels={"wheel": 1})
