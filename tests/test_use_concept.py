"""`UseConcept`: what diffusers' `load_textual_inversion` gives, for one run, with nothing left behind."""

from __future__ import annotations

import copy
import json
import re
from functools import cache

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

import sdprobe
from sdprobe.core.concept import Concept
from sdprobe.model.text.added_tokens import add_to_tokenizers
from sdprobe.testing import footprint
from sdprobe.transform.use_concept import UseConcept
from tests.families import flux, pixart
from tests.laws.strategies import CALLED, affine, points, run, same_run, same_values, seen
from tests.laws.test_cleanup import Deliberate, raising
from tests.tiny import stable_diffusion, tokenizer

TOKEN = "<my-style>"
WIDTH = 16


def numbers(count, width=WIDTH, seed=1, dtype=torch.float32):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


@cache
def concept(count=2, token=TOKEN, **changed):
    return Concept({"text_encoder": numbers(count, **changed)}, token)


@cache
def with_loaded(model, *concepts):
    """A model of its own with the concepts loaded by diffusers."""
    pipe = copy.deepcopy(model.pipe)
    for own in concepts:
        pipe.load_textual_inversion({own.token: own.vectors["text_encoder"]})
    return sdprobe.load(pipe)


def stock(pipe, **settings):
    """Latents and pictures of the stock pipeline."""
    pipe.set_progress_bar_config(disable=True)
    pictures = {}
    for kind in ("latent", "pil"):
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
        pictures[kind] = pipe(
            **settings, generator=torch.Generator("cpu").manual_seed(0), num_inference_steps=2, output_type=kind
        ).images
    return pictures["latent"], [picture.tobytes() for picture in pictures["pil"]]


def tokenizer_of(pipe):
    """Everything a tokenizer is: its whole state, its vocabulary and what was added."""
    own = pipe.tokenizer
    # What a call leaves set (padding, cutting) belongs to that call.
    state = json.loads(own.backend_tokenizer.to_str()) | {"padding": None, "truncation": None}
    return id(own), len(own), state, own.get_vocab(), own.get_added_vocab(), own.added_tokens_encoder


def whole_footprint(pipe):
    table = pipe.text_encoder.get_input_embeddings().weight
    values = (id(table), table.shape, table._version, table.detach().numpy().tobytes())
    return footprint(pipe), tokenizer_of(pipe), values, vars(pipe)["tokenizer"] is pipe.components["tokenizer"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "texts",
    [
        {"prompt": f"a {TOKEN} circle"},
        {"prompt": f"{TOKEN}, a star and {TOKEN}", "negative_prompt": f"a {TOKEN} ring"},
        {"prompt": "a circle", "negative_prompt": TOKEN},
        {"prompt": [f"a {TOKEN}", "a star"], "negative_prompt": ["a ring", f"red {TOKEN}"]},
    ],
)
def test_it_is_what_diffusers_gives(tiny, tmp_path, texts, count, dtype):
    path = concept(count, dtype=dtype).save(tmp_path / "learned.safetensors")
    pipe = copy.deepcopy(tiny.pipe)
    pipe.load_textual_inversion(str(path))
    latents, pictures = stock(pipe, guidance_scale=3.0, **texts)
    ours = run(tiny, UseConcept(path), **texts)
    assert torch.equal(ours.latents, latents)
    assert [picture.tobytes() for picture in ours.images] == pictures


OTHERS = [{"guidance_scale": 1.0}, {"images_per_prompt": 2}, {"scheduler": "EulerDiscrete"}]


@pytest.mark.parametrize("settings", OTHERS)
def test_it_is_what_diffusers_gives_in_other_settings(tiny, settings):
    texts = {"prompt": [f"a {TOKEN}", "a star"]}
    loaded = run(with_loaded(tiny, concept()), **texts, **settings)
    assert same_run(run(tiny, UseConcept(concept()), **texts, **settings), loaded)


@given(counts=st.tuples(st.integers(1, 3), st.integers(1, 3)), swapped=st.booleans())
def test_two_concepts_at_once(tiny, counts, swapped):
    both = [
        concept(count, token, seed=i) for i, (token, count) in enumerate(zip(("<cat>", "<hat>"), counts, strict=True))
    ]
    texts = {"prompt": "a <hat> on a <cat>, <hat>", "negative_prompt": "no <cat>"}
    expected = run(with_loaded(tiny, *both), **texts)
    given = [UseConcept(own) for own in (reversed(both) if swapped else both)]
    ours = run(tiny, *given, **texts)
    assert same_run(ours, expected)
    assert ours.prompts[0].words == expected.prompts[0].words


def test_beside_a_concept_that_the_pipeline_has_loaded(tiny):
    cat, hat = concept(2, "<cat>"), concept(2, "<hat>", seed=2)
    once, twice = with_loaded(tiny, cat), with_loaded(tiny, cat, hat)
    texts = {"prompt": "a <hat> on a <cat>"}
    assert same_run(run(once, UseConcept(hat), **texts), run(twice, **texts))
    with pytest.raises(ValueError, match="has a token '<cat>' already"):
        run(once, UseConcept(cat), **texts)
    with pytest.raises(ValueError, match="has a token '<cat>_1' already"):
        run(once, UseConcept(hat, token="<cat>_1"), **texts)


def test_another_token_than_the_file_names(tiny):
    texts = {"prompt": "a <hat>"}
    ours = run(tiny, UseConcept(concept(2), token="<hat>"), **texts)
    assert same_run(ours, run(with_loaded(tiny, concept(2, "<hat>")), **texts))


def test_its_vectors_are_what_the_other_word_has(tiny):
    """A concept of the vectors of words, is the words."""
    table = tiny.pipe.text_encoder.get_input_embeddings()
    ids = tiny.tokenizer("red star", add_special_tokens=False).input_ids
    of_words = Concept({"text_encoder": table.weight[ids]}, TOKEN)
    assert same_run(run(tiny, UseConcept(of_words), prompt=f"a {TOKEN}"), run(tiny, prompt="a red star"))


@pytest.mark.parametrize("count", [1, 3])
def test_heat_maps_of_the_word_and_of_each_vector(tiny, count):
    maps, words = sdprobe.AttentionMaps(), sdprobe.AttentionMaps(words=[TOKEN])
    prompt = f"a {TOKEN} circle"
    ours = run(tiny, UseConcept(concept(count)), maps, words, prompt=prompt)
    loaded = run(with_loaded(tiny, concept(count)), maps, prompt=prompt)
    positions = ours.prompts[0].positions(TOKEN)
    assert positions == tuple(range(2, 2 + count))
    for word in (TOKEN, "circle", *positions):
        assert torch.equal(ours[maps].heat_map(word).values, loaded[maps].heat_map(word).values)
    merged = ours[maps].heat_map(TOKEN).values
    torch.testing.assert_close(ours[words].heat_map(TOKEN).values, merged)
    each = torch.stack([ours[maps].heat_map(position).values for position in positions])
    torch.testing.assert_close(merged, each.mean(0))
    assert count == 1 or not torch.allclose(each[0], each[1])


def test_other_hooks_find_the_vectors(tiny):
    looked_up, stands, encoded = [], [], []

    class Look(sdprobe.Transform):
        def token_embeds(self, x, text):
            looked_up.append(text.lookup(f"star {TOKEN}"))
            stands.append(x[0, list(text.prompts[0].positions(TOKEN))])
            return x

        def prompt_embeds(self, x, text):
            encoded.append(text.encode([f"a {TOKEN}"]))
            return x

    own = concept(3)
    use, look = UseConcept(own), Look()
    for stack in ((use, look), (look, use)):
        result = run(tiny, *stack, prompt=f"a {TOKEN}", guidance_scale=1.0)
        assert torch.equal(looked_up[-1][1:], own.vectors["text_encoder"])
        assert torch.equal(stands[-1], own.vectors["text_encoder"])
        pipe = with_loaded(tiny, own).pipe
        assert torch.equal(encoded[-1], pipe.encode_prompt([f"a {TOKEN}"], "cpu", 1, False)[0])
        assert same_run(result, run(with_loaded(tiny, own), prompt=f"a {TOKEN}", guidance_scale=1.0))
    swap = sdprobe.ReplaceToken("circle", with_=TOKEN)
    one = UseConcept(concept(1))
    swapped = run(tiny, one, swap, prompt=f"a circle beside {TOKEN}")
    assert same_run(swapped, run(tiny, one, prompt=f"a {TOKEN} beside {TOKEN}"))


@given(count=st.integers(1, 3), point=points, at=st.integers(0, 1))
def test_it_composes_like_any_hook(tiny, count, point, at):
    """Where among the others it stands makes no difference, and they see what they would see of a loaded concept."""
    other, look = affine(point, 0.5, 0.25), seen(point)
    stack = [other, look]
    stack.insert(at, UseConcept(concept(count)))
    ours = run(tiny, *stack, prompt=f"a {TOKEN} star")
    loaded = run(with_loaded(tiny, concept(count)), other, look, prompt=f"a {TOKEN} star")
    assert same_run(ours, loaded)
    assert same_values(ours[look].values, loaded[look].values)


def test_a_second_run_equals_the_first_and_one_without_knows_nothing(tiny):
    use, prompt = UseConcept(concept()), f"a {TOKEN}"
    plain = run(tiny, prompt=prompt)
    first = run(tiny, use, prompt=prompt)
    assert same_run(run(tiny, use, prompt=prompt), first)
    assert same_run(run(tiny, prompt=prompt), plain)
    assert not same_run(first, plain)
    assert run(tiny, prompt=prompt).prompts == plain.prompts


def test_nothing_is_left(tiny):
    before = whole_footprint(tiny.pipe)
    run(tiny, UseConcept(concept(3)), prompt=f"a {TOKEN}", negative_prompt=TOKEN)
    assert whole_footprint(tiny.pipe) == before


@given(
    kind=st.sampled_from([sdprobe.Observer, sdprobe.Transform]),
    method=st.sampled_from(CALLED),
    error=st.sampled_from([Deliberate, KeyboardInterrupt]),
    first=st.booleans(),
)
def test_nothing_is_left_after_an_error(tiny, kind, method, error, first):
    use, bad = UseConcept(concept()), raising(kind, method, error)
    before = whole_footprint(tiny.pipe)
    with pytest.raises(error, match="on purpose"):
        run(tiny, *((bad, use) if first else (use, bad)), prompt=f"a {TOKEN}")
    assert whole_footprint(tiny.pipe) == before


def sdxl():
    """A tiny pipeline with two text encoders; its picture side is never run."""
    torch.manual_seed(1)
    words, small = tokenizer(), stable_diffusion()
    config = small.text_encoder.config.to_dict() | {"hidden_size": 24, "projection_dim": 24}
    second = CLIPTextModelWithProjection(CLIPTextConfig(**config))
    return diffusers.StableDiffusionXLPipeline(
        vae=small.vae,
        text_encoder=small.text_encoder,
        text_encoder_2=second,
        tokenizer=words,
        tokenizer_2=copy.deepcopy(words),
        unet=small.unet,
        scheduler=small.scheduler,
    )


def plain(text, tokenizer):
    return text


@pytest.mark.parametrize("count", [1, 2])
def test_a_pair_for_a_pipeline_of_two_encoders(count):
    pipe = sdxl()
    pair = Concept({"text_encoder": numbers(count), "text_encoder_2": numbers(count, 24)}, TOKEN)
    loaded, ours = copy.deepcopy(pipe), copy.copy(pipe)
    for number, name in (("", "text_encoder"), ("_2", "text_encoder_2")):
        loaded.load_textual_inversion(
            pair.vectors[name],
            token=TOKEN,
            text_encoder=getattr(loaded, name),
            tokenizer=getattr(loaded, f"tokenizer{number}"),
        )
    brought = add_to_tokenizers(ours, {TOKEN: pair}, plain)
    first, second = (brought[name].add_to(getattr(ours, name).get_input_embeddings()) for name in sorted(brought))
    with first, second:
        found = ours.encode_prompt(f"a {TOKEN}", negative_prompt=f"{TOKEN} star", device="cpu")
    expected = loaded.encode_prompt(f"a {TOKEN}", negative_prompt=f"{TOKEN} star", device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert TOKEN not in pipe.tokenizer.get_vocab()
    assert TOKEN not in pipe.tokenizer_2.get_vocab()
    with pytest.raises(ValueError, match=f"'{TOKEN}' was learned for text_encoder; .* text_encoder and text_encoder_2"):
        add_to_tokenizers(copy.copy(pipe), {TOKEN: concept()}, plain)


def test_a_concept_of_another_model(tiny):
    before = whole_footprint(tiny.pipe)
    with pytest.raises(ValueError, match=f"'{TOKEN}' has vectors of width 7, and .* text_encoder have width {WIDTH}"):
        run(tiny, UseConcept(concept(width=7)), prompt=f"a {TOKEN}")
    pair = Concept({"text_encoder": numbers(2), "text_encoder_2": numbers(2)}, TOKEN)
    with pytest.raises(ValueError, match=r"learned for text_encoder and text_encoder_2; this model .* text_encoder$"):
        run(tiny, UseConcept(pair), prompt=f"a {TOKEN}")
    with pytest.raises(ValueError, match=r"learned for text_encoder_2; this model reads prompts by text_encoder$"):
        run(tiny, UseConcept(Concept({"text_encoder_2": numbers(2)}, TOKEN)), prompt=f"a {TOKEN}")
    assert whole_footprint(tiny.pipe) == before


@pytest.mark.parametrize("token", ["circle", "circle</w>", "a", "<|endoftext|>"])
def test_a_token_that_is_there_already(tiny, token):
    with pytest.raises(ValueError, match=r"the tokenizer has a token '.*' already, so '.*' cannot be a concept's"):
        run(tiny, UseConcept(concept(), token=token), prompt=f"a {token} circle")


def test_a_token_that_two_hooks_bring(tiny):
    with pytest.raises(ValueError, match=rf"brings the word '{TOKEN}', which another hook brings too"):
        run(tiny, UseConcept(concept()), UseConcept(concept(seed=2)), prompt=f"a {TOKEN}")
    with pytest.raises(ValueError, match=r"the tokenizer has a token '<a>_1' already"):
        run(tiny, UseConcept(concept(2, "<a>")), UseConcept(concept(1, "<a>_1")), prompt="<a>")
    with pytest.raises(ValueError, match=r"the tokenizer has a token '<a>_1' already"):
        run(tiny, UseConcept(concept(1, "<a>_1")), UseConcept(concept(1, "<a>")), prompt="<a>")


def test_a_token_in_no_prompt(tiny):
    before = whole_footprint(tiny.pipe)
    with pytest.raises(
        sdprobe.WordNotInPrompt, match=f"'{TOKEN}' is not in the prompt 'a star'; its words are 'a', "
    ) as e:
        run(tiny, UseConcept(concept()), prompt="a star")
    assert "UseConcept" in e.value.__notes__[0]
    with pytest.raises(sdprobe.WordNotInPrompt, match=f"'{TOKEN}' lies past the 16 tokens that are read"):
        run(tiny, UseConcept(concept()), prompt="a " * 20 + TOKEN)
    assert whole_footprint(tiny.pipe) == before


CAPITALS = ["<MyStyle>", "MyStyle", "EasyNegative", "UPPER", "Bad_Prompt-v2"]


@pytest.mark.parametrize("token", CAPITALS)
def test_a_name_with_capitals_is_what_diffusers_gives_for_one_vector(tiny, token):
    texts = {"prompt": f"a {token} circle", "negative_prompt": f"{token}, a ring"}
    one = concept(1, token)
    assert same_run(run(tiny, UseConcept(one), **texts), run(with_loaded(tiny, one), **texts))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("written", [str, str.lower, str.upper])
@pytest.mark.parametrize("token", CAPITALS)
def test_a_name_with_capitals_is_a_name_in_small_letters(tiny, token, written, count):
    """And it may be written in either: of several vectors, diffusers would read the first alone."""
    small = concept(count, token.lower())
    texts = {"prompt": "a {0} circle, {0}", "negative_prompt": "a ring of {0}"}
    expected = run(with_loaded(tiny, small), **{side: text.format(token.lower()) for side, text in texts.items()})
    use = UseConcept(concept(count, token))
    ours = run(tiny, use, **{side: text.format(written(token)) for side, text in texts.items()})
    assert same_run(ours, expected)
    assert ours.prompts[0].words == expected.prompts[0].words
    assert len(ours.prompts[0].positions(token)) == 2 * count


@pytest.mark.parametrize("order", [1, -1])
def test_a_name_that_another_begins_with(tiny, order):
    """Diffusers spells out the shorter within the longer."""
    short, long = concept(2, "Easy"), concept(2, "EasyNegative", seed=2)
    ours = run(tiny, *[UseConcept(short), UseConcept(long)][::order], prompt="an EasyNegative of Easy")
    renamed = concept(2, "<x>"), concept(2, "<y>", seed=2)
    assert same_run(ours, run(tiny, *map(UseConcept, renamed), prompt="an <y> of <x>"))


def test_names_that_only_capitals_tell_apart(tiny):
    with pytest.raises(ValueError, match="the tokenizer has a token '<cat>' already"):
        run(tiny, UseConcept(concept(1, "<Cat>")), UseConcept(concept(1, "<cat>", seed=2)), prompt="a <Cat>")


@pytest.mark.parametrize("token", CAPITALS[:2])
@pytest.mark.parametrize("count", [1, 2])
def test_a_name_with_capitals_beside_t5(token, count):
    """T5's tokenizers tell capitals from small letters."""
    model = sdprobe.load(flux())
    vectors = {"text_encoder": numbers(count), "text_encoder_2": numbers(count, 32)}
    ours, small = (UseConcept(Concept(vectors, name)) for name in (token, token.lower()))
    settings = {"height": 16, "width": 16}
    expected = run(model, small, prompt=f"a {token.lower()} circle", **settings)
    for written in (token, token.lower(), token.upper()):
        assert same_run(run(model, ours, prompt=f"a {written} circle", **settings), expected)


@pytest.mark.parametrize("token", CAPITALS[:3])
def test_a_name_with_capitals_where_the_text_is_told_in_small_letters(token):
    model, settings = sdprobe.load(pixart()), {"height": 16, "width": 16}
    vectors = {"text_encoder": numbers(1, 32)}
    plain = run(model, prompt=f"a {token} circle", **settings)
    small = run(model, UseConcept(Concept(vectors, token.lower())), prompt=f"a {token} circle", **settings)
    ours = run(model, UseConcept(Concept(vectors, token)), prompt=f"a {token} circle", **settings)
    assert same_run(ours, small)
    assert not same_run(ours, plain)


def test_a_token_that_the_pipeline_cleans_away():
    pipe = pixart()
    pipe._text_preprocessing = lambda text, clean_caption=False: [re.sub("<.*?>", "", text).lower()]  # as with bs4
    use = UseConcept(Concept({"text_encoder": numbers(1, 32)}, "<My-Style>"))
    with pytest.raises(ValueError, match=r"PixArtAlphaPipeline cleans .* leaves '' of '<My-Style>': .* as 'MyStyle'"):
        run(sdprobe.load(pipe), use, prompt="<My-Style>")


def test_a_token_of_which_only_a_part_would_be_read(tiny):
    prompt = "a " * 13 + TOKEN
    with pytest.raises(ValueError, match=f"of the 2 vectors of '{TOKEN}' only 1 would be read in '{prompt}'"):
        run(tiny, UseConcept(concept(2)), prompt=prompt)
    run(tiny, UseConcept(concept(1)), prompt=prompt)


def test_no_token_at_all():
    with pytest.raises(ValueError, match=r"names no token: UseConcept\(concept, token='<my-style>'\)"):
        UseConcept(concept(token=None))
    for token in ("", " ", " <a>"):
        with pytest.raises(ValueError, match="token is a word such as '<my-style>', not"):
            UseConcept(concept(), token=token)
    with pytest.raises(TypeError, match="a concept is a Concept or a file of one, not Tensor"):
        UseConcept(numbers(2))
    with pytest.raises(FileNotFoundError, match="no concept at nowhere"):
        UseConcept("nowhere", token=TOKEN)


def test_on_the_embedded_model(embedded):
    """Where pictures mean something: the concept of a circle's own vector is a circle."""
    row = embedded.tokenizer("circle", add_special_tokens=False).input_ids
    circle = Concept({"text_encoder": embedded.pipe.text_encoder.get_input_embeddings().weight[row]}, TOKEN)
    assert same_run(run(embedded, UseConcept(circle), prompt=f"a red {TOKEN}"), run(embedded, prompt="a red circle"))


def test_several_vectors_need_a_pipeline_that_spells_them_out():
    model = sdprobe.load(pixart())
    table = model.pipe.text_encoder.get_input_embeddings().weight
    run(model, UseConcept(Concept({"text_encoder": table[4:5].detach()}, "<new>")), prompt="a <new> star")
    with pytest.raises(ValueError, match=r"2 vectors, and diffusers knows no textual inversion for PixArtAlpha"):
        run(model, UseConcept(Concept({"text_encoder": table[4:6].detach()}, "<new>")), prompt="a <new> star")
