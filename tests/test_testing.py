"""The conformance kit: every hook of the package keeps the laws, and hooks that break one are found out by it."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given

import sdprobe
from sdprobe.testing import (
    LAWS,
    LawsBroken,
    check_hook,
    examine,
    footprint,
    hooks,
    observers,
    runs,
    toy_model,
    transforms,
)
from tests import bad_hooks
from tests.configured import made, ours, tried
from tests.families import flux
from tests.laws.strategies import same_run

QUICK = {"attention-maps", "latents", "replace-token", "hide-tokens", "ablate", "guidance"}
HOOKS = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in ours()]


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_of_the_package_keeps_the_laws(name):
    model, own = toy_model(), tried(name)
    check_hook(lambda: made(name, model), prompt=own.prompt, unrepeatable=own.unrepeatable)


BROKEN = {
    bad_hooks.WritesInPlace: {"writes nothing in place"},
    bad_hooks.WritesPastTorch: {"writes nothing in place"},
    bad_hooks.WritesIntoTheStep: {"writes nothing in place"},
    bad_hooks.WritesIntoTheKeys: {"writes nothing in place"},
    bad_hooks.ForgetsToReturn: {"keeps its kind"},
    bad_hooks.ObserverThatReturns: {"keeps its kind"},
    bad_hooks.ChangesDtype: {"keeps the form"},
    bad_hooks.ChangesShape: {"keeps the form"},
    bad_hooks.LeaksAForwardHook: {"leaves the model as it was"},
    bad_hooks.ClosesOnlyAtTheEnd: {"leaves nothing after an error", "leaves nothing after an interrupt"},
    bad_hooks.KeepsStateBetweenRuns: {"a second run equals the first", "keeps nothing of a run"},
    bad_hooks.CountsItsRuns: {"a second run equals the first"},
    bad_hooks.SharesOneRecord: {"keeps nothing of a run"},
    bad_hooks.TellsTheTime: {"a second run equals the first"},
    bad_hooks.SwallowsErrors: {"swallows no error"},
    bad_hooks.ReplacesErrors: {
        "leaves nothing after an error",
        "leaves nothing after an interrupt",
        "swallows no error",
    },
    bad_hooks.DrawsFromTheGlobalGenerator: {"leaves global state alone"},
    bad_hooks.NoSeed: {"depends on the seed alone"},
    bad_hooks.CannotBePickled: {"can be pickled", "can be saved"},
    bad_hooks.ForgetsWhenPickled: {"can be pickled"},
    bad_hooks.SplitsInHalf: {"without guidance", "goes by the labels of rows"},
    bad_hooks.RecordsTheSecondHalf: {"goes by the labels of rows"},
    bad_hooks.OnlyTheFirstPicture: {"each picture as if alone"},
    bad_hooks.Square: {"not square"},
    bad_hooks.SinglePrecision: {"in bfloat16", "in float16"},
    bad_hooks.KeepsTheGraph: {"records hold no graph"},
    bad_hooks.LooksForItsNeighbours: {
        "is not disturbed by observers",
        "is not disturbed by identities",
        "can be limited",
        "serves two runs at once",
    },
    bad_hooks.OfAnImpossibleWord: {"runs"},
    bad_hooks.RecordsAnObject: {"can be saved"},
    bad_hooks.AnswersFromAPrivateRecord: {"can be saved"},
}
"""Each bad hook, and the laws it breaks: these, and no others."""


@pytest.mark.slow
@pytest.mark.parametrize("bad", BROKEN, ids=lambda bad: bad.__name__)
def test_a_bad_hook_is_caught_by_the_right_law(bad):
    report = examine(bad)
    assert {finding.law.name for finding in report.failures} == BROKEN[bad]
    with pytest.raises(LawsBroken) as raised:
        report.raise_for_failures()
    assert bad.__name__ in str(raised.value)
    for finding in report.failures:
        assert finding.why
        assert finding.law.name in str(raised.value)
        assert any(finding.law.says in note for note in finding.error.__notes__)
    assert raised.value.__cause__.exceptions == tuple(finding.error for finding in report.failures)


def test_a_bad_hook_leaves_the_next_one_its_models():
    examine(bad_hooks.LeaksAForwardHook)
    check_hook(sdprobe.LatentRecorder)


class Gentle(sdprobe.Transform):
    def noise_pred(self, x, step):
        return x * 1.01


def test_in_pytest_it_is_one_line():
    check_hook(Gentle)


@pytest.mark.parametrize("law", LAWS[:4], ids=str)
def test_one_law_at_a_time(law):
    (finding,) = check_hook(Gentle, laws=[law]).findings
    assert finding.law is law


def test_what_does_not_apply_is_reported_with_the_reason():
    report = examine(lambda: sdprobe.Guidance(2.0))
    (refused,) = [finding for finding in report.findings if finding.law.name == "without guidance"]
    assert refused.verdict == "does not apply"
    assert "there is no guidance to change" in refused.why
    assert "observers change nothing" in report.named("does not apply")


def test_rows_of_one_role_cannot_be_turned_round():
    (law,) = [law for law in LAWS if law.name == "goes by the labels of rows"]
    (found,) = examine(sdprobe.LatentRecorder, laws=[law], pipeline=flux).findings
    assert found.verdict == "does not apply"
    assert "one role" in found.why


def test_what_rests_on_a_broken_law_is_not_tried():
    report = examine(bad_hooks.ForgetsToReturn)
    rest = [finding for finding in report.findings if finding.law.stage > 0]
    assert rest
    assert all((f.verdict, f.why) == ("not tried", "rests on: keeps its kind") for f in rest)


def test_the_report_is_a_table_of_every_law():
    report = examine(Gentle)
    assert [finding.law for finding in report.findings] == list(LAWS)
    shown, html = str(report), report._repr_html_()
    for finding in report.findings:
        (line,) = [line for line in shown.splitlines() if line.startswith(f"{finding.law.name}  ")]
        assert finding.verdict in line
        assert f"<td>{finding.law.name}</td><td>{finding.verdict}</td>" in html
    assert len({law.name for law in LAWS}) == len(LAWS)


def test_what_stands_in_a_report_is_shown_and_not_run():
    class Sly(Gentle):
        def __repr__(self):
            return "<script>"

    assert "<script>" not in examine(Sly, laws=LAWS[:1])._repr_html_()


def test_a_factory_makes_one_hook():
    with pytest.raises(TypeError, match="made 2"):
        check_hook(lambda: sdprobe.Hooks(Gentle(), Gentle()))
    with pytest.raises(TypeError, match="is not a hook"):
        check_hook(lambda: 3)


def test_records_that_may_differ_are_named_by_the_caller():
    assert not examine(bad_hooks.TellsTheTime, unrepeatable=["began"]).failures


def test_the_toy_model_is_decided_by_its_seed_and_leaves_the_generator_alone():
    state = torch.get_rng_state()
    one, same, other = toy_model(), toy_model(), toy_model(seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    settings = {"steps": 1, "seed": 0, "progress": False}
    drawn = [sdprobe.sample(model, "a star", **settings) for model in (one, same, other)]
    assert same_run(drawn[0], drawn[1])
    assert not same_run(drawn[0], drawn[2])


@given(hook=hooks(), watching=observers(), settings=runs())
def test_the_strategies_make_hooks_and_runs_that_go_together(tiny, hook, watching, settings):
    before = footprint(tiny.pipe)
    alone = sdprobe.sample(tiny, hooks=[hook], **settings)
    assert same_run(alone, sdprobe.sample(tiny, hooks=[watching, hook], **settings))
    assert footprint(tiny.pipe) == before


@given(made=transforms())
def test_transforms_are_transforms(made):
    assert isinstance(made, sdprobe.Transform)


@pytest.mark.slow
def test_only_the_strategies_need_hypothesis():
    told = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "from sdprobe.testing import LAWS, check_hook, hooks\n"
        "import sdprobe\n"
        "check_hook(sdprobe.LatentRecorder, laws=LAWS[:2])\n"
        "try:\n    hooks()\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True)
    assert "pip install 'sdprobe[test]'" in done.stdout, done.stderr[-2000:]


def test_the_laws_themselves_can_be_named_and_found():
    assert [str(law) for law in LAWS] == [law.name for law in LAWS]
    assert all(law.says.endswith(".") for law in LAWS)
    assert pickle.loads(pickle.dumps(Gentle())).__class__ is Gentle
