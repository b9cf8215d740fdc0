"""The table of votes: a row for each case, head and concept, with those of shuffled labels."""

import pickle

import pytest

import sdprobe
from sdprobe.core.prompt import WordNotInPrompt
from sdprobe.experiments.concept_attention_votes import ConceptAttentionVotes
from sdprobe.experiments.description import describe, fingerprint
from sdprobe.experiments.head_relevance import HeadRelevance, head_relevance
from sdprobe.experiments.heads_of_model import heads_of
from tests.configured import side_of
from tests.families import FAMILIES

CONCEPTS = {"colour": ["red", "blue"], "shape": ["circle", "star"]}
SETTINGS = {"steps": 2, "guidance_scale": 5.0, "progress": False}


def test_every_case_head_and_concept_has_a_row(tiny):
    found = head_relevance(tiny, CONCEPTS, "a red circle", seeds=range(2), **SETTINGS)
    assert not found.failed
    assert len(found.rows) == 2 * 14 * 2 * 2  # with the controls
    of_head = {}
    for row in found.rows:
        key = (row["case"], row["condition"], row["control"])
        of_head[key] = of_head.get(key, 0) + row["value"]
    assert len(of_head) == 2 * 14 * 2
    assert set(of_head.values()) == {1.0}
    assert all(row["unchanged"] for row in found.rows)
    assert [ax.get_title() for ax in found.plot().axes[:2]] == ["share of votes", "control:\nlabels shuffled"]


def test_the_values_are_those_of_the_observer(tiny):
    found = head_relevance(tiny, CONCEPTS, "a red circle", modules="mid_block*", seeds=5, **SETTINGS)
    votes = ConceptAttentionVotes(CONCEPTS)
    run = sdprobe.sample(tiny, "a red circle", hooks=[votes], seed=5, **SETTINGS)
    (name,) = {row["module"] for row in found.rows}
    assert found.relevance().values.tolist() == run[votes].shares()[name].tolist()
    ranked = found.ranked("colour")
    assert sorted(ranked) == [(name, 0), (name, 1)]
    of = found.relevance()
    assert of[f"{ranked[0][0]} head {ranked[0][1]}", "colour"].value >= of.values[:, 0].max()
    with pytest.raises(ValueError, match="no concept 'size'; the concepts: colour, shape"):
        found.ranked("size")


def test_what_heads_cannot_vote_on_is_refused_before_anything_runs(tiny):
    with pytest.raises(WordNotInPrompt):
        head_relevance(tiny, {"colour": ["red", " "], "shape": ["star"]}, "a red circle", **SETTINGS)
    with pytest.raises(ValueError, match="further tokens cannot be put beside the prompt"):
        head_relevance(sdprobe.load(FAMILIES["Lumina 2"]()), CONCEPTS, "a red circle", **SETTINGS)


def test_a_denoiser_that_is_called_for_each_role_has_a_vote_in_each_step():
    asked = {"frames": 5, "height": 16, "width": 32}
    found = head_relevance(sdprobe.load(FAMILIES["Wan 2.1"]()), CONCEPTS, "a red circle", seeds=0, **asked, **SETTINGS)
    assert not found.failed
    shares = found.relevance().values
    assert shares.sum(axis=1).tolist() == [1.0] * len(shares)


def test_pixart_has_votes_too():
    """Its calls have a mask of the prompt's tokens, which are not the words that are shown."""
    found = head_relevance(sdprobe.load(FAMILIES["PixArt-Σ"]()), CONCEPTS, "a red circle", seeds=0, **SETTINGS)
    assert not found.failed
    assert found.relevance().values.sum(axis=1).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("family", ["Stable Diffusion 3", "Flux.1 dev", "Qwen-Image", "Flux.2 klein"])
def test_joint_attention_has_votes_too(family):
    model = sdprobe.load(FAMILIES[family]())
    size = {"height": side_of(model), "width": side_of(model)}
    found = head_relevance(model, CONCEPTS, "a red circle", seeds=0, **size, **SETTINGS)
    assert not found.failed
    assert all(row["unchanged"] for row in found.rows)
    shares = found.relevance()
    assert set(shares.rows) == {head.name for head in heads_of(model)}
    assert shares.values.sum(axis=1).tolist() == [1.0] * len(shares.rows)


def test_the_design_can_be_sent_to_another_process_and_told_from_another():
    own, other = (HeadRelevance(own) for own in (CONCEPTS, {**CONCEPTS, "size": ["big"]}))
    assert pickle.loads(pickle.dumps(own)) == own
    assert fingerprint(describe(own)) != fingerprint(describe(other))
