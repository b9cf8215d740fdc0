"""Prompts beyond CLIP's context: in chunks, each encoded by itself, with the positions of the whole prompt."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe import AttentionMaps, HideTokens, ReplaceToken
from tests.families import flux, pixart, stable_diffusion_3, stable_diffusion_xl
from tests.laws.strategies import run
from tests.planted import latents_for, square
from tests.planted_families import Marked, planted
from tests.tiny import TOKENS, stable_diffusion

LONG = "a red circle left of a blue square and a green ring above a yellow checkered star"  # 18 tokens, of which 14 fit
LENGTH = 2 * TOKENS
FAMILIES = {"StableDiffusion": stable_diffusion, "StableDiffusionXL": stable_diffusion_xl}


class Keep(sdprobe.Observer):
    """What passes the points of the text."""

    def start(self, run):
        self.seen = {}

    def token_embeds(self, x, text):
        self.seen["token_embeds", text.role, text.encoder] = (x.clone(), text.prompts)

    def prompt_embeds(self, x, text):
        self.seen["prompt_embeds", text.role] = x.clone()

    def pooled_embeds(self, x, text):
        self.seen["pooled_embeds", text.role] = x.clone()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_short_prompt_gives_what_it_gives_without_chunks(family):
    model = sdprobe.load(FAMILIES[family]())
    plain, chunked = (run(model, prompt="a red circle", chunks=chunks) for chunks in (False, True))
    assert torch.equal(plain.latents, chunked.latents)
    assert plain.prompts == chunked.prompts


@pytest.mark.parametrize("family", FAMILIES)
def test_each_chunk_is_what_its_piece_gives_by_itself(family):
    model = sdprobe.load(FAMILIES[family]())
    found = run(model, kept := Keep(), prompt=LONG, negative_prompt="a ring", chunks=True)[kept].seen
    whole = model.tokenizer(LONG, add_special_tokens=False).input_ids
    words = TOKENS - 2
    for role, of_pieces in {"cond": (whole[:words], whole[words:]), "uncond": (_ids(model, "a ring"), [])}.items():
        expected = [_encoded(model, ids) for ids in of_pieces]
        embeds = torch.cat([embeds for embeds, _ in expected], dim=1)
        assert torch.allclose(found["prompt_embeds", role], embeds, atol=1e-6)
        if expected[0][1] is not None:
            assert torch.allclose(found["pooled_embeds", role], expected[0][1], atol=1e-6)


def test_the_prompt_runs_over_all_chunks():
    made = run(sdprobe.load(stable_diffusion()), prompt=[LONG, "a ring"], chunks=True)
    prompt, short = made.prompts
    assert prompt.cut == ()
    assert list(prompt.words) == list(dict.fromkeys(LONG.split()))
    assert len(prompt.ids) == len(prompt.tokens) == len(prompt.roles) == len(prompt.spans) == LENGTH
    assert prompt.positions("<start>") == (0, TOKENS)
    assert all(LONG[slice(*prompt.spans[p])] in "yellow" for p in prompt.positions("yellow"))
    assert min(prompt.positions("star")) > TOKENS
    assert short.ids[TOKENS:] == made.model.read("").ids
    assert made.negative_prompts[0].ids == 2 * made.model.read("").ids


def test_a_negative_prompt_counts_only_where_it_is_read():
    model = sdprobe.load(stable_diffusion())
    chunks = {
        scale: len(run(model, negative_prompt=LONG, chunks=True, guidance_scale=scale).prompts[0].ids) // TOKENS
        for scale in (1.0, 3.0)
    }
    assert chunks == {1.0: 1, 3.0: 2}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_word_in_the_second_chunk_is_replaced(family):
    model = sdprobe.load(FAMILIES[family]())
    swapped = run(model, ReplaceToken("star", with_="square"), prompt=LONG, chunks=True)
    written = run(model, prompt=LONG.replace("star", "square"), chunks=True)
    other = run(model, prompt=LONG, chunks=True)
    assert torch.equal(swapped.latents, written.latents)
    assert not torch.equal(swapped.latents, other.latents)


@pytest.mark.parametrize(("family", "grid"), [("StableDiffusion", 8), ("StableDiffusionXL", 4)])
def test_the_map_of_a_word_in_the_second_chunk_is_its_planted_square(family, grid):
    model, mask = planted(FAMILIES[family]()), square((8, 8), 2, 4, 4)
    (position,) = run(model, prompt=LONG, chunks=True, steps=1).prompts[0].positions("star")
    settings = {"prompt": LONG, "chunks": True, "latents": latents_for([mask]), "guidance_scale": 1.0}
    maps, expected = AttentionMaps(grids=[grid]), mask[:: 8 // grid, :: 8 // grid]
    found = run(model, Marked(position), maps, **settings)[maps]
    assert torch.allclose(found.heat_map("star").values, expected.float(), atol=1e-6)
    assert found.heat_map("circle").values[expected].max() < 1e-6
    assert torch.allclose(found.row_sums(), torch.ones(()), atol=1e-5)
    hidden = run(model, Marked(position), HideTokens("star"), maps, **settings)[maps]
    assert hidden.heat_map("star").values.max() == 0
    assert torch.allclose(hidden.row_sums(), torch.ones(()), atol=1e-5)


def test_a_concept_of_several_vectors_stands_in_the_second_chunk():
    model, vectors = sdprobe.load(stable_diffusion()), torch.randn(2, 16)
    prompt = LONG.replace("star", "<cat>")
    use = sdprobe.UseConcept(sdprobe.Concept({"text_encoder": vectors}), token="<cat>")
    kept = Keep()
    x, prompts = run(model, use, kept, prompt=prompt, chunks=True)[kept].seen["token_embeds", "cond", "text_encoder"]
    positions = prompts[0].positions("<cat>")
    assert len(positions) == 2
    assert min(positions) > TOKENS
    assert torch.equal(x[0, list(positions)], vectors)


def test_the_layers_of_a_text_have_the_positions_of_the_whole_prompt():
    class Layers(sdprobe.Observer):
        def prompt_embeds(self, x, text):
            layers = text.layers()
            assert {own.shape for own in layers} == {x.shape}
            assert torch.equal(layers[-1], x)
            assert torch.equal(text.encode([LONG]), x)

    run(sdprobe.load(stable_diffusion()), Layers(), prompt=LONG, chunks=True, guidance_scale=1.0)


def test_gradients_reach_the_tokens_of_every_chunk():
    class Gradient(sdprobe.Transform):
        needs_grad = ("token_embeds",)

        def start(self, run):
            self.sizes = []

        def noise_pred(self, x, step):
            (found,) = torch.autograd.grad(x.square().sum(), step.leaves["token_embeds"], retain_graph=True)
            self.sizes.append(found[0].norm(dim=-1))
            return x

    hook = Gradient()
    sizes = run(sdprobe.load(stable_diffusion()), hook, prompt=LONG, chunks=True, steps=1)[hook].sizes
    assert sizes[0].shape == (LENGTH,)
    assert (sizes[0] > 0).all()


def test_a_run_in_chunks_is_saved_and_resumed(reopened):
    made = run(
        sdprobe.load(stable_diffusion()), sdprobe.Checkpoints(), maps := AttentionMaps(), prompt=LONG, chunks=True
    )
    again = reopened(made)
    assert again.settings == made.settings
    assert again.settings.chunks
    assert again.prompts == made.prompts
    assert torch.equal(again[maps].heat_map("star").values, made[maps].heat_map("star").values)
    assert torch.equal(sdprobe.resume(made, step=1, progress=False).latents, made.latents)


@pytest.mark.parametrize("make", [stable_diffusion_3, flux, pixart], ids=lambda make: make.__name__)
def test_models_with_t5_refuse_chunks_before_anything_runs(make):
    with pytest.raises(ValueError, match=r"T5 .*reads|read by T5"):
        run(sdprobe.load(make()), prompt="a red circle", chunks=True)


def test_what_cannot_be_in_chunks_is_refused():
    model = sdprobe.load(stable_diffusion())
    with pytest.raises(TypeError, match="True or False"):
        run(model, prompt=LONG, chunks=2)
    inside = sdprobe.Activations("text_encoder.*mlp")
    with pytest.raises(ValueError, match="2 chunks"):
        run(model, inside, prompt=LONG, chunks=True)


def _ids(model, text):
    return model.tokenizer(text, add_special_tokens=False).input_ids


def _encoded(model, ids):
    """A piece through every encoder of the pipeline by itself: its tokens' values, and the pooled vector."""
    pipe, found, pooled = model.pipe, [], None
    for name in model.text_encoders:
        words, encoder = model.tokenizer_of(name), getattr(pipe, name)
        pads = [words.pad_token_id] * (words.model_max_length - len(ids) - 2)
        out = encoder(torch.tensor([[words.bos_token_id, *ids, words.eos_token_id, *pads]]), output_hidden_states=True)
        several = len(model.text_encoders) > 1
        found.append(out.hidden_states[-2] if several else out.last_hidden_state)
        pooled = out.text_embeds if "text_embeds" in out else pooled
    return torch.cat(found, dim=-1), pooled
