"""A training that was stopped and resumed ends with the bits of one that was not."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sdprobe.shapes.checkpoint import Budget, Training, rate


class Stopped(Exception):
    pass


def train(folder: Path, stop_at: int | None = None, noisy_figures: bool = False) -> Training:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    training = Training(folder, {"model": model}, lr=1e-2, seed=5)

    def loss(_: float) -> Tensor:
        if training.step == stop_at:
            raise Stopped
        x = torch.randn(16, 3)
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    def figures() -> None:
        if noisy_figures:
            torch.rand(3)

    training.run(loss, Budget(steps=12), every=0, on_save=figures)
    return training


def test_resumed_run_is_bit_identical(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(Stopped):
        train(tmp_path / "halves", stop_at=7)
    torch.rand(11)  # whatever happens in between
    resumed = train(tmp_path / "halves", noisy_figures=True)
    assert resumed.step == whole.step == 12
    for a, b in zip([*whole.weights, *whole.average], [*resumed.weights, *resumed.average], strict=True):
        assert torch.equal(a, b)


def test_averaged_weights_come_and_go(tmp_path: Path) -> None:
    training = train(tmp_path)
    before = [w.clone() for w in training.weights]
    with training.averaged():
        assert all(torch.equal(w, a) for w, a in zip(training.weights, training.average, strict=True))
        assert not training.modules["model"].training
    assert all(torch.equal(w, b) for w, b in zip(training.weights, before, strict=True))
    assert training.modules["model"].training


def test_fresh_run_ignores_the_checkpoint(tmp_path: Path) -> None:
    train(tmp_path)
    assert Training(tmp_path, {"model": nn.Linear(1, 1)}, lr=1e-3, fresh=True).step == 0


def test_rate_rises_stays_and_falls() -> None:
    assert rate(0.0, 0) == pytest.approx(0.01)
    assert rate(0.6, 500, constant=2 / 3) == 1
    assert rate(1.0, 500, constant=2 / 3) == pytest.approx(0.02)
    assert rate(0.5, 500) == pytest.approx(0.51)


def test_budgets() -> None:
    assert Budget(steps=10).progress(5, 99) == 0.5
    assert Budget(minutes=2).progress(5, 60) == 0.5
    with pytest.raises(ValueError, match="steps, minutes or until"):
        Budget().progress(0, 0)
