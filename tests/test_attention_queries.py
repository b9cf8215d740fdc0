"""`AttentionQueries`: what every site of cross-attention compares with keys, kept as it was."""

from __future__ import annotations

import pickle

import pytest
import torch

import sdprobe
from sdprobe import AttentionMaps, AttentionQueries
from sdprobe.stock_pipelines.attach import attach
from tests.families import FAMILIES
from tests.laws.strategies import run
from tests.test_planted_families import JOINT


class EveryCall(sdprobe.Observer):
    """Every cross-attention call, whole."""

    kinds = ("cross",)

    def start(self, run):
        self.calls = {}

    def attention(self, attn, site):
        self.calls[site.step.index, site.name, 0] = (attn.query.clone(), attn.rows, attn.scale, site.grid)


def same(own, calls, role="cond"):
    """Whether a record holds the queries of a role's rows of these calls, and nothing else."""
    assert dict.fromkeys(own.queries) == dict.fromkeys(calls)
    for key, (query, rows, scale, grid) in calls.items():
        expected = query[[i for i, row in enumerate(rows) if row.role == role]]
        assert torch.equal(own.queries[key], expected)
        assert (own.scales[key[1]], own.grids_of[key[1]]) == (scale, grid)
    assert own.held_bytes == sum(query.nbytes for query in own.queries.values())
    return True


@pytest.mark.parametrize("role", ["cond", "uncond"])
def test_the_queries_of_a_role_s_rows_are_kept_as_they_are(tiny, role):
    queries, calls = AttentionQueries(role), EveryCall()
    result = run(tiny, queries, calls, prompt=["a red circle", "a star"], images_per_prompt=2, height=16, width=24)
    assert same(result[queries], result[calls].calls, role)


def test_without_guidance_and_in_a_stock_pipeline(tiny):
    queries, calls = AttentionQueries(), EveryCall()
    result = run(tiny, queries, calls, guidance_scale=1.0)
    assert same(result[queries], result[calls].calls)
    with attach(tiny.pipe, [queries, calls]) as attached:
        tiny.pipe("a red circle", num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    assert same(attached[queries], attached[calls].calls)


def test_some_steps_rows_modules_and_grids(tiny):
    def kept(hook, **settings):
        given = {"steps": 4, "images_per_prompt": 2} | settings
        return run(tiny, hook, **given)[hook].queries

    whole = kept(AttentionQueries())
    second = kept(sdprobe.every(2)(AttentionQueries()))
    assert {key.step for key in second} == {0, 2}
    assert all(torch.equal(query, whole[key]) for key, query in second.items())
    of_image = kept(sdprobe.only(AttentionQueries(), rows=[1]))
    assert all(torch.equal(query, whole[key][1:]) for key, query in of_image.items())
    small = kept(AttentionQueries(modules=["up_blocks*"], grids=[4]))
    assert {query.shape[2] for query in small.values()} == {16}
    assert {key.layer.split(".")[0] for key in small} == {"up_blocks"}


def test_another_dtype_and_a_gradient(tiny):
    """What is kept is a copy, rounded once, which holds no graph."""

    class Wants(sdprobe.Transform):
        needs_grad = True

        def latents(self, x, step):
            return x

    half, whole = AttentionQueries(dtype="float16", device="cpu"), AttentionQueries()
    result = run(tiny, half, whole, Wants())
    for key, query in result[whole].queries.items():
        assert torch.equal(result[half].queries[key], query.half())
        assert not query.requires_grad
    assert 2 * result[half].held_bytes == result[whole].held_bytes


def test_saved_opened_and_pickled(tiny, reopened):
    queries = AttentionQueries(dtype=torch.float16)
    live = run(tiny, queries, steps=3)
    for again in (reopened(live), pickle.loads(pickle.dumps(live))):
        own = again[AttentionQueries]
        assert list(own.queries) == list(live[queries].queries)
        assert all(torch.equal(own.queries[key], query) for key, query in live[queries].queries.items())
        assert own.held_bytes == live[queries].held_bytes
        with pytest.raises(ValueError, match=r"give it, as in heat_map_of\(text, model="):
            own.heat_map_of("a star")
        heat = own.heat_map_of("a star", model=tiny)
        assert torch.equal(heat.values, live[queries].heat_map_of("a star").values)
        with pytest.raises(ValueError, match="has other weights than the model that made this run"):
            own.heat_map_of("a star", model=sdprobe.load())


def test_the_budget_is_the_arithmetic(tiny):
    """What is said before the first step is what is held in the end; and a byte less is refused."""
    queries = AttentionQueries()
    held = run(tiny, queries, steps=3, height=16, width=24)[queries].held_bytes
    run(tiny, AttentionQueries(budget=held), steps=3, height=16, width=24)
    with pytest.raises(ValueError, match=rf"would hold .*on cpu, (?s:.*)every\(5\)(?s:.*)budget={held}"):
        run(tiny, AttentionQueries(budget=held - 1), steps=3, height=16, width=24)


@pytest.mark.parametrize("family", JOINT)
def test_joint_attention_is_refused_in_words(family):
    with pytest.raises(ValueError, match=r"the keys of a word depend on the picture.*output_space"):
        sdprobe.sample(sdprobe.load(FAMILIES[family]()), "a", hooks=["attention-queries"], steps=1, progress=False)


def test_errors(tiny):
    with pytest.raises(ValueError, match="rows='uncond', but the roles of this run's rows are cond"):
        run(tiny, AttentionQueries("uncond"), guidance_scale=1.0)
    with pytest.raises(ValueError, match=r"no site has a grid of \[\(5, 5\)\]; those of this run are"):
        run(tiny, AttentionQueries(grids=[5]))
    with pytest.raises(ValueError, match="budget is a number of bytes"):
        AttentionQueries(budget=0)
    maps = AttentionMaps()
    with pytest.raises(ValueError, match="needs the records of AttentionQueries"):
        run(tiny, maps)[maps].heat_map_of("a star")
    queries = AttentionQueries()
    own = run(tiny, queries)[queries]
    with pytest.raises(ValueError, match="nothing was recorded at step 7, layer None; recorded: the steps"):
        own.heat_map_of("a star", step=7)
    with pytest.raises(ValueError, match="image 3 is not in this run"):
        own.heat_map_of("a star", image=3)
