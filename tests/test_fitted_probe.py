"""`FittedProbe`: its intervals hold the truth as often as they say, and its readout is what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdprobe.observe.fitted_probe import accuracy, explained, samples_of
from sdprobe.observe.linear_probe import LinearProbe


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def covered(truth, scores):
    return np.mean([score.low <= truth <= score.high for score in scores])


def test_the_interval_of_an_accuracy_holds_the_truth():
    """One feature that is right for 80 % of the pictures: the truth is 0.8, in 95 of 100 intervals."""
    random = np.random.default_rng(0)
    scores = []
    for _ in range(60):
        labels = np.arange(50) % 2
        read = np.where(random.random(50) < 0.8, labels, 1 - labels)
        scores.append(LinearProbe().fit(torch.from_numpy(read)[:, None].float(), labels.tolist()).score)
    assert 0.88 <= covered(0.8, scores) <= 1
    assert all(score.high - score.low < 0.3 for score in scores)


def test_the_interval_of_shares_is_not_too_narrow():
    """A picture of several positions counts once, also where its positions are right or wrong together."""
    random = np.random.default_rng(1)
    alike = [accuracy((random.random(60) < 0.7).astype(float)) for _ in range(400)]
    apart = [accuracy((random.random((60, 8)) < 0.7).mean(1)) for _ in range(400)]
    assert 0.92 <= covered(0.7, alike) <= 0.98
    assert covered(0.7, apart) >= 0.95


def test_the_interval_of_r2_holds_the_truth():
    """y = x + noise of a quarter of its variance: the truth is 0.8, less what fitting on so many pictures costs."""
    random = torch.Generator().manual_seed(0)
    scores = []
    for _ in range(100):
        x = torch.randn(150, 1, generator=random)
        y = x[:, 0] + 0.5 * torch.randn(150, generator=random)
        scores.append(LinearProbe("ridge").fit(x, y).score)
    assert 0.88 <= covered(0.8 - 0.2 / 120, scores) <= 0.99
    assert np.median([score.high - score.low for score in scores]) < 0.15


def test_intervals_know_their_ends():
    sure, none = accuracy(np.ones(50)), accuracy(np.zeros(50))
    assert sure.value == sure.high == 1
    assert 0.9 < sure.low < 0.95
    assert none.value == none.low == 0
    assert 0.05 < none.high < 0.1
    assert accuracy(np.ones(500)).low > sure.low
    assert explained(np.ones(10), np.ones(10), np.random.default_rng(0)) == (0, 0, 0)


def test_samples_are_the_positions_of_each_picture():
    x = drawn(2, 3, 4, 5)
    samples = samples_of(x)
    assert samples.shape == (2, 20, 3)
    assert np.array_equal(samples[1, 7], x[1, :, 1, 2].double().numpy())
    assert np.array_equal(samples_of(x.flatten(2).mT), samples)
    assert np.array_equal(samples_of(x.half().float().bfloat16()[:, :, 0, 0])[:, 0], x.bfloat16()[:, :, 0, 0].double())


@pytest.mark.parametrize("labels", [["a", "b"], ["a", "b", "c"]])
def test_to_go_along_the_direction_makes_the_readout_say_so(labels):
    given = [labels[i % len(labels)] for i in range(60)]
    planted = drawn(len(labels), 8, seed=3)
    fitted = LinearProbe().fit(3 * planted[[labels.index(own) for own in given]] + drawn(60, 8), given)
    for label in labels:
        assert set(fitted.predict(drawn(20, 8, seed=4) + 1000 * fitted.direction(label))) == {label}


def test_a_picture_of_several_positions_is_read_by_their_mean():
    fitted = LinearProbe().fit(torch.tensor([[-1.0], [1.0]]).repeat(10, 1), [0, 1] * 10)
    assert fitted.predict(torch.tensor([[[1.0], [1.0], [-5.0]], [[-1.0], [-1.0], [5.0]]])) == [0, 1]


def test_what_does_not_fit_is_refused_in_words():
    fitted = LinearProbe().fit(drawn(30, 4), ["red", "green", "blue"] * 10)
    with pytest.raises(ValueError, match="towards 'pink'; the labels of this probe: 'blue', 'green', 'red'"):
        fitted.direction("pink")
    with pytest.raises(ValueError, match="towards None"):
        fitted.direction()
    with pytest.raises(ValueError, match="width 4, not 5"):
        fitted.predict(drawn(2, 5))
    with pytest.raises(ValueError, match="predicts numbers"):
        LinearProbe("ridge").fit(drawn(30, 4), drawn(30)).direction("red")
