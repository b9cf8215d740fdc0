"""The hooks of a run, live or saved, are told alike; so whatever is made of both is the same."""

from __future__ import annotations

import pytest

import sdprobe
from sdprobe import AttentionMaps, LatentRecorder, LossGuidance, Preview, ReplaceToken, Statistics, only
from sdprobe.runs.hooks_of_run import hooks_of_run
from tests.laws.strategies import run


def darkness(pictures):
    return pictures.mean((1, 2, 3))


HOOKS = {
    "maps": AttentionMaps(keep=("step", "layer")),
    "second": only(LatentRecorder(keep=("latents", "denoised")), rows=[1]),
    "late": only(Statistics(), steps=[1]),
    "preview": Preview(),
    "swap": only(ReplaceToken("red", with_="blue"), rows=[2], steps=[1]),
    "dark": LossGuidance(darkness, scale=0.1),
}
SETTINGS = {"prompt": ["a red circle", "a <b> & red star"], "images_per_prompt": 2, "seed": [1, 2, 3, 4]}


@pytest.fixture(scope="module")
def both(tiny, tmp_path_factory):
    """A live run, and the same run from its folder."""
    live = sdprobe.sample(
        tiny, hooks=HOOKS, steps=2, guidance_scale=3.0, height=16, width=16, progress=False, **SETTINGS
    )
    return live, sdprobe.open(live.save(tmp_path_factory.mktemp("runs") / "run"))


def test_each_with_its_limits_images_and_names(both):
    told = [
        [(repr(own.given), own.images, own.names, own.transforms, type(own.live)) for own in hooks_of_run(one)]
        for one in both
    ]
    assert told[0] == told[1]
    assert [own[1] for own in told[0]] == [(0, 1, 2, 3), (1,), (0, 1, 2, 3), (0, 1, 2, 3), (2,), (0, 1, 2, 3)]
    assert [own[2] for own in told[0]] == [(name,) for name in HOOKS]
    assert [own[3] for own in told[0]] == [False, False, False, False, True, True]


def test_whose_class_is_not_known(tiny, tmp_path):
    class Norms(sdprobe.Observer):
        def noise_pred(self, x, step):
            self.norm = x.norm().item()

    live = run(tiny, Norms(), "statistics")
    saved = sdprobe.open(live.save(tmp_path / "run"))
    first, second = hooks_of_run(saved)
    assert (repr(first.given), first.live, first.transforms) == ("Norms()", None, None)
    assert second.live is saved["statistics"]
    assert saved[Norms].norm == live[Norms].norm


def test_the_report_is_the_same(both, tmp_path):
    live, saved = (one.report(tmp_path / f"{k}.html").read_bytes() for k, one in enumerate(both))
    assert live == saved


def test_the_dataset_is_the_same(both):
    live, saved = (one.to_xarray() for one in both)
    assert saved.identical(live)


def test_nothing_parts_them(both):
    comparison = sdprobe.compare(*both)
    assert comparison.parted.startswith("equal to the last bit in all that both recorded: latents,")
    assert not comparison.settings
    assert all(own.distance == 0 for own in comparison.table)
