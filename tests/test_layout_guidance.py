"""`LayoutGuidance`: it is the paper's energy, it brings things into their boxes, at scale 0 it is nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdprobe import AttentionMaps, WordNotInPrompt, only
from sdprobe.shapes import detect
from sdprobe.testing import footprint
from sdprobe.transform.attend_and_excite import AttendAndExcite
from sdprobe.transform.attention_loss_guidance import AttentionGuidance, CrossAttention
from sdprobe.transform.layout_guidance import LayoutGuidance, inside_of
from tests.laws.strategies import run, same_run

TWO = "a red circle and a blue square"
CORNER = (0.0, 0.0, 0.5, 0.5)
BOXES = {"circle": CORNER, "square": (0.5, 0.5, 1.0, 1.0)}


@given(seed=st.integers(0, 999), cells=st.tuples(*[st.integers(0, 7)] * 4), sizes=st.sampled_from([(8,), (4, 8)]))
def test_the_loss_is_equation_2(tiny, seed, cells, sizes):
    """For a box of whole places, written out: one less the share of attention inside, squared, over heads and sites."""
    (top, bottom), (left, right) = sorted(cells[:2]), sorted(cells[2:])
    top, bottom, left, right = (2 * (v // 2) for v in (top, bottom, left, right))
    bottom, right = bottom + 2, right + 2  # in eighths, and whole in quarters too
    prompt, generator = tiny.read(TWO), torch.Generator().manual_seed(seed)
    sites = [torch.randn(3, n, n, 16, generator=generator).softmax(-1) for n in sizes]
    energies = []
    for site in sites:
        scale = 8 // len(site[0])
        for word, box in (("circle", (top, bottom, left, right)), ("square", (0, 8, 0, 8))):
            a, b, c, d = (v // scale for v in box)
            seen = site[..., prompt.positions(word)[0]]
            energies.append((1 - seen[:, a:b, c:d].sum((1, 2)) / seen.sum((1, 2))) ** 2)
    boxes = {"circle": (left / 8, top / 8, right / 8, bottom / 8), "square": (0.0, 0.0, 1.0, 1.0)}
    found = LayoutGuidance(boxes).loss(CrossAttention(prompt, tuple(sites)))
    torch.testing.assert_close(found, torch.stack(energies).mean(), rtol=1e-5, atol=1e-6)


@given(
    box=st.tuples(*[st.floats(0, 1)] * 4).filter(lambda b: b[0] < b[2] and b[1] < b[3]),
    grid=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_a_box_covers_its_own_area_of_any_grid(box, grid):
    left, top, right, bottom = box
    inside = inside_of(box, torch.zeros(1, *grid, 3))
    assert inside.shape == grid
    assert inside.min() >= 0
    assert inside.max() <= 1
    area = (right - left) * (bottom - top)
    assert float(inside.mean()) == pytest.approx(area, abs=1e-5)


@pytest.mark.slow
@settings(max_examples=4)
@given(
    scheduler=st.sampled_from(["DDIM", "EulerDiscrete", "PNDM", "UniPCMultistep"]),
    guidance_scale=st.sampled_from([1.0, 3.0]),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("which", ["tiny", "tiny_v"])
def test_scale_0_is_the_identity(request, which, scheduler, guidance_scale, seed):
    model = request.getfixturevalue(which)
    given_ = {"scheduler": scheduler, "guidance_scale": guidance_scale, "seed": seed, "steps": 5, "prompt": TWO}
    watching = LayoutGuidance(BOXES, 0, stop=3)
    watched = run(model, watching, **given_)
    assert same_run(watched, run(model, **given_))
    assert watched[watching].indices == [0, 1, 2]
    assert watched[watching].losses.min() > 0
    assert not watched[watching].changes.any()
    assert not watched[watching].pushes.any()


@pytest.mark.slow
@settings(max_examples=3)
@given(seed=st.integers(0, 999), scheduler=st.sampled_from(["DDIM", "EulerDiscrete"]))
def test_every_push_lowers_the_loss(embedded, seed, scheduler):
    watching = LayoutGuidance({"circle": CORNER}, 0, stop=1)
    losses = []
    for repeats in (0, 1, 3):
        hooks = [LayoutGuidance({"circle": CORNER}, stop=1, repeats=repeats)] if repeats else []
        given_ = {"prompt": "a red circle", "images_per_prompt": 2, "seed": [seed, seed + 1]}
        result = run(embedded, *hooks, watching, steps=1, scheduler=scheduler, **given_)
        losses.append(result[watching].losses[0])
    assert (losses[1] < losses[0]).all()
    assert (losses[2] < losses[1]).all()


@pytest.mark.slow
@pytest.mark.parametrize("box", [CORNER, (0.5, 0.5, 1.0, 1.0)])
def test_the_thing_comes_into_its_box(embedded, box):
    """The share of its pixels inside, over eight seeds; the maps show the same."""
    given_ = {"prompt": "a red circle", "images_per_prompt": 8, "seed": list(range(8)), "steps": 10}
    inside, looked = [], []
    mask = inside_of(box, torch.zeros(1, 64, 64, 1)).numpy() > 0.5
    for hooks in ([], [LayoutGuidance({"circle": box})]):
        maps = AttentionMaps(words=["circle"], grids=(16,))
        result = run(embedded, *hooks, maps, **given_)
        red = [[own.mask for own in detect(np.asarray(image)) if own.colour == "red"] for image in result.images]
        seen = [np.logical_or.reduce(masks) for masks in red if masks]
        inside.append(np.mean([(own & mask).sum() / own.sum() for own in seen]))
        heats = [result[maps].heat_map("circle", image=i).resize((64, 64)).values for i in range(8)]
        looked.append(np.mean([float(heat[mask].sum() / heat.sum()) for heat in heats]))
    assert inside[1] > inside[0] + 0.3
    assert looked[1] > looked[0]


def test_it_repeats_until_the_loss_is_low_enough(tiny):
    first = run(tiny, watching := LayoutGuidance(BOXES, 0), prompt=TWO)[watching].losses[0, 0]
    for enough, pushes in ((float(first), 1), (0.0, 4)):
        layout = LayoutGuidance(BOXES, 1, repeats=4, enough=enough, stop=1)
        assert run(tiny, layout, prompt=TWO)[layout].pushes.tolist() == [[pushes]]


def test_one_of_two_occurrences(tiny):
    prompt = tiny.read("a circle and a red circle")
    looks = CrossAttention(prompt, (torch.rand(2, 8, 8, 16, generator=torch.Generator().manual_seed(0)),))
    first, second, both = (LayoutGuidance({w: CORNER}).loss(looks) for w in (("circle", 0), ("circle", 1), "circle"))
    assert first != second
    torch.testing.assert_close(both, (first + second) / 2)


def test_images_of_a_batch_are_pushed_each_by_itself(tiny):
    texts = [TWO, "a square left of a circle", "a star"]
    together = run(tiny, LayoutGuidance(BOXES, stop=2), prompt=texts, seed=[1, 2, 3])
    for i, text in enumerate(texts[:2]):
        apart = run(tiny, LayoutGuidance(BOXES, stop=2), prompt=text, seed=i + 1)
        torch.testing.assert_close(together.latents[i : i + 1], apart.latents, rtol=1e-3, atol=1e-3)
    assert torch.equal(together.latents[2], run(tiny, prompt=texts, seed=[1, 2, 3]).latents[2])


def test_it_composes(tiny):
    layout, excite, maps = LayoutGuidance(BOXES, stop=2), AttendAndExcite(list(BOXES)), AttentionMaps()
    both = run(tiny, layout, excite, prompt=TWO, steps=3)
    assert same_run(both, run(tiny, maps, layout, excite, prompt=TWO, steps=3))
    assert not same_run(both, run(tiny, layout, prompt=TWO, steps=3))
    late = only(LayoutGuidance(BOXES, stop=3), steps=range(1, 2))
    assert run(tiny, late, prompt=TWO, steps=3)[late.inner].indices == [1]
    assert len(both[layout].plot().axes) == 3


def test_from_a_picture_and_without_guidance(tiny):
    picture = Image.fromarray(np.full((16, 16, 3), 200, np.uint8))
    given_ = {"image": picture, "strength": 0.5, "steps": 8, "prompt": TWO, "guidance_scale": 1.0}
    layout = LayoutGuidance(BOXES)
    pushed = run(tiny, layout, **given_)
    assert pushed[layout].indices == [0]
    assert not same_run(pushed, run(tiny, **given_))


def test_a_loss_of_one_s_own(embedded):
    """Two words that are to be looked at in different places."""

    class Apart(AttentionGuidance):
        def loss(self, looks):
            one, other = (looks.mean()[..., looks.tokens_of(word)[0]].mean(-1) for word in self.words)
            return (one * other).sum() / (one.sum() * other.sum()) * one.numel()

    ends = []
    for scale in (0, 5):
        apart = Apart(["circle", "square"], scale, stop=3)
        ends.append(run(embedded, apart, prompt=TWO, steps=4, images_per_prompt=3, seed=[0, 1, 2])[apart].losses)
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[1][1].mean() < ends[0][1].mean()


def test_what_cannot_be_is_refused_before_the_first_step(tiny):
    for box in ((0.5, 0, 0.5, 1), (0, 0.9, 1, 0.1), (0, 0, 64, 64), (0, 0, 1)):
        with pytest.raises(ValueError, match=r"the box of 'circle' is .* as shares of the picture from 0 to 1, not"):
            LayoutGuidance({"circle": box})
    with pytest.raises(WordNotInPrompt, match="its words are 'a', 'red', 'circle'"):
        run(tiny, LayoutGuidance({"hexagon": CORNER}))
    with pytest.raises(ValueError, match="repeats must be 1 or more, not 0"):
        LayoutGuidance({"circle": CORNER}, repeats=0)


def test_the_model_stays_as_it_was(tiny):
    before = footprint(tiny.pipe)
    run(tiny, LayoutGuidance(BOXES), prompt=TWO)
    with pytest.raises(ValueError, match="no cross-attention has a grid"):
        run(tiny, LayoutGuidance(BOXES, grids=(2,)), prompt=TWO)
    assert footprint(tiny.pipe) == before
