"""`LocalBlend`: the authors' algorithm, written out with a store of all maps; and outside the mask nothing moves."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

import sdprobe
from sdprobe import LocalBlend, Transform, WordNotInPrompt, only
from sdprobe.testing.flat_records import same_run
from tests.families import FAMILIES
from tests.grid import attached
from tests.laws.strategies import run

PROMPTS = ["a red circle left of a blue square", "a red star left of a blue square", "a star above a blue square"]


class Authors(Transform):
    """All maps of one grid are kept; after the first steps, each picture is blended with picture 0 of its pair."""

    kinds = ("cross", "joint")

    def __init__(self, words, pairs, grid, threshold=0.3, begin=0.2):
        self.words, self.pairs, self.grid, self.threshold, self.begin = words, pairs, grid, threshold, begin

    def start(self, run):
        self.kept = {}
        self.total = run.settings.steps

    def attention(self, attn, site):
        if site.grid == self.grid:
            for k, row in enumerate(attn.rows):
                if row.role == "cond":
                    columns = site.tokens(row.prompt.positions(self.words[row.image]))
                    own = attn.probs()[k, :, site.image][..., columns].mean(0).sum(-1)
                    self.kept.setdefault(row.image, []).append(own.view(site.grid))
        return attn

    def blended(self, x, done):
        if not done > int(self.begin * self.total):
            return x
        x = x.clone()
        masks = {}
        for image, kept in self.kept.items():
            widened = F.max_pool2d(sum(kept)[None, None], 3, 1, 1)
            large = F.interpolate(widened, x.shape[-2:])[0, 0]
            masks[image] = large / large.max() > self.threshold
        self.masks = {edit: masks[source] | masks[edit] for source, edit in self.pairs}
        for source, edit in self.pairs:
            x[edit] = x[source] + self.masks[edit] * (x[edit] - x[source])
        return x

    def latents(self, x, step):
        return self.blended(x, step.index)

    def final_latents(self, x, run):
        return self.blended(x, self.total)


@pytest.mark.parametrize(
    ("family", "grid"), [("Stable Diffusion 1", (8, 16)), ("Stable Diffusion 3.5", (4, 8)), ("Flux.1 dev", (4, 8))]
)
def test_it_is_the_authors_algorithm(family, grid):
    """Two edits, two pictures of each prompt, not square."""
    model = sdprobe.load(FAMILIES[family]())
    words = ["circle", "circle", "star", "star", "star", "star"]
    own = {"prompt": PROMPTS, "images_per_prompt": 2, "seed": [0, 1] * 3, "width": 32, "height": 16, "steps": 5}
    sizes = {"threshold": 0.97, "begin": 0.4}  # maps of random weights are nearly flat
    blend = LocalBlend(("circle", "star"), grids=[grid], **sizes)
    authors = Authors(words, [(0, 2), (1, 3), (0, 4), (1, 5)], grid, **sizes)
    ours, theirs = run(model, blend, **own), run(model, authors, **own)
    assert (ours.latents - theirs.latents).abs().max() < 1e-5 * theirs.latents.abs().max()
    assert ours[blend].edits == [2, 3, 4, 5]
    for mask, edit in zip(ours[blend].masks, ours[blend].edits, strict=True):
        assert torch.equal(mask, theirs[authors].masks[edit])
        assert torch.equal(ours.latents[edit][:, ~mask], ours.latents[edit % 2][:, ~mask])
    assert not torch.allclose(ours.latents, run(model, **own).latents, atol=1e-4)


def test_the_source_is_as_it_would_be_alone_and_the_mask_is_on_the_object(embedded):
    own = {"seed": [3, 3], "steps": 6, "guidance_scale": 5.0}
    blend = LocalBlend(("circle", "star"))
    found, plain = (run(embedded, *hooks, prompt=PROMPTS[:2], **own) for hooks in ([blend], []))
    assert torch.equal(found.latents[0], plain.latents[0])
    mask = found[blend].masks[0]
    assert 0.05 < mask.float().mean() < 0.7
    columns = torch.arange(16.0)
    assert (mask.sum(0) * columns).sum() / mask.sum() < 7.5  # the circle is on the left
    assert torch.equal(found.latents[1][:, ~mask], plain.latents[0][:, ~mask])


def test_source_targets_and_limits(embedded):
    own = {"prompt": PROMPTS, "seed": [0, 0, 0]}
    plain = run(embedded, **own)
    second = LocalBlend(("star", "circle"), source=1, targets=[0])
    found = run(embedded, second, **own)
    assert found[second].edits == [0]
    assert torch.equal(found.latents[1:], plain.latents[1:])
    two = run(embedded, only(LocalBlend(("circle", "star")), rows=[0, 1]), **own)
    assert torch.equal(two.latents[2], plain.latents[2])
    assert same_run(two, run(embedded, LocalBlend(("circle", "star"), targets=[1]), **own))
    never = LocalBlend(("circle", "star"), begin=1.0)
    assert same_run(run(embedded, never, **own), plain)
    assert same_run(run(embedded, LocalBlend(("circle", "star"), threshold=0.0), **own), plain)


def test_limited_to_rows_images_are_those_of_the_whole_run(embedded):
    own = {"prompt": PROMPTS, "images_per_prompt": 2, "seed": [0, 1] * 3}
    blend = LocalBlend(("circle", "star"))
    some = run(embedded, only(blend, rows=[0, 1, 3, 5]), **own)
    every, plain = run(embedded, LocalBlend(("circle", "star")), **own), run(embedded, **own)
    assert some[blend].edits == [3, 5]
    for found in (some, every):
        assert torch.equal(found.latents[:2], plain.latents[:2])
    assert torch.equal(some.latents[[2, 4]], plain.latents[[2, 4]])
    assert torch.allclose(some.latents[[3, 5]], every.latents[[3, 5]], atol=1e-4)
    with pytest.raises(ValueError, match="blends image 3 into image 1, and is limited to rows without it"):
        run(embedded, only(blend, rows=[0, 2, 3]), **own)
    with pytest.raises(ValueError, match="would never act"):
        run(embedded, only(blend, rows=[0, 1]), **own)


class Stop(Transform):
    def sample(self, x, step):
        if step.index == 2:
            step.stop()
        return x


@pytest.mark.parametrize("make", [sdprobe.sample, attached], ids=["sample", "attach"])
def test_in_a_run_that_ends_early_the_last_latents_are_blended(embedded, make):
    blend = LocalBlend(("circle", "star"), targets=1)
    settings = {"seed": [0, 0], "steps": 6, "guidance_scale": 3.0}
    settings |= {"progress": False} if make is sdprobe.sample else {}
    found = make(embedded, PROMPTS[:2], hooks=[blend, Stop()], **settings)
    assert found.stopped_at == 2
    mask = found[blend].masks[0]
    assert 0 < mask.float().mean() < 1
    assert torch.equal(found.latents[1][:, ~mask], found.latents[0][:, ~mask])


def test_the_share_of_the_steps_is_not_rounded_down(embedded):
    """0.58 · 50 is 28.999999999999996 in floating point."""
    blend = LocalBlend(("circle", "star"), begin=0.58)
    blend.start(run(embedded, prompt=PROMPTS[:2], seed=[0, 0], steps=1))
    blend._done = (29, 50)
    x = torch.zeros(2, 4, 16, 16)
    assert blend._blended(x) is x


def test_it_can_be_written_and_what_it_found_can_be_saved(embedded, reopened):
    blend = LocalBlend(["circle", ["star"]], grids=[16, (8, 8)])
    again = sdprobe.from_config(json.loads(json.dumps(sdprobe.to_config(blend))))
    own = {"prompt": PROMPTS[:2], "seed": [0, 0]}
    found = run(embedded, blend, **own)
    assert same_run(found, run(embedded, again, **own))
    assert torch.equal(reopened(found)[LocalBlend].masks, found[blend].masks)


def test_errors(embedded):
    own = {"prompt": PROMPTS[:2], "seed": [0, 0]}
    with pytest.raises(ValueError, match=r"this run has one prompt: give both"):
        run(embedded, LocalBlend("circle"))
    with pytest.raises(WordNotInPrompt, match=r"'circle' is not in the prompt .*given as a pair.*this is the edit"):
        run(embedded, LocalBlend("circle"), **own)
    with pytest.raises(WordNotInPrompt, match="this is the source"):
        run(embedded, LocalBlend(("star", "circle")), **own)
    with pytest.raises(ValueError, match="there is no prompt 2 in this run of 2"):
        run(embedded, LocalBlend("square", source=2), **own)
    with pytest.raises(ValueError, match="targets are the prompts other than the source"):
        run(embedded, LocalBlend("square", targets=[0]), **own)
    with pytest.raises(ValueError, match=r"no site can have a grid of \[\(3, 3\)\]"):
        run(embedded, LocalBlend("square", grids=[3]), **own)
    for wrong in ({"threshold": 2.0}, {"begin": -0.1}):
        with pytest.raises(ValueError, match="is from 0 to 1"):
            LocalBlend("square", **wrong)
    with pytest.raises(ValueError, match="words are one word or phrase, or a pair"):
        LocalBlend(["a", "b", "c"])
