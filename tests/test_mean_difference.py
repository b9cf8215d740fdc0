"""`difference`: the mean of some activations minus that of others, against a plain computation on all samples."""

from __future__ import annotations

import pytest
import torch

from sdprobe.core.activations.record import ActivationRecord
from sdprobe.observe.activations import Activations
from sdprobe.transform.mean_difference import Direction, difference
from sdprobe.transform.steer import Steer
from tests.laws.strategies import run, same_run

TOKENS, MAP = "up_blocks.2.attentions.1.transformer_blocks.0.attn2", "up_blocks.1.resnets.0"


@pytest.fixture(scope="module")
def runs(embedded):
    def of(prompt, seed):
        return run(embedded, Activations([TOKENS, MAP]), prompt=prompt, seed=seed, images_per_prompt=len(seed))

    return of("a blue circle", [0, 1]), of("a blue circle", [2]), of("a red circle", [0, 1])


def samples(own, name, steps=slice(None), role="cond"):
    """Every vector of a run's rows of a role, [samples, width]."""
    values = own[Activations][name][steps]
    rows = [k for k, label in enumerate(own[Activations].record.rows_at(0, name)) if label.role == role]
    values = values[:, rows]
    return (values.movedim(2, -1) if values.ndim == 5 else values).flatten(0, -2).double()


@pytest.mark.parametrize("name", [TOKENS, MAP])
@pytest.mark.parametrize(("steps", "index"), [(None, slice(None)), (1, [1]), ({0}, [0])])
@pytest.mark.parametrize("role", ["cond", "uncond"])
def test_it_is_the_difference_of_two_means(runs, name, steps, index, role):
    first, second, other = runs
    a = torch.cat([samples(own, name, index, role) for own in (first, second)])
    b = samples(other, name, index, role)
    found = difference([first, second], other, name, steps=steps, rows=role)
    torch.testing.assert_close(found[name], (a.mean(0) - b.mean(0)).float())
    torch.testing.assert_close(found.norm[name], (a.mean(0) - b.mean(0)).norm().item(), rtol=1e-5, atol=0)
    pooled = torch.cat([a, b])
    centred = pooled - pooled.mean(0)
    along = centred @ (a.mean(0) - b.mean(0)) / (a.mean(0) - b.mean(0)).norm()
    assert found.explained[name] == pytest.approx((along.var() / centred.var(0).sum()).item(), rel=1e-6)


def test_all_rows(runs):
    first, _, other = runs
    found = difference(first, other, TOKENS, rows=None)[TOKENS]
    both = (difference(first, other, TOKENS, rows=role)[TOKENS] for role in ("cond", "uncond"))
    torch.testing.assert_close(found, sum(both) / 2)


def test_it_is_antisymmetric_and_nothing_between_a_run_and_itself(runs):
    first, _, other = runs
    there, back = difference(first, other, [TOKENS, MAP]), difference(other, first, [TOKENS, MAP])
    assert list(there) == [MAP, TOKENS]
    assert all(torch.equal(there[name], -back[name]) for name in there)
    none = difference(first, first, TOKENS)
    assert not none[TOKENS].any()
    assert none.explained[TOKENS] == 0


def test_a_direction_along_which_all_samples_lie_explains_everything():
    """Two dimensions of which one does not vary."""
    from sdprobe.core.activations.form import ActivationForm, RowLabel
    from sdprobe.core.activations.record import ActivationKey, HeldActivations, Kept
    from sdprobe.core.cpu_copy import CpuCopy

    def held(values):
        record, form = HeldActivations(), ActivationForm(("rows", "width"), (RowLabel(0, "cond", ""),))
        for step, value in enumerate(values):
            record.write(step, {ActivationKey("m"): Kept(CpuCopy(torch.tensor([value]), None), form)})
        return record

    found = difference(held([[0.0, 1.0], [2.0, 1.0]]), held([[5.0, 1.0]]), "m")
    assert torch.equal(found["m"], torch.tensor([-4.0, 0.0]))
    assert found.explained["m"] == pytest.approx(1.0)
    for wide in ([[5.0, 1.0, 2.0]], [[5.0, 1.0], [5.0, 1.0, 2.0]]):
        with pytest.raises(ValueError, match=r"the records of 'm' have different numbers of channels: \[2, 3\]"):
            difference(held([[0.0, 1.0]]), held(wide), "m")
    crossed = difference(held([[1.0, 1.0], [1.0, -1.0]]), held([[-1.0, 1.0], [-1.0, -1.0]]), "m")
    assert crossed.explained["m"] == pytest.approx(0.5)


def test_one_call_of_a_module_that_runs_several_times(embedded, runs):
    name = "mid_block.resnets.0.nonlinearity"
    one, other = (run(embedded, Activations(name), prompt=prompt) for prompt in ("a blue circle", "a red circle"))
    with pytest.raises(KeyError, match=f"'{name}' has several tensors: say call="):
        difference(one, other, name)
    key = one[Activations].record.key_of(name, call=2)
    first, second = (own[Activations].record[key][:, 1].movedim(1, -1).flatten(0, -2).mean(0) for own in (one, other))
    torch.testing.assert_close(difference(one, other, name, call=2)[name], first - second)


def test_a_random_control_has_the_same_norm(runs):
    found = difference(runs[0], runs[2], [TOKENS, MAP])
    one, again, other = (found.random(seed) for seed in (0, 0, 1))
    for name, norm in found.norm.items():
        assert one[name].norm().item() == pytest.approx(norm, rel=1e-5)
        assert torch.equal(one[name], again[name])
        assert not torch.equal(one[name], other[name])


def test_it_steers(embedded, runs):
    found = difference(runs[0], runs[2], [TOKENS, MAP])
    settings = {"prompt": "a red circle"}
    together = run(embedded, Steer(found, [MAP, TOKENS], 2.0), **settings)
    assert same_run(together, run(embedded, *(Steer(own, name, 2.0) for name, own in found.items()), **settings))
    assert same_run(run(embedded, Steer(found, [MAP, TOKENS], 0), **settings), run(embedded, **settings))


def test_folders(embedded, runs, tmp_path):
    settings = {"prompt": "a blue circle", "seed": [0, 1], "images_per_prompt": 2}
    run(embedded, Activations([TOKENS, MAP], to=tmp_path / "blue"), **settings)
    for own in (tmp_path / "blue", str(tmp_path / "blue"), ActivationRecord.open(tmp_path / "blue")):
        assert torch.equal(difference(own, runs[2], TOKENS)[TOKENS], difference(runs[0], runs[2], TOKENS)[TOKENS])


def test_errors(embedded, runs):
    first, _, other = runs
    with pytest.raises(ValueError, match=rf"no module that fits 'mid_block'; its modules: {MAP}, {TOKENS}"):
        difference(first, other, "mid_block")
    with pytest.raises(ValueError, match=r"none of the steps asked for was recorded at .*; recorded: 0, 1"):
        difference(first, other, TOKENS, steps=range(5, 9))
    with pytest.raises(ValueError, match=r"no rows in the role 'image'; it has: uncond, cond"):
        difference(first, other, TOKENS, rows="image")
    with pytest.raises(ValueError, match=r"at least one run on each side"):
        difference(first, [], TOKENS)
    both = run(embedded, Activations("down_blocks.0"))
    with pytest.raises(KeyError, match=r"'down_blocks.0' has several tensors: say stream=, of down_blocks.0"):
        difference(both, both, "down_blocks.0")
    with pytest.raises(KeyError, match=f"no vector for 'x'; there is one for: {MAP}"):
        Direction({MAP: torch.ones(2)}, {MAP: 0.5})["x"]
