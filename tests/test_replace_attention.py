"""`ReplaceAttention`: the plain algorithm, written out; rows by their labels; a source in the batch or in a record."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe import AttentionRecorder, RefineAttention, ReplaceAttention, only
from sdprobe.core.activations.record import ActivationRecord
from tests.families import FAMILIES
from tests.grid import attached
from tests.laws.strategies import run, same_run

FAMILY = ["Stable Diffusion 1", "Stable Diffusion XL", "Stable Diffusion 3.5", "Flux.1 dev", "PixArt-Σ"]
RED, BLUE, CHECKERED = "a red circle", "a blue circle", "a checkered circle"
SMALL = {"height": 16, "width": 24, "seed": 0}


def softmax(attn):
    """All probabilities of a call, from its query and key."""
    scores = attn.scale * attn.query.float() @ attn.key.float().mT
    if attn.mask is not None:
        scores = scores.masked_fill(~attn.mask, -torch.inf) if attn.mask.dtype == torch.bool else scores + attn.mask
    return scores.softmax(-1)


class Plain(sdprobe.Transform):
    """For every place and every token of every edit: the sum of what goes to it of the source's tokens.

    ``shares[number of the prompt]`` are pairs of token positions in the source and the edit, and the share.
    """

    kinds = ("cross", "joint")

    def __init__(self, shares, images=1):
        self.shares, self.images = shares, images

    def attention(self, attn, site):
        if site.text is None:
            return attn
        probs = softmax(attn)
        new = probs.clone()
        places = range(attn.query.shape[2])[site.image]
        first = range(attn.key.shape[2])[site.text].start
        rows = {row.image: k for k, row in enumerate(attn.rows) if row.role == "cond"}
        for number, shares in self.shares.items():
            for image in range(self.images):
                edit, source = rows[number * self.images + image], rows[image]
                for place in places:
                    new[edit, :, place, first : first + len(site.tokens())] = 0
                    for own, other, share in shares:
                        new[edit, :, place, first + other] += share * probs[source, :, place, first + own]
        return attn.with_probs(new)


def swapped(model, source, target, word, other):
    """The shares of one word in the place of another, counted out, in each part of the token axis."""
    a, b = model.read(source), model.read(target)
    shares = []
    for part, part_b in {(a.of(name), b.of(name)) for name in model.text_encoders if name in a.parts}:
        own = [i for i in a.positions(word) if i in part]
        new = [i for i in b.positions(other) if i in part_b]
        grown = len(new) - len(own)
        for i in part:
            if i in own and len(own) == len(new):
                shares.append((i, new[own.index(i)], 1.0))
            elif i in own:
                shares += [(i, k, 1 / len(new)) for k in new]
            elif i < own[0]:
                shares.append((i, i - part.start + part_b.start, 1.0))
            else:  # what falls off the end stays at the last place
                shares.append((i, min(i + grown, part_b.stop - 1), 1.0))
    return shares


def assert_alike(a, b, tolerance=2e-5):
    assert (a.latents - b.latents).abs().max() < tolerance * b.latents.abs().max()


@pytest.mark.parametrize(("family", "guidance"), [("Stable Diffusion 1", 1.0), *((family, 3.0) for family in FAMILY)])
def test_it_is_the_plain_algorithm(family, guidance):
    """Also for words of other numbers of tokens, for several edits at once, and where the picture is no square."""
    model = sdprobe.load(FAMILIES[family]())
    own = {"prompt": [RED, BLUE, CHECKERED], **SMALL, "seed": [0, 0, 0], "guidance_scale": guidance}
    plain = Plain({1: swapped(model, RED, BLUE, "red", "blue"), 2: swapped(model, RED, CHECKERED, "red", "checkered")})
    found = run(model, ReplaceAttention(), **own)
    without = run(model, **own)
    assert_alike(found, run(model, plain, **own))
    assert torch.equal(found.latents[0], without.latents[0])
    assert not torch.allclose(found.latents[1:], without.latents[1:], atol=1e-6)


def test_image_j_of_an_edit_goes_with_image_j_of_the_source(tiny):
    own = {"prompt": [RED, BLUE], "images_per_prompt": 2, "seed": [0, 1, 0, 1]}
    plain = Plain({1: swapped(tiny, RED, BLUE, "red", "blue")}, images=2)
    found = run(tiny, ReplaceAttention(), **own)
    assert_alike(found, run(tiny, plain, **own))
    for j in (0, 1):
        alone = run(tiny, ReplaceAttention(), prompt=[RED, BLUE], seed=[j, j])
        assert torch.allclose(found.latents[2 + j], alone.latents[1], atol=1e-5)


@pytest.mark.parametrize("family", ["Stable Diffusion XL", "Stable Diffusion 3.5"])
def test_in_the_stock_pipeline_it_is_the_same(family):
    model = sdprobe.load(FAMILIES[family]())
    own = {"hooks": ReplaceAttention(), "seed": [0, 0], "guidance_scale": 3.0, "steps": 2, "height": 16, "width": 24}
    sampled = sdprobe.sample(model, [RED, BLUE], progress=False, **own)
    assert same_run(attached(model, [RED, BLUE], **own), sampled)


def test_the_source_is_any_prompt_and_targets_say_what_is_edited(tiny):
    own = {"prompt": [BLUE, RED, CHECKERED], "seed": [0, 0, 0]}
    without = run(tiny, **own)
    found = run(tiny, ReplaceAttention(1, targets=2), **own)
    assert torch.equal(found.latents[:2], without.latents[:2])
    both = run(tiny, ReplaceAttention(1), **own)
    assert torch.equal(both.latents[2], found.latents[2])
    assert not torch.equal(both.latents[0], without.latents[0])


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "Stable Diffusion 3.5"])
def test_the_source_itself_as_an_edit_stays_the_source(family):
    """Up to rounding: the edit's output is probabilities times values, the source's that of torch's kernel."""
    model = sdprobe.load(FAMILIES[family]())
    for hook in (ReplaceAttention(), RefineAttention()):
        found = run(model, hook, prompt=[RED, RED], **SMALL | {"seed": [0, 0]})
        assert torch.allclose(found.latents[0], found.latents[1], atol=1e-4)


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "Flux.1 dev"])
def test_a_record_is_as_good_as_the_batch(family, tmp_path, reopened):
    """Up to rounding, as the batches are of different sizes; from everywhere that a record lies, bit for bit."""
    model = sdprobe.load(FAMILIES[family]())
    recorder, written = AttentionRecorder(), AttentionRecorder(to=tmp_path / "record")
    source = run(model, recorder, written, prompt=RED, **SMALL)
    both = run(model, ReplaceAttention(), prompt=[RED, CHECKERED], **SMALL | {"seed": [0, 0]})
    opened = reopened(run(model, AttentionRecorder(), prompt=RED, **SMALL))
    given = [
        opened,
        source[recorder],
        source[recorder].record,
        tmp_path / "record",
        ActivationRecord.open(tmp_path / "record"),
    ]
    edits = [run(model, ReplaceAttention(own), prompt=CHECKERED, **SMALL) for own in given]
    assert torch.allclose(edits[0].latents[0], both.latents[1], atol=1e-4)
    assert all(same_run(own, edits[0]) for own in edits)


def test_records_of_one_image_and_of_several(tiny):
    several = run(tiny, recorder := AttentionRecorder(), prompt=[RED, BLUE], seed=[0, 1])
    own = {"prompt": ["a red star", "a blue star"], "seed": [0, 1]}
    found = run(tiny, ReplaceAttention(several), **own)
    for k, text in enumerate([RED, BLUE]):
        alone = run(tiny, AttentionRecorder(), prompt=text, seed=k)
        edit = run(tiny, ReplaceAttention(alone), prompt=own["prompt"][k], seed=k)
        assert torch.allclose(found.latents[k], edit.latents[0], atol=1e-5)
    one = run(tiny, ReplaceAttention(alone), prompt=["a blue star", "a blue ring"], seed=[0, 1])
    assert not same_run(one, run(tiny, prompt=["a blue star", "a blue ring"], seed=[0, 1]))
    with pytest.raises(ValueError, match=r"the record has no attention of image 2.*images \[0, 1\]"):
        run(tiny, ReplaceAttention(several[recorder]), prompt=[RED, BLUE, RED])
    with pytest.raises(ValueError, match="the record must be of pictures of this size"):
        run(tiny, ReplaceAttention(alone), prompt="a blue star", height=24)
    with pytest.raises(ValueError, match="the record is of a run with steps=2, and this run has steps=3"):
        run(tiny, ReplaceAttention(alone), prompt="a blue star", steps=3)
    other = "EulerDiscreteScheduler"
    with pytest.raises(ValueError, match=f"and this run has scheduler='{other}'"):
        run(tiny, ReplaceAttention(alone), prompt="a blue star", scheduler=other)
    first = run(tiny, only(AttentionRecorder(), steps=[0]), prompt=text)
    with pytest.raises(KeyError, match="step 1 was not recorded"):
        run(tiny, ReplaceAttention(first), prompt="a blue star")


def test_steps(tiny):
    own = {"prompt": [RED, BLUE], "seed": [0, 0], "steps": 4}
    half = run(tiny, ReplaceAttention(until=0.5), **own)
    assert same_run(half, run(tiny, only(ReplaceAttention(), steps=range(2)), **own))
    assert same_run(run(tiny, ReplaceAttention(until=0), **own), run(tiny, **own))
    assert not same_run(half, run(tiny, ReplaceAttention(), **own))


def test_limited_to_rows_the_source_must_be_among_them(tiny):
    own = {"prompt": [RED, BLUE, CHECKERED], "seed": [0, 0, 0]}
    found = run(tiny, only(ReplaceAttention(), rows=[0, 2]), **own)
    expected = run(tiny, ReplaceAttention(targets=[2]), **own)
    assert torch.allclose(found.latents, expected.latents, atol=1e-6)
    with pytest.raises(ValueError, match="takes the attention of image 0 for image 2, and is limited to rows without"):
        run(tiny, only(ReplaceAttention(), rows=[2]), **own)
    with pytest.raises(ValueError, match="whose row of the prompt is not among"):
        run(tiny, only(ReplaceAttention(), rows=lambda row: row.image == 2 or row.role == "uncond"), **own)
    with pytest.raises(ValueError, match="would never act"):
        run(tiny, only(ReplaceAttention(), rows=[0]), **own)


class Again(sdprobe.Transform):
    """The prediction of a further call in the place of the step's own."""

    def noise_pred(self, x, step):
        return step.predict(step.latents, role="cond")


def test_further_calls(tiny):
    """The rows of the prompt alone have the source's among them; a record holds the loop's own calls."""
    own = {"prompt": [RED, BLUE], "seed": [0, 0]}
    once = run(tiny, ReplaceAttention(), **own, guidance_scale=1.0)
    assert torch.allclose(run(tiny, ReplaceAttention(), Again(), **own).latents, once.latents, atol=1e-5)
    record = run(tiny, AttentionRecorder(), prompt=RED)
    assert same_run(*(run(tiny, *hooks, Again(), prompt=BLUE) for hooks in ([ReplaceAttention(record)], [])))


def test_what_is_refused(tiny):
    with pytest.raises(ValueError, match="needs a source: give two prompts"):
        run(tiny, ReplaceAttention())
    with pytest.raises(ValueError, match=r"has 'large' in addition to 'a red circle'.*use RefineAttention"):
        run(tiny, ReplaceAttention(), prompt=[RED, "a large red circle"])
    with pytest.raises(ValueError, match=r"lacks 'red' of 'a red circle'.*use RefineAttention"):
        run(tiny, ReplaceAttention(run(tiny, AttentionRecorder())), prompt="a circle")
    with pytest.raises(ValueError, match="no prompt 2; its prompts are 0 to 1"):
        run(tiny, ReplaceAttention(2), prompt=[RED, BLUE])
    with pytest.raises(ValueError, match="until is the share"):
        ReplaceAttention(until=20)
    with pytest.raises(ValueError, match="other than the source"):
        ReplaceAttention(targets=[0, 1])
    with pytest.raises(ValueError, match=r"no records of attention: make it with hooks=\[AttentionRecorder"):
        run(tiny, ReplaceAttention(run(tiny, sdprobe.Activations("conv_in"))))
    with pytest.raises(TypeError, match="attention comes from a Run with an AttentionRecorder hook"):
        run(tiny, ReplaceAttention(torch.ones(2)))


def test_in_half_precision():
    pipe = FAMILIES["Stable Diffusion 1"]()
    model = sdprobe.load(pipe.to(torch.bfloat16))
    own = {"prompt": [RED, BLUE], "seed": [0, 0]}
    found = run(model, ReplaceAttention(), **own)
    assert found.latents.dtype == torch.bfloat16
    assert not same_run(found, run(model, **own))


def test_after_another_hook_the_source_is_what_it_made_of_it(embedded):
    """Hidden in the source, the word is hidden in the edit: the swapped word has its attention."""
    own, hide = {"prompt": [RED, BLUE], "seed": [0, 0]}, only(sdprobe.HideTokens("red"), rows=[0])
    maps = sdprobe.AttentionMaps(rows="cond")
    found = run(embedded, hide, ReplaceAttention(), maps, **own)
    assert found[maps].heat_map("blue", image=1).values.max() == 0
