"""Flux Redux: a picture is turned into embeddings that Flux is given in place of a prompt."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxPriorReduxPipeline
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

import sdprobe
from sdprobe.core.prompt import WordNotInPrompt
from tests.families import T5_WIDTH, flux
from tests.laws.strategies import affine
from tests.stock_pipelines import SMALL, Stock, picture

PATCHES = 4


@pytest.fixture(scope="module")
def pipes():
    """Redux with the text encoders of Flux, and Flux."""
    pipe = flux()
    torch.manual_seed(6)
    config = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    prior = FluxPriorReduxPipeline(
        image_encoder=SiglipVisionModel(config).eval(),
        feature_extractor=SiglipImageProcessor(size={"height": 16, "width": 16}),
        image_embedder=ReduxImageEncoder(redux_dim=16, txt_in_features=T5_WIDTH).eval(),
        text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer,
        text_encoder_2=pipe.text_encoder_2,
        tokenizer_2=pipe.tokenizer_2,
    )
    pipe.set_progress_bar_config(disable=True)
    return prior, Stock(pipe, SMALL)


def made(pipes, *hooks):
    """What Flux makes of a picture's embeddings, and the run where hooks are attached."""
    prior, (pipe, given) = pipes
    embeds = prior(picture(), prompt="a red circle")
    asked = {**given, **embeds, "num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "pt"}
    if not hooks:
        return pipe(**asked, generator=torch.Generator().manual_seed(0)).images
    with sdprobe.attach(pipe, hooks) as run:
        return pipe(**asked, generator=torch.Generator().manual_seed(0)).images, run


def test_looking_changes_nothing_and_the_picture_s_tokens_follow_those_of_the_text(pipes):
    maps, matrices = sdprobe.AttentionMaps(), sdprobe.AttentionMatrices()
    found, run = made(pipes, maps, matrices, affine("attention", 1.0, 0.0))
    assert torch.equal(found, made(pipes))
    assert not run.coverage.missed
    tokens = 512 + PATCHES
    assert run[matrices].matrix("image", "text").values.shape[1] == tokens
    assert torch.allclose(run[matrices].row_sums(), torch.ones(()), atol=1e-5)
    of_picture = [run[maps].heat_map(512 + number).values for number in range(PATCHES)]
    assert all(own.shape == (4, 4) and (own > 0).all() for own in of_picture)
    whole = run[matrices].matrix("image", "text").values
    assert torch.allclose(of_picture[0].flatten(), whole[:, 512], atol=1e-6)


def test_the_words_of_embeddings_are_not_known(pipes):
    maps = sdprobe.AttentionMaps()
    _, run = made(pipes, maps)
    with pytest.raises(WordNotInPrompt, match=r"given prompt_embeds instead of a text, .* ask for a token by its num"):
        run[maps].heat_map("circle")
    for hook in (sdprobe.AttendAndExcite(["circle"]), sdprobe.HideTokens("circle")):
        with pytest.raises(WordNotInPrompt, match="given prompt_embeds instead of a text"):
            made(pipes, hook)


def test_hooks_change_what_flux_makes_of_a_picture(pipes):
    plain = made(pipes)
    for hook in (sdprobe.HideTokens([512, 513]), affine("prompt_embeds", 1.1, 0.0), affine("latents", 1.0, 0.1)):
        assert not torch.equal(made(pipes, hook)[0], plain), hook


def test_hooks_look_into_redux_itself(pipes):
    """No family knows it, and it has no steps: its embedder is taken for the network."""
    prior, _ = pipes
    embeds, kept = prior(picture(), prompt="a red circle"), []
    watch = sdprobe.watch("activation", lambda x, site: kept.append(x.clone()), modules="redux_down")
    with sdprobe.attach(prior, [watch]) as run:
        found = prior(picture(), prompt="a red circle")
    assert torch.equal(found.prompt_embeds, embeds.prompt_embeds)
    assert torch.equal(kept[0], found.prompt_embeds[:, 512:])
    assert run.coverage.seen == {"redux_down (output)": 1}
