"""`AttentionRecorder`: what is kept is what the hooks see."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe import AttentionRecorder, only
from sdprobe.core.activations.record import ActivationRecord
from tests.families import FAMILIES
from tests.laws.strategies import run, same_run

TWO = {"prompt": ["a red circle", "a blue star"], "seed": [0, 1], "height": 16, "width": 24}


class Seen(sdprobe.Observer):
    def start(self, run):
        self.probs = {}

    def attention(self, attn, site):
        for stream, keys in (("text", site.text), ("image", site.image if site.kind != "cross" else None)):
            if keys is not None:
                own = attn.probs(rows="cond", queries=site.image, tokens=keys)
                self.probs.setdefault((site.name, stream), []).append(own)


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "Stable Diffusion 3.5", "Flux.1 dev"])
def test_it_is_what_hooks_see(family):
    model = sdprobe.load(FAMILIES[family]())
    recorder = AttentionRecorder(kinds=("cross", "self", "joint"), columns=("text", "image"))
    found = run(model, recorder, seen := Seen(), **TWO)
    assert same_run(found, run(model, **TWO))
    record = found[recorder].record
    assert {(key.name, key.stream) for key in record.keys} == set(found[seen].probs)
    for key in record.keys:
        assert torch.equal(record[key], torch.stack(found[seen].probs[key.name, key.stream]))
    assert [label[:2] for label in record.rows_at(0)] == [(0, "cond"), (1, "cond")]


def test_what_is_kept(tiny):
    keep = {"text": AttentionRecorder(), "picture": AttentionRecorder(kinds="self")}
    keep["small"] = AttentionRecorder(kinds=("cross", "self"), grids=[4], steps=1, rows=None, dtype="float16")
    found = sdprobe.sample(tiny, "a red circle", hooks=keep, steps=2, guidance_scale=3.0, seed=0, progress=False)
    record = {name: found[name].record for name in keep}
    assert {key.name.rsplit(".", 1)[1] for key in record["text"].keys} == {"attn2"}
    assert {key.name.rsplit(".", 1)[1] for key in record["picture"].keys} == {"attn1"}
    assert record["small"].indices == [1]
    assert [label.role for label in record["small"].rows_at(1)] == ["uncond", "cond"]
    for key in record["small"].keys:
        x = record["small"].at(1, key)
        assert (x.shape[2], x.dtype) == (16, torch.float16)


def test_it_is_limited_saved_and_read_from_its_folder(tiny, tmp_path, reopened):
    kept, folder = AttentionRecorder(), AttentionRecorder(to=tmp_path / "record")
    found = run(tiny, only(kept, rows=[1]), only(folder, rows=[1]), **TWO)
    whole = run(tiny, every := AttentionRecorder(), **TWO)[every].record
    for record in (
        found[kept].record,
        ActivationRecord.open(tmp_path / "record"),
        reopened(found).records[0][1].record,
    ):
        assert all(torch.equal(record[key], whole[key][:, 1:]) for key in whole.keys)
        assert record.rows_at(0)[0].image == 1
        assert "a blue star" in record.description["readings"]


def test_what_is_refused(tiny):
    for options, words in (
        ({"kinds": "crossed"}, "kinds are among 'cross', 'self', 'joint'"),
        ({"columns": "words"}, "columns are 'text', 'image' or both"),
        ({"kinds": "self", "columns": "text"}, "there is nothing to keep"),
    ):
        with pytest.raises(ValueError, match=words):
            AttentionRecorder(**options)
    with pytest.raises(ValueError, match="no site can have a grid"):
        run(tiny, AttentionRecorder(grids=[5]))
    with pytest.raises(ValueError, match="is a record of attention, and one of activations is needed"):
        run(tiny, sdprobe.Patch(run(tiny, kept := AttentionRecorder())[kept].record, "*attn2"))


def test_beside_activations_a_run_has_one_record_of_each(tiny):
    source = run(tiny, sdprobe.Activations("conv_out"), AttentionRecorder())
    assert same_run(run(tiny, sdprobe.Patch(source, "conv_out")), source)


def test_vectors_of_each_head_have_their_places(tiny):
    site = "mid_block.attentions.0.transformer_blocks.0.attn2"
    recorder = AttentionRecorder(site)
    found = run(tiny, recorder, steps=1)[recorder]
    flat, (heads, places, _) = found.flat(site), found.at(0, site)[0].shape
    for name, of_place in (("y", torch.arange(places) // 4), ("x", torch.arange(places) % 4)):
        assert flat.table[name].tolist() == of_place.tolist() * heads
