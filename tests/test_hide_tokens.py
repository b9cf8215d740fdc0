"""`HideTokens`: the softmax over the keys that are left, written out; and what is hidden cannot matter."""

from __future__ import annotations

import json

import pytest
import torch

import sdprobe
from sdprobe import HeatMap, HideTokens, RandomizeToken, WordNotInPrompt, on, only
from sdprobe.core import registry
from sdprobe.testing.flat_records import same_run
from sdprobe.transform.attention_edits.share_of_places import ShareOfPlaces
from tests.families import FAMILIES, pixart
from tests.laws.strategies import run

TWO = ["a red circle", "a blue star left of a red ring"]
JOINT = ("Stable Diffusion 3.5", "Flux.1 dev")


def left_half(size=16):
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[:, : size // 2] = True
    return mask


def by_hand(positions, places=None, heads=None):
    """The probabilities written out: of the hidden keys 0, the others divided by what is left of their sum."""

    def attention(attn, site):
        probs = attn.probs().clone()
        for k, row in enumerate(attn.rows):
            if row.role != "cond":
                continue
            for query in range(*site.image.indices(attn.query.shape[2])):
                at = query - range(attn.query.shape[2])[site.image].start
                if places is not None and not places(site).flatten()[at]:
                    continue
                for head in range(site.heads) if heads is None else heads:
                    probs[k, head, query, site.tokens(positions(row.prompt))] = 0
        return attn.with_probs(probs / probs.sum(-1, keepdim=True))

    return on("attention", attention, kinds=("cross", "joint"))


def assert_alike(a, b):
    assert (a.latents - b.latents).abs().max() < 1e-5 * b.latents.abs().max()


def red_and_pad(prompt):
    return (*prompt.positions("red"), *prompt.positions("<pad>"))


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "Stable Diffusion XL", *JOINT])
def test_it_is_the_softmax_over_the_keys_that_are_left(family):
    model = sdprobe.load(FAMILIES[family]())
    own = {"prompt": TWO, "seed": [0, 1], "width": 16, "height": 16}
    hidden = run(model, HideTokens(["red", "<pad>"]), **own)
    assert_alike(hidden, run(model, by_hand(red_and_pad), **own))
    assert not torch.allclose(hidden.latents, run(model, **own).latents, atol=1e-5)


def test_a_word_is_hidden_in_the_tokens_of_every_encoder():
    model = sdprobe.load(FAMILIES["Stable Diffusion 3.5"]())
    prompt = model.read("a red circle")
    positions = prompt.positions("red")
    assert all({*positions} & {*prompt.of(name)} for name in ("text_encoder", "text_encoder_3"))
    named, numbered = (run(model, HideTokens(words), width=16, height=16) for words in ("red", positions))
    assert same_run(named, numbered)


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "Flux.1 dev"])
def test_places(family):
    model = sdprobe.load(FAMILIES[family]())
    own = {"width": 16, "height": 16}

    def left(site):
        found = torch.zeros(site.grid, dtype=torch.bool)
        found[:, : site.grid[1] // 2] = True
        return found

    # The tiny model's last grid is one place, which no half of the picture covers by more than half of it.
    wide = "*" if family.startswith("Flux") else ("down_blocks*", "up_blocks*")
    hook = HideTokens("red", places=left_half(), modules=wide)
    expected = only(by_hand(lambda prompt: prompt.positions("red"), places=left), sites=hook.modules)
    assert_alike(run(model, hook, **own), run(model, expected, **own))
    everywhere = HideTokens("red", places=torch.ones(4, 4, dtype=torch.bool))
    assert same_run(run(model, everywhere, **own), run(model, HideTokens("red"), **own))


def test_masks_of_each_image(embedded):
    masks = torch.stack([left_half(), ~left_half()])
    both = run(embedded, HideTokens("red", places=masks), prompt=TWO, seed=[0, 1])
    for k, text in enumerate(TWO):
        alone = run(embedded, HideTokens("red", places=masks[k]), prompt=text, seed=k)
        assert torch.allclose(both.latents[k], alone.latents[0], atol=1e-4)


def test_heads(embedded):
    hook, every = HideTokens("red", heads=[0, 2]), HideTokens("red", heads=range(4))
    assert_alike(run(embedded, hook), run(embedded, by_hand(lambda prompt: prompt.positions("red"), heads=[0, 2])))
    assert same_run(run(embedded, every), run(embedded, HideTokens("red")))
    with pytest.raises(ValueError, match="none of its sites has a head 7; they have up to 4"):
        run(embedded, HideTokens("red", heads=[7]))


def test_the_tokens_of_a_prompt_that_lacks_the_word_stay(embedded):
    both = run(embedded, HideTokens("blue"), prompt=TWO, seed=[0, 1])
    plain = run(embedded, prompt=TWO, seed=[0, 1])
    assert torch.equal(both.latents[0], plain.latents[0])
    assert not torch.equal(both.latents[1], plain.latents[1])


def test_the_rows_of_the_negative_prompt(embedded):
    own = {"negative_prompt": "a blue star"}
    seen = run(embedded, HideTokens("blue", role="uncond"), **own)
    assert not torch.equal(seen.latents, run(embedded, **own).latents)
    with pytest.raises(ValueError, match="no rows of role 'uncond'; its roles: cond"):
        run(embedded, HideTokens("blue", role="uncond"), guidance_scale=1.0)


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "Stable Diffusion XL", "PixArt-Σ"])
def test_nothing_depends_on_the_embedding_of_a_hidden_token(family):
    """In cross-attention: after the text encoder, the hidden token may be anything."""
    model = sdprobe.load(FAMILIES[family]())

    def other(x, text):
        changed = x.clone()
        if text.role == "cond":
            changed[:, text.prompts[0].positions("red")[0]] *= -3
        return changed

    own = {"width": 16, "height": 16}
    seen, unseen = (run(model, on("prompt_embeds", other), *hooks, **own) for hooks in ([], [HideTokens("red")]))
    assert torch.equal(unseen.latents, run(model, HideTokens("red"), **own).latents)
    assert not torch.equal(seen.latents, run(model, **own).latents)


def test_what_the_text_encoder_moved_to_other_tokens_is_still_seen(embedded):
    random = [run(embedded, RandomizeToken("red", seed=seed), HideTokens("red")).latents for seed in (1, 2)]
    assert not torch.equal(*random)


def test_shares_nest_and_count():
    order = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    for grid in ((32, 32), (16, 16), (8, 8), (4, 4)):
        before = torch.zeros(grid, dtype=torch.bool)
        for share in (0.0, 0.05, 0.1, 0.4, 0.7, 1.0):
            chosen = ShareOfPlaces.of(order, share).at(grid)
            assert chosen.sum() == round(share * grid[0] * grid[1])
            assert (chosen | before).equal(chosen)
            before = chosen
    highest = ShareOfPlaces.of(order, 1 / 16).at((4, 4))
    assert torch.nn.functional.avg_pool2d(order[None], 4)[0].argmax() == highest.flatten().int().argmax()
    assert ShareOfPlaces.of(torch.zeros(4, 4), 0.25).at((4, 4))[0].all()  # ties: the first


def test_an_order_over_a_video_chooses_among_all_frames():
    """Of 9 frames, the latents have 3: 1 + 4 + 4."""
    order = torch.rand(3, 8, 16, generator=torch.Generator().manual_seed(0))
    order[2] += 1
    found = ShareOfPlaces.of(order, 0.4).at((3, 8, 16))
    assert found.sum() == round(0.4 * 3 * 8 * 16)
    assert found[2].all()
    assert order[found].min() >= order[~found].max()
    coarse = ShareOfPlaces.of(order, 0.4).at((3, 4, 8))
    averaged = torch.nn.functional.avg_pool2d(order[:, None], 2)[:, 0]
    assert averaged[coarse].min() >= averaged[~coarse].max()
    every = order[[0, 1, 1, 1, 1, 2, 2, 2, 2]] + torch.tensor([0, 3, -3, 1, -1, 2, -2, 0, 0]).view(9, 1, 1)
    assert torch.equal(ShareOfPlaces.of(every, 0.4).at((3, 8, 16)), found)
    with pytest.raises(ValueError, match="the order has 2 frames: give as many as the places of the picture have, 3"):
        ShareOfPlaces.of(order[:2], 0.4).at((3, 8, 16))


def test_a_share_of_an_order_is_a_mask_of_it(embedded):
    order = left_half().float()
    share, mask = (
        run(embedded, own) for own in (HideTokens("red", order=order, share=0.5), HideTokens("red", places=left_half()))
    )
    assert same_run(share, mask)
    nowhere, everywhere = (run(embedded, HideTokens("red", order=order, share=share)) for share in (0, 1))
    assert same_run(nowhere, run(embedded))
    assert same_run(everywhere, run(embedded, HideTokens("red")))


def test_limits(embedded):
    assert same_run(run(embedded, only(HideTokens("red"), steps=range(2))), run(embedded, HideTokens("red")))
    by_sites = run(embedded, only(HideTokens("red"), sites="up_blocks*"))
    assert same_run(by_sites, run(embedded, HideTokens("red", modules="up_blocks*")))
    both = run(embedded, only(HideTokens("red"), rows=[1]), prompt=TWO, seed=[0, 1])
    assert torch.equal(both.latents[0], run(embedded, prompt=TWO, seed=[0, 1]).latents[0])


def test_hiding_twice_is_hiding_both(embedded):
    apart = run(embedded, HideTokens("red"), HideTokens("circle"))
    assert_alike(apart, run(embedded, HideTokens(["red", "circle"])))


@pytest.mark.skipif("hide-tokens" not in registry.names(), reason="this installation is older than the hook")
def test_it_can_be_written_to_a_file(embedded):
    order = torch.rand(8, 8)
    for hook in (
        HideTokens(["red", 3]),
        HideTokens("red", places=left_half(4)),
        HideTokens("red", heads=(0, 1)),
        HideTokens("red", order=order, share=0.3),
    ):
        again = sdprobe.from_config(json.loads(json.dumps(sdprobe.to_config(hook))))
        assert same_run(run(embedded, hook), run(embedded, again))


def test_in_joint_attention_the_whole_text_can_be_hidden():
    model = sdprobe.load(FAMILIES["Flux.1 dev"]())
    every = range(len(model.read("a red circle").ids))
    hidden = run(model, HideTokens(every), width=16, height=16)
    other = run(model, HideTokens(every), width=16, height=16, prompt="a blue star")
    plain = run(model, width=16, height=16)
    assert hidden.latents.isfinite().all()
    assert not torch.equal(hidden.latents, plain.latents)
    assert not torch.equal(hidden.latents, other.latents)  # there is still the vector of the whole prompt


def test_errors(embedded):
    every = ["<start>", "a", "red", "circle", "<end>", "<pad>"]
    with pytest.raises(ValueError, match=r"hides every token of the prompt 'a red circle' that .*attn2 can look at"):
        run(embedded, HideTokens(every))
    with pytest.raises(ValueError, match="hides every token of the prompt 'a red circle'"):  # it masks padding itself
        run(sdprobe.load(pixart()), HideTokens(["a", "red", "circle", "<end>"]), width=16, height=16)
    with pytest.raises(WordNotInPrompt, match="its words are 'a', 'red', 'circle'"):
        run(embedded, HideTokens(["red", "blue"]))
    with pytest.raises(ValueError, match="token 99 is outside"):
        run(embedded, HideTokens(99))
    speck = torch.zeros(16, 16, dtype=torch.bool)
    speck[0, 0] = True
    with pytest.raises(ValueError, match="covers no place"):
        run(embedded, HideTokens("red", places=speck))
    with pytest.raises(ValueError, match=r"the order has 3 frames, and the places of .* are those of an image"):
        run(embedded, HideTokens("red", order=torch.rand(3, 4, 4), share=0.5))
    with pytest.raises(ValueError, match="the order is 2×3"):
        run(embedded, HideTokens("red", order=torch.rand(2, 3), share=0.5))


@pytest.mark.parametrize(
    ("error", "words", "arguments"),
    [
        ("there are no words", [], {}),
        ("a word is a text", [0.5], {}),
        ("give one of them", "red", {"places": left_half(), "order": torch.rand(4, 4), "share": 0.1}),
        ("go together", "red", {"order": torch.rand(4, 4)}),
        ("go together", "red", {"share": 0.5}),
        ("from 0 to 1", "red", {"order": torch.rand(4, 4), "share": 1.5}),
        ("a number for each place", "red", {"order": HeatMap(torch.rand(4, 4)), "share": 0.5}),
        ("a finite number", "red", {"order": torch.full((4, 4), torch.nan), "share": 0.5}),
        (r"\[frames, h, w\] of a video, not \[1, 1, 4, 4\]", "red", {"order": torch.rand(1, 1, 4, 4), "share": 0.5}),
        ("mask of booleans", "red", {"places": torch.rand(4, 4)}),
        ("whole numbers", "red", {"heads": 0}),
        ("no role", "red", {"role": "other"}),
    ],
)
def test_what_is_refused_before_a_run(error, words, arguments):
    with pytest.raises((ValueError, TypeError), match=error):
        HideTokens(words, **arguments)
