"""What an experiment is repeated over."""

import pickle

import pytest
from PIL import Image

from sdprobe.experiments import Case, cases


def test_every_prompt_with_every_seed_and_image():
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    found = cases(["a", "b"], seeds=[3, 4], images=pictures)
    assert [(own.prompt, own.seed, pictures.index(own.image)) for own in found] == [
        (prompt, seed, k) for prompt in "ab" for seed in (3, 4) for k in (0, 1)
    ]


def test_a_case_keeps_what_is_not_given():
    own = Case("a red circle", seed=7, negative_prompt="blur", words={"colour": "red"})
    assert cases([own]) == [own]
    (other,) = cases(own, seeds=8)
    assert (other.seed, other.negative_prompt, other.words) == (8, "blur", own.words)


def test_a_case_twice_would_count_twice():
    with pytest.raises(ValueError, match=r"case 1 is case 0 again.*'a'.*another seed"):
        cases(["a", "a"])
    with pytest.raises(ValueError, match="there are no cases"):
        cases([])


def test_words_of_the_case():
    own = Case("a red circle", words={"colour": "red"})
    assert own.fill("a {colour} shape") == "a red shape"
    with pytest.raises(ValueError, match=r"'\{shape\}' asks for the word of 'shape'.*has words of 'colour'"):
        own.fill("{shape}")


def test_pickles():
    own = Case("a red circle", 3, words={"colour": "red"})
    assert pickle.loads(pickle.dumps(own)) == own
    assert hash(pickle.loads(pickle.dumps(own))) == hash(own)


def test_the_same_picture_by_other_words_is_the_same_case():
    with pytest.raises(ValueError, match="case 1 is case 0 again"):
        cases([Case("a red circle", words={"colour": "red"}), Case("a red circle", words={"shape": "circle"})])
    with pytest.raises(TypeError, match="one of PIL, or a path, not a list"):
        Case("a", image=[1])
