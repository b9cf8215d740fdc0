"""Which prompts an attached pipeline reads, and which words stand where."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from tests.families import flux, pixart, stable_diffusion_3, stable_diffusion_xl
from tests.laws.strategies import affine, same_run, same_values, seen
from tests.stock_pipelines import SMALL, Stock, attached, called, flux_guided, text_to_image


@pytest.fixture(scope="module")
def stock() -> Stock:
    return text_to_image()


def test_embeddings_given_pass_like_a_text_but_their_words_are_not_known(stock):
    positive, negative = stock.pipe.encode_prompt("a red circle", "cpu", 1, True, "a star")
    maps, watch = sdprobe.AttentionMaps(), seen("prompt_embeds")
    asked = {"prompt_embeds": positive, "negative_prompt_embeds": negative}
    run = attached(stock, maps, watch, prompt=None, **asked)
    expected = attached(stock, maps, watch, negative_prompt="a star")
    assert same_run(run, expected)
    assert same_values(run[watch].values, expected[watch].values)
    assert torch.equal(run[maps].heat_map(3).values, expected[maps].heat_map("circle").values)
    for ask in (lambda: run[maps].heat_map("circle"), lambda: run.prompts[0].words["circle"], run[maps].heat_maps):
        with pytest.raises(sdprobe.WordNotInPrompt, match="given prompt_embeds instead of a text"):
            ask()
    twice = attached(stock, affine("prompt_embeds", 2.0, 0.0), prompt=None, **asked)
    assert same_run(twice, attached(stock, prompt=None, **{name: 2 * x for name, x in asked.items()}))
    with pytest.raises(sdprobe.WordNotInPrompt, match="given prompt_embeds"):
        attached(stock, sdprobe.ReplaceToken("circle", with_="square"), prompt=None, **asked)


# Texts of their own for further encoders.


def small(pipe):
    pipe.set_progress_bar_config(disable=True)
    return Stock(pipe, SMALL)


def places(prompt, word):
    return {position for positions in prompt.occurrences(word) for position in positions}


@pytest.mark.parametrize("make", [stable_diffusion_xl, stable_diffusion_3, flux])
def test_each_encoder_reads_the_text_that_it_is_given(make):
    stock, tokens = small(make()), seen("token_embeds")
    texts = {"prompt": "a red circle", "prompt_2": "a green ring", "prompt_3": "a star of blue"}
    if make is not stable_diffusion_3:
        texts.pop("prompt_3")
    asked = {**texts, "num_inference_steps": 2}
    expected = called(stock, **asked)
    maps = sdprobe.AttentionMaps()
    run = attached(stock, maps, tokens, sdprobe.ScalePrompt(1.0), output_type="pt", **asked)
    with sdprobe.attach(stock.pipe, [tokens, sdprobe.ScalePrompt(1.0)]):
        assert torch.equal(called(stock, **asked), expected)
    assert torch.equal(called(stock, **asked), expected)

    class Reads(sdprobe.Observer):
        def start(self, run):
            self.texts = {}

        def token_embeds(self, x, text):
            if text.role == "cond":
                (self.texts[text.encoder],) = (prompt.text for prompt in text.prompts)

    reads = Reads()
    found = attached(stock, reads, **asked)[reads].texts
    assert list(found.values()) == list(texts.values())
    prompt = run.prompts[0]
    shown = {"a red circle", "a green ring"} if make is stable_diffusion_xl else set(texts.values())
    shown -= {"a red circle"} if make is flux else set()
    for text, word in (("a red circle", "circle"), ("a green ring", "ring"), ("a star of blue", "star")):
        if text in shown:
            values = run[maps].heat_map(word).values
            assert torch.equal(values, run[maps].heat_map(prompt.positions(word)[0]).values)
        else:
            with pytest.raises(sdprobe.WordNotInPrompt, match=f"{word!r} is not in the prompt"):
                run[maps].heat_map(word)


def test_words_of_texts_that_share_places_stand_at_the_places_of_either():
    xl, sd3 = (
        attached(small(make()), "latents", prompt="a red circle", num_inference_steps=1, **texts).prompts[0]
        for make, texts in (
            (stable_diffusion_xl, {"prompt_2": "ring of green"}),
            (stable_diffusion_3, {"prompt_2": "ring of green", "prompt_3": "a circle of green"}),
        )
    )
    clip = stable_diffusion_xl().tokenizer
    first, second = (clip(text).input_ids for text in ("a red circle", "ring of green"))
    ring = clip.convert_tokens_to_ids("ring</w>")
    assert places(xl, "circle") == {len(first) - 2}
    assert places(xl, "ring") == {second.index(ring)} == {1}
    assert places(xl, "ring of green") == set(range(1, len(second) - 1))
    assert places(sd3, "ring") == {1}
    t5 = sd3.of("text_encoder_3")
    assert places(sd3, "circle") == {len(first) - 2, t5.start + 1}
    assert places(sd3, "green") - set(t5) == places(xl, "green")
    assert places(sd3, "green") & set(t5)
    assert not places(sd3, "red") & set(t5)
    assert list(xl.words) == ["a", "red", "circle", "ring", "of", "green"]
    with pytest.raises(sdprobe.WordNotInPrompt, match=r"is not in the prompt 'a red circle \| ring of green'"):
        xl.positions("hexagon")


def test_negative_prompts_have_texts_of_their_own_too():
    stock, maps = flux_guided(), sdprobe.AttentionMaps(rows="uncond")
    run = attached(stock, maps, negative_prompt_2="a green ring")
    assert run[maps].heat_map("ring").values.shape == (4, 4)
    with pytest.raises(sdprobe.WordNotInPrompt, match="'star' is not in the prompt 'a green ring'"):
        run[maps].heat_map("star")


# How many tokens are read.


@pytest.mark.parametrize("make", [flux, stable_diffusion_3, pixart])
def test_words_past_the_tokens_that_a_call_asks_for_are_not_read(make):
    long, maps = "a red circle " + "and then a " * 12 + "star", sdprobe.AttentionMaps()
    stock = small(make())
    asked = {"num_inference_steps": 2, "max_sequence_length": 32}
    if make is pixart:
        asked["use_resolution_binning"] = False
    expected = called(stock, long, **asked)
    with sdprobe.attach(stock.pipe, [maps, sdprobe.ScalePrompt(1.0)]) as run:
        assert torch.equal(called(stock, long, **asked), expected)
    with pytest.raises(sdprobe.WordNotInPrompt, match="'star' lies past"):
        run[maps].heat_map("star")
    assert "circle" in run[maps].heat_maps()
    assert "star" in run.prompts[0].cut
    columns = {total.shape[-1] for total in run[maps].sums.values()}
    assert columns == {len(run.prompts[0].ids)}


@pytest.mark.parametrize(("make", "usual"), [(stable_diffusion_3, 256), (pixart, 120)])
def test_words_past_the_usual_number_of_tokens_are_read_where_a_call_asks_for_more(make, usual):
    stock, maps = small(make()), sdprobe.AttentionMaps()
    long = "a red circle " + "and then a " * (40 if usual == 256 else 20) + "star"
    asked = {"num_inference_steps": 2, "max_sequence_length": 2 * usual}
    if make is pixart:
        asked["use_resolution_binning"] = False
    run = attached(stock, maps, prompt=long, **asked)
    (position,) = run.prompts[0].positions("star")
    tokenizer = stock.pipe.tokenizer_3 if make is stable_diffusion_3 else stock.pipe.tokenizer
    start = 16 if make is stable_diffusion_3 else 0
    ids = tokenizer(long).input_ids
    assert position == start + len(ids) - 2 > start + usual  # behind it stands the end
    assert run.prompts[0].tokens[position] == "▁star"
    assert torch.equal(run[maps].heat_map("star").values, run[maps].heat_map(position).values)
    asked.pop("max_sequence_length")
    short = attached(stock, maps, prompt=long, **asked)
    with pytest.raises(sdprobe.WordNotInPrompt, match="'star' lies past"):
        short[maps].heat_map("star")
