"""Records of every hook that somebody else wrote: whatever they hold, a question is answered or refused in words."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import sdprobe
from sdprobe.testing.flat_records import asked_for, records_of
from tests.answers import QUESTIONS, Answer
from tests.configured import made
from tests.damaged import ALLOWED, NASTY, WRONG, damaged, places
from tests.test_round_trip import recording
from tests.time_limit import at_most

NAMES = recording()
LONGEST = 1_500
MOST_QUESTIONS = 40


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory) -> Path:
    """A saved run with every hook, of which a test damages a file and puts it back."""
    hooks = {name: made(name, tiny) for name in NAMES}
    live = sdprobe.sample(tiny, "a red circle", hooks=hooks, steps=2, guidance_scale=3.0, seed=0, progress=False)
    ASKED.update({name: asked_for(live[name], hook) for name, hook in live.names.items()})
    return live.save(tmp_path_factory.mktemp("run") / "run")


ASKED: dict[str, list[str]] = {}
"""What each hook can be asked for."""


def within(hook: str, file: str) -> str:
    """The path of a file of a hook."""
    return f"hooks/{NAMES.index(hook):02d}/{file}"


def questions(record: Any, names: Sequence[str]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What can be asked of a hook of a saved run."""
    yield "repr", lambda: repr(record)
    for name in names:
        yield name, lambda name=name: getattr(record, name)
    for kind, ask in QUESTIONS.items():
        if isinstance(record, getattr(sdprobe, kind)):
            # What there is to ask about is asked of the record too.
            for (name, question), _ in zip(ask(record), range(MOST_QUESTIONS), strict=False):
                yield name, question
    for name in ("to_pandas", "plot"):
        if hasattr(type(record), name):
            yield name, lambda name=name: type(getattr(record, name)())


def fits(error: Exception) -> bool:
    """Whether an error is one of those that are promised, and not too long."""
    not_there = isinstance(error, AttributeError) and "A hook only describes what to do" in str(error)
    return (isinstance(error, ALLOWED) or not_there) and len(str(error)) < LONGEST


def errors(folder: Path, hook: str) -> Iterator[tuple[str, Exception]]:
    """Ask everything of a hook, and give the errors."""
    try:
        asked = list(questions(sdprobe.open(folder)[hook], ASKED[hook]))
    except Exception as error:
        yield "opened", error
        return
    for name, question in asked:
        try:
            records_of(Answer(question()))
        except Exception as error:
            yield name, error


def refuse_raw_errors(folder: Path, hook: str) -> None:
    """Ask everything of a hook. Fails for an error of another kind than those that are promised, and for a long one."""
    with warnings.catch_warnings(), at_most(20):
        warnings.simplefilter("ignore")
        for name, error in errors(folder, hook):
            assert fits(error), f"{name}: {error!r}"


def refuse_damaged(folder: Path, hook: str, data: st.DataObject) -> None:
    """Damage the JSON or a tensor of a hook's records, ask everything, and put it back."""
    records, tensors = (folder / within(hook, name) for name in ("records.json", "tensors-0000.safetensors"))
    path = tensors if tensors.exists() and data.draw(st.booleans()) else records
    before = path.read_bytes()
    if path == records:
        content = json.loads(before)
        place = data.draw(st.sampled_from(places(content["values"])))
        way, value = data.draw(st.sampled_from(["replace", "remove", "other"])), data.draw(NASTY)
        path.write_text(json.dumps({**content, "values": damaged(content["values"], place, way, value)}))
    else:
        held = load_file(path)
        name = data.draw(st.sampled_from(sorted(held)))
        held[name] = WRONG[data.draw(st.sampled_from(sorted(WRONG)))](held[name])
        save_file({name: x.clone().contiguous() for name, x in held.items()}, path)
    try:
        refuse_raw_errors(folder, hook)
    finally:
        path.write_bytes(before)


@given(data=st.data())
def test_damaged_records(folder, data):
    refuse_damaged(folder, data.draw(st.sampled_from(NAMES)), data)


@pytest.mark.slow
@pytest.mark.parametrize("hook", NAMES)
@given(data=st.data())
def test_damaged_records_of_each_hook(folder, hook, data):
    refuse_damaged(folder, hook, data)


@pytest.mark.parametrize("hook", NAMES)
def test_whole_records_are_answered(folder, hook):
    refuse_raw_errors(folder, hook)
    assert repr(sdprobe.open(folder)[hook])


@contextmanager
def rewritten(path: Path, change: Callable[[Any], None]) -> Iterator[None]:
    """A JSON file with a change, for as long as it is asked."""
    before = path.read_bytes()
    change(content := json.loads(before))
    path.write_text(json.dumps(content))
    try:
        yield
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("wrong", [7, None, "x", ["a"], {"$run": 1}])
@pytest.mark.parametrize(("hook", "kind"), [("word-gradients", "norm"), ("concept-outputs", "share")])
def test_the_run_of_a_record_is_the_run(folder, hook, kind, wrong):
    """Whatever the file says that it is."""
    expected = sdprobe.open(folder)[hook].values("red", kind)
    with rewritten(folder / within(hook, "records.json"), lambda content: content["values"].update(run=wrong)):
        saved = sdprobe.open(folder)
        assert saved[hook].run is saved
        assert torch.equal(saved[hook].values("red", kind), expected)


def test_an_argument_beside_one_that_no_file_could_hold(folder):
    """Such a hook is made without its constructor, which would have refused it."""
    other = {"left_out": {"show": "a function"}, "config": {"keep": 7}}
    with rewritten(folder / "run.json", lambda content: content["hooks"][NAMES.index("preview")].update(other)):
        refuse_raw_errors(folder, "preview")
        with pytest.raises(ValueError, match="are not those of this hook"):
            sdprobe.open(folder)["preview"]
