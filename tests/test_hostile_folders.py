"""A folder that somebody else wrote: one clear error, nothing executed, nothing read or written outside of it."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from sdprobe import (
    Activations,
    AttentionMaps,
    LatentRecorder,
    Preview,
    Runs,
    SelfAttentionMaps,
    Statistics,
    only,
)
from tests.damaged import ALLOWED, NASTY, damaged, places
from tests.forked import in_child
from tests.time_limit import at_most

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="of POSIX")

LONGEST, SECONDS = 1_000, 5
JSON = ("run.json", "prompts.json", "coverage.json", *(f"hooks/0{i}/records.json" for i in (0, 1, 3, 4, 5)))
TENSORS = ("tensors-0000.safetensors", "hooks/00/tensors-0000.safetensors", "hooks/01/tensors-0000.safetensors")
ONE_OF_EACH = ("run.json", "prompts.json", "hooks/00/records.json", TENSORS[1], "images/0000.png")


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory) -> Path:
    """A saved run, which is copied and damaged."""
    hooks = {
        "maps": AttentionMaps(keep=("step", "layer", "head")),
        "latents": LatentRecorder(keep=("latents", "denoised")),
        "second": only(AttentionMaps(words=["circle"]), rows=[1]),
        "places": SelfAttentionMaps(),
        "statistics": Statistics(),
        "preview": Preview(),
    }
    settings = {"steps": 2, "seed": [0, 1], "images_per_prompt": 2, "progress": False}
    live = sdprobe.sample(tiny, "a red circle", hooks=hooks, **settings)
    return live.save(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def kept(whole, tmp_path_factory) -> Path:
    """One copy, of which a test damages a file and puts it back."""
    return shutil.copytree(whole, tmp_path_factory.mktemp("kept") / "run")


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "run")


def questions(saved: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """All that is asked of a run."""
    yield "repr", lambda: repr(saved)
    yield "html", lambda: saved._repr_html_()
    yield "settings", lambda: repr(saved.settings)
    yield "seed", lambda: repr(saved.seed)
    yield "model", lambda: saved.model_name + repr(saved.provenance)
    yield "coverage", lambda: str(saved.coverage) + repr(saved.coverage)
    yield "coverage in html", lambda: saved.coverage._repr_html_()
    for side in ("prompts", "negative_prompts"):
        yield side, lambda side=side: repr(getattr(saved, side))
    yield "words", lambda: [(saved.prompts[0].positions(w), saved.prompts[0].cut) for w in ("circle", "<end>", 3)]
    yield "images", lambda: [image.tobytes() for image in saved.images]
    yield "latents", lambda: None if saved.latents is None else saved.latents.shape
    yield "hooks", lambda: "\n".join(map(repr, saved.hooks))
    yield "records", lambda: [repr(record) for _, record in saved.records]
    for asked in ("maps", "second", "latents", "attention-maps", "no such hook", AttentionMaps, LatentRecorder()):
        yield f"hook {asked!r}", lambda asked=asked: repr(saved[asked])
    for name, word in (("maps", "circle"), ("maps", 2), ("second", "circle")):
        yield f"map of {word} of {name}", lambda name=name, word=word: saved[name].heat_map(word).values
    yield "map of a step", lambda: saved["maps"].heat_map("red", image=1, step=1, head=0).values
    yield "daam", lambda: saved["maps"].heat_map("red", method="daam").values
    yield "maps", lambda: list(saved["maps"].heat_maps())
    yield "held", lambda: saved["maps"].held_bytes
    yield "sums", lambda: saved["maps"].row_sums()
    yield "steps", lambda: [saved["latents"].at(i) for i in saved["latents"].indices]
    for name in ("latents", "denoised"):
        yield f"recorded {name}", lambda name=name: saved["latents"][name].shape
    yield "matrix", lambda: saved["places"].matrix().shape
    yield "place", lambda: saved["places"].heat_map((0, 1), image=1).values
    yield "counts", lambda: repr(saved["places"].counts)
    for name in ("latents", "noise_pred"):
        yield f"statistics of {name}", lambda name=name: repr(saved["statistics"][name])
    yield "cosines", lambda: repr(saved["statistics"].indices)
    yield "previews", lambda: [saved["preview"][name] for name in ("latents", "denoised")]
    yield "final", lambda: saved["latents"].final.shape


def ask(folder: Path) -> dict[str, Any]:
    """Ask everything; return the answers and errors. Fails for any other error, and for a long one."""
    found: dict[str, Any] = {}
    started = time.perf_counter()

    def answer(name: str, question: Callable[[], Any]) -> Any:
        try:
            found[name] = question()
        except ALLOWED as error:
            found[name] = error
        said = str(found[name]) if isinstance(found[name], (str, Exception)) and "html" not in name else ""
        assert len(said) < LONGEST or isinstance(found[name], str), f"{name}: {len(said)} characters, {said[:300]}"
        assert "\x1b" not in said, f"{name}: {said!r}"

    with warnings.catch_warnings(), at_most(4 * SECONDS):
        warnings.simplefilter("ignore")
        answer("open", lambda: sdprobe.open(folder))
        if isinstance(found["open"], sdprobe.Run):
            for name, question in questions(found["open"]):
                answer(name, question)
    assert time.perf_counter() - started < 3 * SECONDS
    return found


def errors(found: dict[str, Any]) -> dict[str, Exception]:
    return {name: own for name, own in found.items() if isinstance(own, Exception)}


def tree(*folders: Path) -> dict[Path, tuple[int, int]]:
    return {p: (p.lstat().st_size, p.lstat().st_mtime_ns) for own in folders for p in [own, *own.rglob("*")]}


def in_child_of_memory(act: Callable[[], Any], megabytes: int = 500) -> None:
    """Do something in a forked process that may take so much memory more, and fail here if it failed there."""

    def limited() -> str:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + megabytes * 1_000_000,) * 2)
        act()
        return "well"

    said = in_child(limited)
    assert said == "well", said or "it was killed"


def test_a_whole_folder_answers_everything(whole):
    before = tree(whole.parent)
    found = errors(ask(whole))
    assert set(found) == {
        "hook 'attention-maps'",
        "hook 'no such hook'",
        f"hook {AttentionMaps!r}",
        f"hook {LatentRecorder()!r}",
    }
    assert tree(whole.parent) == before


@pytest.mark.parametrize("file", [JSON[0], *(pytest.param(own, marks=pytest.mark.slow) for own in JSON[1:])])
@given(data=st.data())
def test_json_of_any_other_kind(kept, file, data):
    path = kept / file
    before = path.read_bytes()
    content = json.loads(before)
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(places(content)))
        content = damaged(content, place, data.draw(st.sampled_from(["replace", "remove", "other"])), data.draw(NASTY))
        if not isinstance(content, (dict, list)):
            break
    path.write_text(json.dumps(content))
    held = tree(kept.parent)
    try:
        ask(kept)
        assert tree(kept.parent) == held
    finally:
        path.write_bytes(before)


RAW = {
    "empty": b"",
    "half": b'{"format": "sdprobe run", "sche',
    "no text": bytes(range(256)),
    "a list": b"[]",
    "deep": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a million entries": b'{"a": [' + b"0," * 1_100_000 + b"0]}",
    "a million lists": b"[" + b"[]," * 8_000_000 + b"[]]",
    "a long text": b'{"a": "' + b"x" * 31_000_000 + b'"}',
    "too long": b'{"a": "' + b"x" * 101_000_000 + b'"}',
    "a long number": b'{"schema": ' + b"9" * 100_000 + b"}",
    "UTF-16": '{"schema": 1}'.encode("utf-16"),
}


@pytest.mark.parametrize("file", ["run.json", "hooks/00/records.json"])
@pytest.mark.parametrize("name", RAW)
def test_json_that_is_none_or_too_much(kept, file, name):
    path = kept / file
    before = path.read_bytes()
    path.write_bytes(RAW[name])
    try:
        in_child_of_memory(lambda: errors(ask(kept)) or pytest.fail("no error"))
    finally:
        path.write_bytes(before)


def header(content: bytes | dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: str, shape: list[int], offsets: list[int]) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@cache
def files_of_tensors(name: str) -> dict[str, bytes]:
    """Files that are none of tensors, or not of these."""
    four = b"\0" * 16
    return {
        "empty": b"",
        "a header of 2^63 bytes": header(b"{}", length=2**63),
        "a header past the end": header(b"{}", length=1_000),
        "a header of 12 MB": header(b"{" + b" " * 12_000_000 + b"}"),
        "no JSON": header(b"\x80\x04pickle"),
        "pickle": b"\x80\x04cos\nsystem\n(S'touch hacked'\ntR.",
        "out of range": header({name: entry("F32", [4], [0, 1_000])}, four),
        "negative": header(b'{"%s": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}}' % name.encode(), four),
        "overlapping": header({name: entry("F32", [4], [0, 16]), "b": entry("F32", [2], [8, 16])}, four),
        "another dtype": header({name: entry("F64", [4], [0, 16])}, four),
        "no dtype": header({name: entry("../x", [4], [0, 16])}, four),
        "another shape": header({name: entry("F32", [2**40, 2**40], [0, 16])}, four),
        "a shape of another rank": header({name: entry("F32", [4], [0, 16])}, four),
        "no places": header({name: entry("F32", [0], [0, 0])}),
        "other names": header({"another": entry("F32", [4], [0, 16])}, four),
        "many names": header({str(i): entry("U8", [0], [0, 0]) for i in range(20_000)}),
        "half precision of 4 bits": header({name: entry("F4", [8], [0, 4])}, four[:4]),
        "integers": header({name: entry("I8", [1, 1, 4, 4], [0, 16])}, four),
    }


@pytest.mark.parametrize(("file", "name"), zip(TENSORS[:2], ["latents", "0"], strict=True))
@pytest.mark.parametrize("kind", files_of_tensors("x"))
def test_files_that_are_none_of_tensors(kept, file, name, kind):
    path = kept / file
    before = path.read_bytes()
    path.write_bytes(files_of_tensors(name)[kind])
    try:
        found = ask(kept)
        assert errors(found) or kind in ("a shape of another rank", "no places", "integers")
        assert not isinstance(found["repr"], Exception)
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("file", TENSORS[1:])
def test_files_of_tensors_cut_anywhere(kept, file):
    path = kept / file
    before = path.read_bytes()
    try:
        for length in [0, 7, 8, 50, len(before) // 3, len(before) - 1]:
            path.write_bytes(before[:length])
            said = [error for error in errors(ask(kept)).values() if "cannot be read from" in str(error)]
            assert said, length
    finally:
        path.write_bytes(before)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + b"".join(chunks) + chunk(b"IEND", b"")


PICTURES = {
    "empty": b"",
    "no picture": b"not a picture",
    "another format": b"GIF89a" + b"\0" * 100,
    "a bomb": png(100_000, 100_000, chunk(b"IDAT", zlib.compress(b"\0" * 1_000))),
    "a bomb of 60 million pixels": png(10_000, 6_000, chunk(b"IDAT", zlib.compress(b"\0" * 180_006_000, 9))),
    "a bomb of text": png(1, 1, chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 200_000_000, 9))),
    "no data": png(16, 16),
    "of no size": png(0, 0),
    "half": png(16, 16, chunk(b"IDAT", zlib.compress(b"\0" * 100))),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_that_are_none(kept, name):
    path = kept / "images/0000.png"
    before = path.read_bytes()
    path.write_bytes(PICTURES[name])
    try:
        in_child_of_memory(lambda: isinstance(ask(kept)["images"], ValueError) or pytest.fail("no error"))
    finally:
        path.write_bytes(before)


def become_pipe(path: Path) -> None:
    os.mkfifo(path)


def become_folder(path: Path) -> None:
    path.mkdir()


def become_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def become_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("become", [become_pipe, become_folder, become_device, become_link_to_itself])
@pytest.mark.parametrize("file", ONE_OF_EACH)
def test_files_that_are_something_else(folder, file, become):
    (folder / file).unlink()
    become(folder / file)
    found = errors(ask(folder))
    assert any(
        word in str(own)
        for own in found.values()
        for word in ("is no file", "leads out", "cannot be found", "no run.json")
    )
    with warnings.catch_warnings(), at_most(SECONDS):
        warnings.simplefilter("ignore")
        assert len(Runs(folder.parent)) == (file != "run.json")


@pytest.mark.parametrize("file", ONE_OF_EACH)
def test_links_that_lead_out_are_not_followed(folder, whole, file, tmp_path):
    """Also not to the very file that was there."""
    (folder / file).unlink()
    (folder / file).symlink_to(whole / file)
    found = errors(ask(folder))
    assert any("leads out of the folder of the run, and is not followed" in str(own) for own in found.values())
    with pytest.raises(ValueError, match="leads out"):
        sdprobe.open(folder).save(tmp_path / "copy")


def test_folders_that_lead_out_are_not_followed(folder, whole, tmp_path):
    for name in ("images", "hooks/00"):
        shutil.rmtree(folder / name)
        (folder / name).symlink_to(whole / name)
    found = errors(ask(folder))
    assert "leads out" in str(found["images"])
    assert "leads out" in str(found["daam"])
    with pytest.raises(ValueError, match="leads out"):
        sdprobe.open(folder).save(tmp_path / "copy")
    assert not (tmp_path / "copy" / "run.json").exists()


def test_a_link_within_the_folder_is_followed(folder):
    (folder / "images/0001.png").unlink()
    (folder / "images/0001.png").symlink_to("0000.png")
    saved = sdprobe.open(folder)
    assert saved.images[0] == saved.images[1]


def rewritten(folder: Path, file: str, change: Callable[[Any], None]) -> Path:
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    "name", ["../tensors-0000.safetensors", "/etc/passwd", "..", "tensors-0000.safetensors/..", "", "a\0b"]
)
def test_paths_that_climb(folder, name):
    rewritten(folder, "hooks/00/records.json", lambda content: content["tensors"].update({"0": name}))
    found = errors(ask(folder))
    assert "names files of tensors that are none" in str(found["hook 'maps'"])


@pytest.fixture
def trap(tmp_path, monkeypatch) -> Path:
    """A module on the path that says so when it is imported."""
    (tmp_path / "path").mkdir()
    hacked = tmp_path / "hacked"
    (tmp_path / "path" / "trapped.py").write_text(
        f"import pathlib\npathlib.Path({str(hacked)!r}).touch()\nclass Hook: pass\nclass HookRecords: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "path")
    return hacked


@pytest.mark.parametrize("kind", ["os:system", "trapped:Hook", "subprocess:Popen", "builtins:exec"])
@pytest.mark.parametrize("name", [None, "os:system", "trapped:Hook", "trapped", "statistics", "only", "__import__"])
def test_no_class_is_imported_or_called_by_name(folder, trap, kind, name):
    def change(content):
        content["hooks"][0] |= {"kind": kind, "name": name, "config": {"command": f"touch {trap}", "args": ["touch"]}}

    found = ask(rewritten(folder, "run.json", change))
    assert isinstance(found["hook 'maps'"], KeyError)
    assert "trapped" not in sys.modules
    assert not trap.exists()


@pytest.mark.parametrize("kind", [LatentRecorder, Activations])
def test_what_a_constructor_is_told_to_do_is_not_done(folder, tmp_path, kind):
    """The folder that a recorder would write to is not made, and what is in one that is there stays."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    for target in (tmp_path / "new", tmp_path / "there"):

        def change(content, target=target):
            name = {LatentRecorder: "latents", Activations: "activations"}[kind]
            config = {"folder": str(target)} if kind is LatentRecorder else {"modules": ["*"], "to": str(target)}
            own = {"kind": f"{kind.__module__}:{kind.__qualname__}", "name": name, "config": config}
            content["hooks"][1] |= own

        rewritten(folder, "run.json", change)
        before = tree(tmp_path)
        with contextlib.suppress(*ALLOWED):
            _ = sdprobe.open(folder)["latents"], repr(sdprobe.open(folder)[kind])
        assert tree(tmp_path) == before


@pytest.mark.parametrize("config", [{"every": 0}, {"every": "x"}, {"nothing": 1}, {"__class__": "x"}, {"restore": 1}])
def test_arguments_that_a_hook_does_not_take(folder, config):
    rewritten(folder, "run.json", lambda content: content["hooks"][1].update({"config": config}))
    found = ask(folder)
    assert "are not those of this hook" in str(found["hook 'latents'"])
    assert isinstance(found["hook 'latents'"], ValueError)
    assert isinstance(found["maps"], list)


def test_the_cause_is_said(folder):
    rewritten(folder, "hooks/01/records.json", lambda content: content["values"].update({"kept": [[0, "voltage"]]}))
    with pytest.raises(
        ValueError, match=rf"records of LatentRecorder.*{folder}.*not those of this hook: .*voltage"
    ) as caught:
        sdprobe.open(folder)["latents"]
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_number_of_images_that_the_run_does_not_have(folder):
    rewritten(folder, "run.json", lambda content: content.update({"images": content["images"] + 1}))
    saved = sdprobe.open(folder)
    for asked in (lambda: saved.images, lambda: saved.report(folder.parent / "run.html")):
        with pytest.raises(ValueError, match=r"run.json' says that \d images were saved, of a run of \d"):
            asked()


def test_control_characters_do_not_reach_a_terminal(folder):
    bad = "\x1b[2J\x1b]0;title\x07\u202e\r"

    def change(content):
        content["settings"]["prompt"] = [f"a {bad}"]
        content["hooks"][0] |= {"said": f"Maps({bad})", "name": bad, "kind": bad, "asked_as": [bad]}
        content["provenance"] |= {"model": bad, "source": bad, "device": bad}

    rewritten(folder, "run.json", change)
    rewritten(
        folder, "prompts.json", lambda content: content["prompts"][0].update({"text": bad, "words": {bad: [[1]]}})
    )
    rewritten(folder, "coverage.json", lambda content: content["hooks"][0].update({"hook": bad}))
    rewritten(folder, "hooks/01/records.json", lambda content: content.update({"why": bad}))
    saved = sdprobe.open(folder)
    said = [repr(saved), repr(saved.settings), saved.model_name, repr(saved.provenance), str(saved.coverage)]
    said += [*map(repr, saved.hooks), *map(repr, saved.prompts), str(Runs(folder).table())]
    for asked in (bad, "latents", "maps"):
        with pytest.raises(KeyError) as caught:
            saved[asked]
        said.append(str(caught.value.args[0]))
    for text in said:
        assert not set(text) & {"\x1b", "\x07", "\u202e", "\r"}, text
    rewritten(folder, "coverage.json", lambda content: content["sites"].update({bad: "cross"}))
    with pytest.raises(ValueError, match="holds no coverage"):
        _ = sdprobe.open(folder).coverage
