"""A record in a folder holds what one in memory holds, outlives its run, and goes on after an interruption."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import sdprobe
from sdprobe.core.activations.folder import ActivationFolder
from sdprobe.core.activations.record import (
    ActivationForm,
    ActivationKey,
    ActivationRecord,
    HeldActivations,
    Kept,
    RowLabel,
)
from sdprobe.core.activations.source import record_of
from sdprobe.core.cpu_copy import CpuCopy
from sdprobe.observe.activations import Activations
from tests.laws.strategies import run

NAMES = ("mid_block", "down_blocks.0.resnets.0")
KILLED = """
import os, signal, sys
import torch, sdprobe
from sdprobe.observe.activations import Activations
from tests.laws.strategies import run
from tests.tiny import stable_diffusion

torch.set_num_threads(1)

class Killer(sdprobe.Observer):
    modules = ("mid_block",)
    def activation(self, x, site):
        if site.step.index == 3:
            os.kill(os.getpid(), signal.SIGKILL)

acts = Activations(("mid_block", "down_blocks.0.resnets.0"), to=sys.argv[1])
run(sdprobe.load(stable_diffusion()), acts, Killer(), steps=6)
"""
FORM = ActivationForm(("rows", "channels", "h", "w"), (RowLabel(0, "cond", "a"), RowLabel(1, "cond", "b")), (3, 4))
KEY = ActivationKey("up_blocks.1", "output", "skip 0")


def kept(x, form=FORM):
    return Kept(CpuCopy(x), form)


def test_disk_and_memory_hold_the_same(tmp_path):
    own = [HeldActivations(), ActivationFolder.begun(tmp_path, {"seed": 0})]
    dtypes = {4: torch.bfloat16, 0: torch.float32, None: torch.float16}
    steps = {k: torch.randn(2, 5, 3, 4).to(dtype) for k, dtype in dtypes.items()}
    for record in own:
        for index, x in steps.items():
            record.write(index, {KEY: kept(x)})
        record.finish()
    for record in (*own, ActivationRecord.open(tmp_path)):
        assert record.indices == [0, 4, None]
        assert record.keys == [KEY]
        assert record.axes_of("up_blocks.1") == ("steps", "rows", "channels", "h", "w")
        assert record.rows_at(4) == FORM.rows
        assert record.form_of(0, KEY) == FORM
        assert record.shape_of(0, KEY) == (2, 5, 3, 4)
        for index, x in steps.items():
            assert torch.equal(record.at(index, KEY), x)
            assert record.at(index, KEY).dtype == x.dtype
            assert torch.equal(record.at(index, KEY, slice(1, 2)), x[1:2])


def test_a_key_is_asked_for_by_what_tells_it_apart():
    record = HeldActivations()
    keys = [ActivationKey("block", side, stream) for side in ("output", "input") for stream in ("image", "text")]
    record.write(0, {key: kept(torch.full((2, 1, 3, 4), float(k))) for k, key in enumerate(keys)})
    assert record.key_of("block", side="input", stream="text") == keys[3]
    assert record.at(0, keys[3]).unique().item() == 3
    with pytest.raises(
        KeyError, match=r"several tensors: say side= and stream=, of block \(output, image\), block \(ou"
    ):
        record["block"]
    with pytest.raises(KeyError, match=r"'block', skip 0 was not kept; kept: block \(output, image\)"):
        record.key_of("block", stream="skip 0")
    with pytest.raises(KeyError, match="nothing was kept of step 3; kept: step 0"):
        record.at(3, keys[0])
    other = ActivationForm(FORM.axes, FORM.rows[::-1], (3, 4))
    record.write(1, {keys[0]: kept(torch.zeros(2, 1, 3, 4), other)})
    with pytest.raises(KeyError, match=r"not the same rows in all steps \(see rows_at of step 0, step 1\): read each"):
        record[keys[0]]
    record.write(1, {keys[0]: kept(torch.zeros(1, 1, 3, 4), ActivationForm(FORM.axes, FORM.rows[:1], (3, 4)))})
    with pytest.raises(KeyError, match=r"not the same shape in all steps \(\[2, 1, 3, 4\], \[1, 1, 3, 4\]\)"):
        record[keys[0]]
    with pytest.raises(KeyError, match=r"block \(input, text\) was not kept of step 1; kept: block \(output, image\)"):
        record.at(1, keys[3])


def test_a_run_that_is_killed_leaves_whole_steps_and_a_second_start_completes_it(tiny, tmp_path):
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "cut"], cwd=root, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    whole = Activations(NAMES)
    expected = run(tiny, whole, steps=6)[whole]
    left = ActivationRecord.open(tmp_path / "cut")
    assert left.indices == [0, 1, 2]
    for name in NAMES:
        assert torch.equal(left[name], expected[name][:3])
    again = Activations(NAMES, to=tmp_path / "cut")
    run(tiny, again, steps=6)
    assert left.indices == [0, 1, 2, 3, 4, 5]
    once = Activations(NAMES, to=tmp_path / "once")
    run(tiny, once, steps=6)
    for path in (tmp_path / "once").iterdir():
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes()
    for name in NAMES:
        assert torch.equal(ActivationRecord.open(tmp_path / "cut")[name], expected[name])


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_step_that_breaks_off_is_not_kept(tiny, tmp_path, on_disk):
    class Stop(sdprobe.Observer):
        modules = ("mid_block",)

        def activation(self, x, site):
            if site.step.index == 2:
                raise KeyboardInterrupt

    class Watch(Activations):
        def start(self, run):
            super().start(run)
            started.append(self)

    started = []
    with pytest.raises(KeyboardInterrupt):
        run(tiny, Watch("down_blocks.0.resnets.0", to=tmp_path if on_disk else None), Stop(), steps=4)
    assert started[0].indices == [0, 1]


def test_resume_goes_on_in_the_same_folder(tiny, tmp_path):
    class Stop(sdprobe.Observer):
        def latents(self, x, step):
            if step.index == 3 and step.run.resumed_at == 0:
                raise KeyboardInterrupt

    whole, cut, checkpoints = Activations(NAMES), Activations(NAMES, to=tmp_path), sdprobe.Checkpoints()
    expected = run(tiny, whole, checkpoints, steps=5)
    with pytest.raises(KeyboardInterrupt):
        run(tiny, cut, Stop(), steps=5)
    assert ActivationRecord.open(tmp_path).indices == [0, 1, 2]
    before = (tmp_path / "step-0001.safetensors").stat().st_mtime_ns
    sdprobe.resume(expected, step=3, hooks=[cut], progress=False)
    assert (tmp_path / "step-0001.safetensors").stat().st_mtime_ns == before
    for name in NAMES:
        assert torch.equal(ActivationRecord.open(tmp_path)[name], expected[whole][name])


@pytest.mark.parametrize(
    ("settings", "arguments", "why"),
    [
        ({"seed": 1}, {}, "seed is 0 there and 1 here"),
        ({"prompt": "a star"}, {}, r"prompt is \['a red circle'\] there and \['a star'\] here"),
        ({"steps": 3}, {}, "steps is 2 there and 3 here"),
        ({}, {"reduce": "mean"}, "reduce is None there and 'mean' here"),
        ({}, {"dtype": "float16"}, "dtype is None there and 'float16' here"),
    ],
)
def test_the_folder_of_another_run_is_refused(tiny, tmp_path, settings, arguments, why):
    run(tiny, Activations("mid_block", to=tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=rf"holds the record of another run \({why}\): every run needs a folder"):
        run(tiny, Activations("mid_block", to=tmp_path, **arguments), **settings)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ({"rows": "cond"}, {"rows": "uncond"}, r"chosen is \[\[0, 'cond'\], .* there and \[\[0, 'uncond'\], .* here"),
        ({"rows": [0]}, {"rows": [1]}, r".*chosen is \[\[0, .* there and \[\[1, "),
        ({"steps": [0]}, {"steps": [1]}, r"only is \[\[\[0\], None\]\] there and \[\[\[1\], None\]\] here"),
        ({"sites": "mid*"}, {}, r"only is \[\[None, \['mid\*'\]\]\] there and \[\] here"),
    ],
)
def test_two_limits_do_not_share_a_folder(tiny, tmp_path, first, second, why):
    acts = Activations("mid_block", to=tmp_path)
    for _ in range(2):  # the same limit may go on
        run(tiny, sdprobe.only(acts, **first), images_per_prompt=2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=rf"holds the record of another run \({why}"):
        run(tiny, sdprobe.only(acts, **second), images_per_prompt=2)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_named_limits_are_told_apart_by_their_numbers(tiny, tmp_path):
    acts = Activations("mid_block", to=tmp_path)
    run(tiny, sdprobe.after(1)(acts))
    with pytest.raises(ValueError, match=r"'after\(1\)', None\]\] there and \[\['after\(0\)', None\]\] here"):
        run(tiny, sdprobe.after(0)(acts))


def test_two_hooks_of_a_run_do_not_write_to_one_folder(tiny, tmp_path):
    one, other = (Activations("mid_block", to=folder) for folder in (tmp_path, f"{tmp_path}/../{tmp_path.name}"))
    with pytest.raises(ValueError, match=r"two hooks of this run write to '.*': give each a folder of its own"):
        run(tiny, one, other)
    run(tiny, one, Activations("mid_block"), Activations("mid_block", to=tmp_path / ".other"))


def test_two_limited_hooks_of_a_run_do_not_write_to_one_folder(tiny, tmp_path):
    acts = [Activations("mid_block", to=tmp_path) for _ in range(2)]
    with pytest.raises(ValueError, match=r"two hooks of this run write to '.*': give each a folder of its own"):
        run(tiny, *(sdprobe.only(own, rows=role) for own, role in zip(acts, ("cond", "uncond"), strict=True)))


def test_contents_that_are_no_record_are_refused_in_words(tmp_path):
    record = ActivationFolder.begun(tmp_path, {})
    record.write(0, {KEY: kept(torch.zeros(2, 5, 3, 4))})
    path = tmp_path / "step-0000.safetensors"
    good, tensors = path.read_bytes(), load_file(path)
    (name,) = tensors
    described = [[name, FORM.to_plain()]]

    def refused(why):
        with pytest.raises(ValueError, match=rf"step-0000.safetensors' {why}"):
            ActivationRecord.open(tmp_path).at(0, KEY)

    def written(described, tensors=tensors):
        text = described if isinstance(described, str) else json.dumps(described)
        save_file(tensors, path, {"activations": text})

    for length in (0, 4, 60, len(good) - 1):
        path.write_bytes(good[:length])
        refused("cannot be read as safetensors")
    path.write_bytes(b"\xff" * 8 + good[8:])
    refused("cannot be read as safetensors")
    save_file(tensors, path)
    refused("holds no activations of a step")
    for text in ("{", "[1, 2]", "[" * 100_000, "null"):
        written(text)
        refused("holds no activations of a step")
    for bad in ("../../key|output|hidden", "/etc/x|output|hidden", "block|output", "a|..|hidden", ""):
        written([[bad, FORM.to_plain()]], {bad: tensors[name]} if bad else tensors)
        refused("holds no activations of a step: '.*' is no name of an activation")
    written([[5, FORM.to_plain()]])
    refused("holds no activations of a step: 5 is no name of an activation")
    written([*described, ["other|output|hidden", FORM.to_plain()]])
    refused("holds no activations of a step: the tensors described are not those in the file")
    for changed, why in (
        ({"rows": [[0, "cond", "a"]]}, "1 rows are described"),
        ({"axes": ["rows", "width"]}, "the axes rows, width are not those"),
        ({"grid": [4, 3]}, "a grid of 4×3 is not that"),
        ({"rows": [[float("inf"), "cond", "a"]] * 2}, "no description of an activation"),
        ({"text": [0, 9]}, "the positions 0 to 9 are outside"),
        ({"positions": [[1], [2]]}, "the token positions described"),
        ({"rows": "cond"}, "no description of an activation"),
    ):
        written([[name, FORM.to_plain() | changed]])
        refused(f"holds no activations of a step: {why}")
    written(described)
    assert torch.equal(ActivationRecord.open(tmp_path).at(0, KEY), tensors[name])
    (tmp_path / "record.json").write_text("[]")
    with pytest.raises(ValueError, match=r"record.json' describes no record: a JSON object is needed, not list"):
        ActivationRecord.open(tmp_path)
    with pytest.raises(FileNotFoundError, match="no record of activations in"):
        ActivationRecord.open(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"step-0000.safetensors' is a file, and a record of activations is a folder"):
        ActivationRecord.open(path)
    (tmp_path / "record.json").unlink()
    (tmp_path / "record.json").mkdir()
    with pytest.raises(ValueError, match=r"record.json' describes no record: "):
        ActivationRecord.open(tmp_path)


def test_a_grid_is_of_positive_numbers():
    form = ActivationForm(("rows", "positions", "width"), FORM.rows, (-4, -4))
    with pytest.raises(ValueError, match="a grid of -4×-4 is not that of a tensor"):
        form.check((2, 16, 8))


def test_a_record_is_found_in_what_holds_one(tiny, tmp_path):
    acts = Activations("mid_block", to=tmp_path)
    result = run(tiny, acts)
    for source in (result, result[acts], result[acts].record, tmp_path, str(tmp_path)):
        assert record_of(source).indices == [0, 1]
    with pytest.raises(ValueError, match="no records of activations"):
        record_of(run(tiny))
    with pytest.raises(TypeError, match="activations come from a Run"):
        record_of(3)
