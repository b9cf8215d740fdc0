"""Tables as data frames: one observation a row, equal to what the object itself answers."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch

import sdprobe
from sdprobe.core.activations.form import ActivationKey
from sdprobe.core.data_frame import data_frame, each_cell
from tests.configured import darkness
from tests.laws.strategies import run

PROMPTS = ["a red circle", "a blue star"]


@pytest.fixture
def pandas():
    return pytest.importorskip("pandas")


def at(table, **place):
    """The one row of a place."""
    for name, value in place.items():
        table = table[table[name] == value]
    (row,) = table.to_dict("records")
    return row


@pytest.mark.parametrize(
    ("hook", "names"),
    [
        (sdprobe.LossGuidance(darkness, 1.0, every=2), {"loss": "losses", "norm": "norms", "change": "changes"}),
        (sdprobe.AttendAndExcite(["red"]), {"loss": "losses", "pushes": "pushes", "change": "changes"}),
        (sdprobe.LayoutGuidance({"red": (0.0, 0.0, 0.5, 1.0)}, stop=3), {"loss": "losses", "pushes": "pushes"}),
    ],
)
def test_guidance_has_a_row_for_each_step_and_image(tiny, pandas, hook, names):
    result = run(tiny, hook, prompt=PROMPTS, steps=4)[hook]
    table = result.to_pandas()
    assert len(table) == 2 * len(result.indices) > 2
    for column, name in names.items():
        for k, step in enumerate(result.indices):
            for image in range(2):
                assert at(table, step=step, image=image)[column] == getattr(result, name)[k, image].item()


def test_statistics_have_a_row_for_each_step_and_image(tiny, pandas):
    statistics = sdprobe.Statistics()
    result = run(tiny, sdprobe.only(statistics, steps=[1, 2]), prompt=PROMPTS, steps=3)[statistics]
    row = at(result.to_pandas(), step=2, image=1)
    assert row["cosine"] == result.cosine[1, 1].item()
    for name in ("latents", "noise_pred", "denoised"):
        for moment in ("mean", "std", "norm"):
            assert row[f"{name}_{moment}"] == getattr(result[name], moment)[1, 1].item()
    assert len(result.to_pandas()) == 4


def test_coverage_has_a_row_for_each_site_and_for_each_point_of_a_hook(tiny, pandas):
    coverage = run(tiny, sdprobe.AttentionMaps(places=["down"]), sdprobe.Preview()).coverage
    sites = coverage.to_pandas()
    assert sites.site.tolist() == list(coverage.sites)
    assert sites[sites.asked].set_index("site").seen.to_dict() == coverage.seen
    assert sites.set_index("site").kind.to_dict() == coverage.sites
    assert sites.seen.sum() == sum(coverage.seen.values()) > 0
    hooks = coverage.to_pandas("hooks")
    assert hooks.calls.tolist() == [n for own in coverage.hooks for n in own.calls.values()]
    assert at(hooks, point="noise_pred")["hook"] == "Preview()"
    with pytest.raises(ValueError, match="'sites' and of 'hooks', not of 'rows'"):
        coverage.to_pandas("rows")


def test_a_schedule_has_a_row_for_each_call_and_the_end(tiny, pandas):
    own = sdprobe.schedule(tiny, 3, "Heun")
    table = own.to_pandas()
    for name, column in {"sigmas": "sigma", "alphas": "alpha", "snr": "snr", "signal": "signal"}.items():
        assert np.array_equal(table[column], getattr(own, name))
    assert np.array_equal(table.timestep[:-1], own.timesteps)
    assert np.array_equal(table.step_size[:-1], own.step_sizes)
    assert math.isnan(table.timestep.iloc[-1])
    assert math.isnan(table.step_size.iloc[-1])


def test_tokens_have_a_row_each(tiny, pandas):
    own = sdprobe.tokens(tiny, PROMPTS)
    table = own.to_pandas()
    rows = [tuple(row) for row in table[["position", "id", "token", "word", "role"]].itertuples(index=False)]
    assert rows == [(t.position, t.id, t.token, t.word, t.role) for t in own]
    assert table.prompt.value_counts().to_dict() == {0: len(own.rows(0)), 1: len(own.rows(1))}


def test_probes_have_a_row_for_each_module_and_step(pandas):
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    labels = (x[:, 1] > 0).tolist()
    fits = {(ActivationKey("mid_block"), k): sdprobe.LinearProbe().fit(x + k, labels) for k in (0, 5)}
    result = sdprobe.ProbeResult(fits)
    row = at(result.to_pandas(), module="mid_block", step=5)
    fitted = result["mid_block", 5]
    assert (row["score"], row["low"], row["high"]) == tuple(fitted.score)
    assert (row["control"], row["control_low"], row["control_high"]) == tuple(fitted.control)
    assert (row["chance"], row["pictures"], row["measure"]) == (fitted.chance, 40, "accuracy")
    assert len(result.to_pandas()) == 2


def test_similarities_have_a_row_for_each_image_and_text(pandas):
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    near = sdprobe.clip.similarity(pictures, ["a star", "a ring", "a circle"])
    row = at(near.to_pandas(), image=1, text="a ring")
    assert (row["cosine"], row["probability"]) == (near.cosine[1, 1].item(), near.probabilities[1, 1].item())
    assert len(near.to_pandas()) == 6


def test_cells_are_in_the_order_of_the_axes():
    values = np.arange(6).reshape(2, 3)
    columns = each_cell({"step": [4, 2], "text": ["a", "b", "c"]}, {"value": values})
    assert [tuple(row) for row in zip(*columns.values(), strict=True)][3:5] == [(2, "a", 3), (2, "b", 4)]


def test_without_pandas_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"a data frame needs pandas: .*pip install 'sdprobe\[xarray\]'"):
        data_frame({"step": [0]})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_heat_map_as_an_array(dtype):
    heat = sdprobe.HeatMap(torch.rand(3, 4, generator=torch.Generator().manual_seed(0)).to(dtype))
    assert heat.numpy().dtype == (np.float32 if dtype == torch.bfloat16 else heat.values.numpy().dtype)
    assert np.array_equal(heat.numpy(), heat.values.to(torch.float64).numpy())
