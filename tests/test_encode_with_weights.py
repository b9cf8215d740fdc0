"""Weights of words: what compel makes of them, in every family, with hooks, chunks and saved runs."""

from __future__ import annotations

import compel
import pytest
import torch

import sdprobe
from sdprobe import AttentionMaps, ReplaceToken
from tests.families import flux, pixart, stable_diffusion_3, stable_diffusion_xl
from tests.laws.strategies import run
from tests.tiny import TOKENS, stable_diffusion

EVERY = {make.__name__: make for make in (stable_diffusion, stable_diffusion_xl, stable_diffusion_3, flux, pixart)}
OF_COMPEL = ("toy_pipeline", "stable_diffusion_xl", "flux")
WRITTEN = (
    "a (red)1.3 circle",
    "a red++ circle--",
    "a (red circle)0.5 and a (blue)1.4 (square)0.7",
    "((red)0.5 circle)1.2 ring",
    "a (red)0 circle",
)
LONG = "a red circle left of a blue square and a green ring above a yellow checkered (star)1.4"


class Keep(sdprobe.Observer):
    def start(self, run):
        self.seen, self.tokens = {}, []

    def token_embeds(self, x, text):
        self.tokens.append((text.encoder, text.role))

    def prompt_embeds(self, x, text):
        self.seen[text.role] = x.clone()


def embeds(model, *given, **settings):
    """The prompt embeddings of a run with weights."""
    settings = {"steps": 1, "guidance_scale": 1.0, "weights": True} | settings
    return run(model, *given, kept := Keep(), **settings)[kept].seen["cond"]


@pytest.mark.parametrize("family", OF_COMPEL)
def test_the_embeddings_are_those_of_compel(family):
    pipe = EVERY[family]()
    model = sdprobe.load(pipe)
    for written in WRITTEN:
        with torch.no_grad():
            expected = torch.cat([own.build_conditioning_tensor(written) for own in _of_compel(compel, pipe)], -1)
        assert torch.equal(embeds(model, prompt=written), expected)


def test_the_embeddings_are_the_formula():
    """A weight of 0.5 is one half of the prompt and one half of that without the word, both scaled as they weigh."""
    model = sdprobe.load(stable_diffusion())
    pipe, prompt = model.pipe, model.read("a red circle")
    ids, keep = torch.tensor([prompt.ids]), torch.ones(1, TOKENS, dtype=torch.long)
    keep[0, prompt.positions("red")[0]] = 0
    weights = torch.ones(TOKENS, 1)
    weights[list(prompt.positions("red"))], weights[list(prompt.positions("circle"))] = 0.5, 1.4
    with torch.no_grad():
        empty = pipe.text_encoder(torch.tensor([model.read("").ids]))[0]
        x, without = pipe.text_encoder(ids)[0], pipe.text_encoder(ids, keep)[0]
    expected = sum(empty + weights * (own - empty) for own in (x, without)) / 2
    assert torch.allclose(embeds(model, prompt="a (red:0.5) (circle:1.4)"), expected, atol=1e-6)


@pytest.mark.parametrize("family", EVERY)
def test_without_weights_nothing_changes_and_with_them_something(family):
    model = sdprobe.load(EVERY[family]())
    plain = run(model, negative_prompt="a ring")
    assert torch.equal(run(model, negative_prompt="a ring", weights=True).latents, plain.latents)
    for written in ("a (red:1.5) circle", "a (red:0.5) circle"):
        heavy = run(model, prompt=written, negative_prompt="a ring", weights=True)
        assert not torch.equal(heavy.latents, plain.latents)
        assert heavy.prompts == plain.prompts
        assert heavy.settings.prompt == (written,)


def test_each_prompt_has_its_own_weights():
    model, written = sdprobe.load(stable_diffusion()), ["a (red:0.5) circle", "a red circle", "(a:1.2) red-- (circle)0"]
    together = embeds(model, prompt=written)
    for own, text in zip(together, written, strict=True):
        assert torch.allclose(own, embeds(model, prompt=text)[0], atol=1e-6)
    pair = {"prompt": "a red circle", "negative_prompt": "a (red:0.5) circle", "guidance_scale": 3.0, "weights": True}
    seen = run(model, kept := Keep(), **pair)[kept].seen
    assert torch.allclose(seen["uncond"][0], together[0], atol=1e-6)


def test_a_hook_at_the_tokens_acts_once_and_before_the_weights():
    model = sdprobe.load(stable_diffusion())
    settings = {"weights": True, "prompt": "a (red:0.5) (circle:1.3)"}
    kept = Keep()
    swapped = run(model, ReplaceToken("red", with_="blue"), kept, **settings)
    assert swapped[kept].tokens == [("text_encoder", "uncond"), ("text_encoder", "cond")]
    written = run(model, **settings | {"prompt": settings["prompt"].replace("red", "blue")})
    assert torch.equal(swapped.latents, written.latents)


def test_a_hook_at_the_prompt_acts_after_the_weights():
    model, written = sdprobe.load(stable_diffusion()), "a (red:0.5) circle"
    half = embeds(model, sdprobe.ScalePrompt(0.5), prompt=written)
    assert torch.equal(half, 0.5 * embeds(model, prompt=written))


def test_a_weight_in_the_second_chunk_is_of_the_empty_chunk():
    model = sdprobe.load(stable_diffusion())
    plain, heavy = (embeds(model, prompt=text, chunks=True) for text in (LONG.replace("(star)1.4", "star"), LONG))
    (position,) = run(model, prompt=LONG, chunks=True, weights=True, steps=1).prompts[0].positions("star")
    empty = embeds(model, prompt="")[0, position - TOKENS]
    expected = plain.clone()
    expected[0, position] = empty + 1.4 * (plain[0, position] - empty)
    assert position > TOKENS
    assert torch.allclose(heavy, expected, atol=1e-6)
    light = embeds(model, prompt=LONG.replace("1.4", "0.5"), chunks=True)
    assert torch.allclose(light[0, :TOKENS], plain[0, :TOKENS], atol=1e-6)  # another chunk is not what is masked


def test_gradients_pass_the_weights():
    class Gradient(sdprobe.Transform):
        needs_grad = ("token_embeds",)

        def noise_pred(self, x, step):
            (found,) = torch.autograd.grad(x.square().sum(), step.leaves["token_embeds"], retain_graph=True)
            assert found.norm(dim=-1).min() > 0
            return x

    run(sdprobe.load(stable_diffusion()), Gradient(), prompt="a (red:0.5) circle++", weights=True, steps=1)


def test_a_run_with_weights_is_saved_and_resumed(reopened):
    model, written = sdprobe.load(stable_diffusion()), "a (red:1.5) circle"
    made = run(model, sdprobe.Checkpoints(), maps := AttentionMaps(), prompt=written, weights=True)
    again = reopened(made)
    assert again.settings == made.settings
    assert again.prompts == made.prompts
    assert torch.equal(again[maps].heat_map("red").values, made[maps].heat_map("red").values)
    assert torch.equal(sdprobe.resume(made, step=1, progress=False).latents, made.latents)
    with pytest.raises(ValueError, match="never closed"):
        sdprobe.resume(made, step=1, prompt="a (red", progress=False)


@pytest.mark.slow
def test_the_heavier_a_word_is_the_more_there_is_of_it(embedded):
    """Of two colours of one thing, red gains on blue with every step of its weight."""
    settings = {"seed": list(range(8)), "weights": True, "steps": 8, "progress": False}
    excess = []
    for weight in (0, 0.5, 1, 1.5, 2):
        made = sdprobe.sample(embedded, [f"a (red:{weight}) blue circle"] * 8, guidance_scale=3.0, **settings)
        pixels = sdprobe.decode(embedded, made.latents)
        excess.append(float((pixels[:, 0] - pixels[:, 2]).mean()))
    assert excess == sorted(excess)
    assert excess[0] < -0.1 < 0 < excess[-1]


def test_what_cannot_be_weighed_is_refused():
    model = sdprobe.load(stable_diffusion())
    with pytest.raises(ValueError, match="never opened"):
        run(model, prompt="a red) circle", weights=True)
    with pytest.raises(TypeError, match="True or False"):
        run(model, weights=1.3)
    with pytest.raises(ValueError, match="whole words"):
        run(model, prompt="a r(ed)1.3 circle", weights=True)
    with pytest.raises(ValueError, match="several times"):
        run(model, sdprobe.Activations("text_encoder.*mlp"), prompt="a (red:0.5) circle", weights=True)
    with pytest.raises(ValueError, match="no weights yet"):
        run(model, sdprobe.ReadLayer(1), prompt="a (red:1.5) circle", weights=True)


def _of_compel(compel, pipe):
    penultimate = compel.ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED
    if "XL" in type(pipe).__name__:
        both = ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2))
        return [compel.Compel(*own, returned_embeddings_type=penultimate) for own in both]
    if "Flux" in type(pipe).__name__:
        pipe.tokenizer_2.model_max_length = 512
        return [compel.Compel(pipe.tokenizer_2, pipe.text_encoder_2)]
    return [compel.Compel(pipe.tokenizer, pipe.text_encoder)]
