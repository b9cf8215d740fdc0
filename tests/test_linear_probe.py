"""`LinearProbe`: what is planted is found, what is not there is not, and no picture is on both sides."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from sdprobe.core.activations.form import ActivationForm
from sdprobe.core.activations.record import ActivationKey, HeldActivations, Kept, RowLabel
from sdprobe.core.cpu_copy import CpuCopy
from sdprobe.observe.linear_probe import LinearProbe

COLOURS = ("red", "green", "blue")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def recorded(images, tensors, roles=("cond",)):
    """A record of `{index: {name: [rows, ...]}}`, its rows role by role."""
    record = HeldActivations()
    rows = tuple(RowLabel(image, role, "a circle") for role in roles for image in images)
    for index, named in tensors.items():
        axes = {2: ("rows", "width"), 3: ("rows", "positions", "width"), 4: ("rows", "channels", "h", "w")}
        record.write(
            index,
            {ActivationKey(name): Kept(CpuCopy(x), ActivationForm(axes[x.ndim], rows)) for name, x in named.items()},
        )
    return record


def test_a_planted_signal_is_found_with_its_direction():
    sign = torch.tensor([1.0, -1.0]).repeat(100)
    direction = torch.nn.functional.normalize(drawn(16, seed=1), dim=0)
    x = 2.0 * drawn(200, 16)
    x = x - (x @ direction)[:, None] * direction + 6 * sign[:, None] * direction  # nothing else lies along it
    fitted = LinearProbe().fit(x, ["warm" if own > 0 else "cold" for own in sign])
    assert fitted.score.value == 1
    assert fitted.score.low > 0.97
    assert fitted.direction() @ direction > 0.97
    assert torch.equal(fitted.direction("cold"), -fitted.direction("warm"))
    assert torch.isclose(fitted.direction().norm(), torch.tensor(1.0))
    assert fitted.control.high < 0.65
    assert fitted.chance == 0.5


def test_each_of_several_labels_has_its_direction():
    labels = torch.arange(150) % 3
    planted = torch.eye(3, 12)
    fitted = LinearProbe().fit(4 * planted[labels] + 0.3 * drawn(150, 12), [COLOURS[own] for own in labels])
    assert fitted.score.value == 1
    assert fitted.classes == ("blue", "green", "red")
    for at, colour in enumerate(COLOURS):
        towards = torch.nn.functional.normalize(planted[at] - planted.mean(0), dim=0)
        assert fitted.direction(colour) @ towards > 0.95, colour
    assert fitted.predict(4 * planted) == list(COLOURS)


def test_labels_of_nothing_are_at_chance_as_the_control_is():
    fits = [LinearProbe(seed=seed).fit(drawn(100, 10, seed=seed), [0, 1] * 50) for seed in range(40)]
    for scores in ([own.score for own in fits], [own.control for own in fits]):
        assert abs(np.mean([own.value for own in scores]) - 0.5) < 0.03
        assert np.mean([own.low <= 0.5 <= own.high for own in scores]) > 0.8


def test_positions_of_a_picture_are_never_on_both_sides():
    """Equal positions and labels of nothing: divided by positions a probe would know every picture again."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import KFold, cross_val_score

    x = drawn(60, 1, 64).expand(60, 8, 64)
    labels = [0, 1] * 30
    by_position = KFold(5, shuffle=True, random_state=0)
    leaking = cross_val_score(LogisticRegression(), x.reshape(-1, 64).numpy(), np.repeat(labels, 8), cv=by_position)
    assert leaking.mean() == 1
    fitted = LinearProbe().fit(x, labels)
    assert fitted.score.low < 0.5 < fitted.score.high
    assert fitted.pictures == 60  # the interval is that of 60 pictures, not of 480 positions
    assert fitted.score.high - fitted.score.low > 0.2


@pytest.mark.parametrize("positions", [1, 3])
def test_scores_are_those_of_scikit_learn(positions):
    """Each picture held out by itself, so that the folds are known."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = drawn(30, positions, 5) * torch.tensor([1.0, 10.0, 0.1, 1.0, 1.0]) + 3
    number = x.mean(1)[:, 0] + 0.5 * drawn(30, seed=1)
    colour = (number > number.median()).long()
    flat, pictures = x.reshape(-1, 5).numpy(), np.repeat(np.arange(30), positions)

    def held_out(model, y):
        again = make_pipeline(StandardScaler(), model)
        return cross_val_predict(again, flat, np.repeat(y, positions), groups=pictures, cv=LeaveOneGroupOut())

    right = held_out(LogisticRegression(C=0.5, max_iter=1000), colour.numpy()) == np.repeat(colour, positions).numpy()
    assert LinearProbe(penalty=2.0, folds=30).fit(x, colour).score.value == pytest.approx(right.mean(), abs=1e-9)
    y = number.double().numpy()
    residual = np.square(held_out(Ridge(alpha=2.0), y) - np.repeat(y, positions)).mean()
    others = (y.sum() - y) / 29
    expected = 1 - residual / np.square(y - others).mean()
    assert LinearProbe("ridge", penalty=2.0, folds=30).fit(x, number).score.value == pytest.approx(expected, abs=1e-6)


def test_numbers_are_predicted_by_ridge():
    x = drawn(200, 8)
    y = 3 * x[:, 1] - 4 * x[:, 5] + 7
    fitted = LinearProbe("ridge", penalty=1e-3).fit(x, y)
    assert fitted.score.low > 0.999
    assert fitted.control.value < 0
    assert fitted.chance == 0
    assert torch.allclose(torch.tensor(fitted.predict(x[:5])), y[:5], atol=1e-2)
    assert torch.allclose(fitted.weights, torch.tensor([[0, 3.0, 0, 0, 0, -4.0, 0, 0]]), atol=1e-3)
    assert fitted.direction() @ torch.tensor([0, 0.6, 0, 0, 0, -0.8, 0, 0]) > 0.99


def test_units_of_the_features_change_nothing():
    """Standardised: a channel in other units is the same channel. One that does not vary is no error."""
    x, labels = drawn(60, 6).double(), torch.arange(60) % 2
    x[:, 0] += labels
    x[:, 5] = 0.1  # its mean rounds
    scale, shift = torch.tensor([1e-3, 1.0, 1e3, 8.0, 1.0, 1.0]), torch.tensor([5.0, 0.0, 1.0, -3.0, 2.0, 0.0])
    plain, other = LinearProbe().fit(x, labels), LinearProbe().fit(x * scale + shift, labels)
    assert plain.score == other.score
    assert plain.control == other.control
    assert plain.predict(x) == other.predict(x * scale + shift)
    assert torch.allclose(plain.weights, other.weights * scale, atol=1e-3)
    assert torch.allclose(torch.nn.functional.normalize(plain.direction() * scale, dim=0), other.direction(), atol=1e-3)
    assert plain.direction()[5] == plain.deviation[5] == 0
    assert plain.weights[0, 5].abs() < 1e-9


def test_a_fit_is_repeatable_and_another_seed_divides_otherwise():
    x, labels = drawn(50, 5), torch.arange(50) % 2
    first, again, other = (LinearProbe(seed=seed).fit(x, labels) for seed in (0, 0, 1))
    assert (first.score, first.control) == (again.score, again.control)
    assert (first.score, first.control) != (other.score, other.control)
    assert torch.equal(first.weights, other.weights)  # fitted on all pictures


def test_chance_is_the_share_of_the_most_frequent_label():
    assert LinearProbe().fit(drawn(40, 3), ["red"] * 24 + ["blue"] * 10 + [None] * 6).chance == 24 / 34


def test_pictures_without_a_label_are_left_out():
    x, labels = drawn(40, 5), [0, 1] * 20
    held = LinearProbe().fit(
        torch.cat([x[:7], drawn(3, 5, seed=9), x[7:]]), [*labels[:7], None, None, None, *labels[7:]]
    )
    alone = LinearProbe().fit(x, labels)
    assert (held.pictures, held.score) == (40, alone.score)
    assert torch.equal(held.weights, alone.weights)


def test_each_module_and_step_has_its_probe():
    """Two runs, their rows in another order than their images, and unconditional rows that know nothing."""
    labels = torch.arange(60) % 2
    sign = (2.0 * labels - 1)[:, None]
    first, second = [3, 1, 0, 2, *range(4, 30)], list(range(30))

    def rows(signal, images, offset):
        own = drawn(30, 4, seed=offset) + signal * 5 * sign[[offset + image for image in images]]
        return torch.cat([own, drawn(30, 4, seed=9)])

    records = [
        recorded(
            images,
            {0: {"early": rows(0, images, at), "late": rows(0, images, at)}, 7: {"late": rows(1, images, at)}},
            roles=("cond", "uncond"),
        )
        for images, at in ((first, 0), (second, 30))
    ]
    found = LinearProbe().fit_each(records, labels.tolist())
    assert [key.name for key in found.keys] == ["early", "late"]
    assert found.indices == [0, 7]
    assert found.score[1, 1] == 1
    assert found.score[0, 1].isnan()
    assert found["late", 7].score.low > 0.9 > found["late", 0].score.high
    assert LinearProbe().fit_each(records, labels, role="uncond")["late", 7].score.low < 0.5
    late = LinearProbe().fit_each(records, labels, modules="la*", steps=[7])
    assert list(late.fits) == [(ActivationKey("late"), 7)]
    assert list(LinearProbe().fit_each(records, labels, modules="la*", steps=7).fits) == list(late.fits)
    assert late["late", 7].score == found["late", 7].score


def test_what_does_not_fit_is_refused_in_words():
    x, labels = drawn(20, 4), [0, 1] * 10
    fit = LinearProbe().fit
    with pytest.raises(ValueError, match="80 labels for 20 pictures: give one for each picture"):
        fit(drawn(20, 4, 8), labels * 4)
    with pytest.raises(ValueError, match=r"not \[20\]"):
        fit(x[:, 0], labels)
    with pytest.raises(ValueError, match="not finite"):
        fit(x.index_fill(0, torch.tensor([3]), torch.nan), labels)
    with pytest.raises(ValueError, match="'blue' has a single picture"):
        fit(x, ["red"] * 19 + ["blue"])
    with pytest.raises(ValueError, match="all labels are 'red'"):
        fit(x, ["red"] * 20)
    with pytest.raises(ValueError, match="2 pictures with a label cannot be divided into 5 folds"):
        fit(x, [0, 1] + [None] * 18)
    with pytest.raises(ValueError, match=r"not the number 0\.5: for numbers, kind='ridge'"):
        fit(x, [0.5, 1.0] * 10)
    with pytest.raises(ValueError, match="not 'red': for names, kind='logistic'"):
        LinearProbe("ridge").fit(x, ["red", "blue"] * 10)
    for kind in ("logistic", "ridge"):
        for endless in (float("nan"), float("inf"), np.float32("nan")):
            with pytest.raises(ValueError, match=r"a name or a finite number, not .*(nan|inf).*: None leaves"):
                LinearProbe(kind).fit(x, [endless, 1.0] * 10)
    with pytest.raises(ValueError, match="the kinds: logistic, ridge"):
        LinearProbe("forest")
    with pytest.raises(ValueError, match="2 folds or more, not 1"):
        LinearProbe(folds=1)
    with pytest.raises(ValueError, match="above 0, not -1"):
        LinearProbe(penalty=-1)


def test_records_that_do_not_fit_are_refused_in_words():
    record = recorded(range(20), {0: {"mid_block": drawn(20, 4)}})
    labels, probe = [0, 1] * 10, LinearProbe()
    with pytest.raises(ValueError, match="no records"):
        probe.fit_each([], labels)
    with pytest.raises(ValueError, match=r"a name like 'up\*'; kept: \['mid_block'\]"):
        probe.fit_each(record, labels, modules="up*")
    with pytest.raises(KeyError, match=r"steps \[3\] were not kept; kept: \[0\]"):
        probe.fit_each(record, labels, steps=[0, 3])
    with pytest.raises(ValueError, match="0 rows of the role 'uncond'"):
        probe.fit_each(record, labels, role="uncond")
    twice = recorded([*range(10)] * 2, {0: {"mid_block": drawn(20, 4)}})
    with pytest.raises(ValueError, match="20 rows of the role 'cond', of 10 pictures"):
        probe.fit_each(twice, labels)


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ImportError, match=r'pip install "sdprobe\[analysis\]"'):
        LinearProbe().fit(drawn(20, 4), [0, 1] * 10)
