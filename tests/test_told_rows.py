"""Rows of a pipeline that no family knows: unlabelled, unless the user says what they are."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from tests.unknown_pipelines import attached


def in_order(count: int) -> list[tuple[int, str]]:
    """Kandinsky's rows of one picture."""
    return [(0, "uncond"), (0, "cond")][-count:]


def test_rows_have_no_label_unless_they_are_told(kandinsky):
    places, asked = [], []
    hooks = [
        sdprobe.watch("attention", lambda attn, site: places.append(site.rows)),
        sdprobe.watch("noise_pred", lambda x, step: asked.append(step.roles)),
    ]
    run, _ = attached(kandinsky, *hooks)
    assert {row.role for rows in places for row in rows} == {"unlabelled"}
    assert [row.image for row in places[0]] == [0, 1]
    assert (run.roles, set(asked)) == (("unlabelled",), {("unlabelled",)})
    assert "which rows are which" in run.coverage.unknown
    places.clear()
    run, _ = attached(kandinsky, *hooks, rows=in_order)
    assert [(row.image, row.role) for row in places[0]] == in_order(2)
    assert run.roles == ("uncond", "cond")
    assert "which rows are which" not in run.coverage.unknown


def test_rows_that_are_told_are_chosen(kandinsky):
    kept = {role: sdprobe.Activations("mid_block", rows=role) for role in ("uncond", "cond")}
    every = sdprobe.Activations("mid_block")
    run, _ = attached(kandinsky, *kept.values(), every, rows=in_order)
    for k, own in enumerate(kept.values()):
        assert torch.equal(run[own]["mid_block"], run[every]["mid_block"][:, k : k + 1])
    change = sdprobe.only(sdprobe.on("activation", lambda x: x * 0, modules="mid_block"), rows="cond")
    run, _ = attached(kandinsky, change, every, rows=in_order)
    assert run[every]["mid_block"][:, 1].abs().max() == 0 < run[every]["mid_block"][:, 0].abs().max()


@pytest.mark.parametrize(
    "hook",
    [
        sdprobe.watch("attention", lambda attn: attn.probs(rows="cond")),
        sdprobe.Activations("mid_block", rows="cond"),
        sdprobe.AttentionRecorder(),
        sdprobe.AttentionMaps(),
        sdprobe.only(sdprobe.on("noise_pred", lambda x: x), rows=[0]),
        sdprobe.only(sdprobe.on("activation", lambda x: x, modules="mid_block"), rows="uncond"),
    ],
    ids=["probs", "Activations", "AttentionRecorder", "AttentionMaps", "only images", "only a role"],
)
def test_rows_of_a_role_are_refused_with_what_to_do(kandinsky, hook):
    with pytest.raises(ValueError, match=r"no family knows this pipeline.*rows=\.\.\."):
        attached(kandinsky, hook)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (lambda count: [(0, "cond")], "returned 1 rows for a batch of 2"),
        (lambda count: ["cond"] * count, "returned 'cond' for an entry of a batch: it returns pairs"),
        (lambda count: [(0, "conditional")] * count, "one of cond, uncond, image"),
        (lambda count: [(3, "cond")] * count, "image 3 is not in this run"),
    ],
)
def test_rows_told_wrongly_are_refused(kandinsky, rows, said):
    with pytest.raises(ValueError, match=said):
        attached(kandinsky, rows=rows)


def test_rows_of_several_calls_in_a_step(two):
    numbers = []
    run, _ = attached(
        two, sdprobe.watch("attention", lambda attn, site: numbers.append(tuple(r.image for r in site.rows)))
    )
    assert set(numbers) == {(0, 1), (2, 3)}
    calls = sdprobe.Activations("mid_block", rows="uncond")
    told = lambda count, call: [(image, ("cond", "uncond")[call]) for image in range(count)]  # noqa: E731
    run, _ = attached(two, calls, rows=told)
    assert run[calls]["mid_block"].shape[:2] == (2, 2)


def test_rows_are_not_told_to_a_family(tiny):
    with (
        pytest.raises(ValueError, match="StableDiffusion knows those of StableDiffusionPipeline"),
        sdprobe.attach(tiny.pipe, rows=in_order),
    ):
        pass


def test_the_rows_of_what_has_another_batch_are_not_made_up(latte):
    sites = {}
    watch = sdprobe.watch("attention", lambda attn, site: sites.update({site.name: (len(attn.query), site.rows)}))
    attached(latte, watch, rows=lambda count: [(0, "uncond"), (0, "cond")])
    count, rows = sites["temporal_transformer_blocks.0.attn1"]
    assert count == len(rows) == 32
    assert {row.role for row in rows} == {"unlabelled"}
