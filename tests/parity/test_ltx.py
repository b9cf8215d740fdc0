"""What is special to LTX-Video: a decoder that is told a timestep, sizes, latents that are given."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe.model.denoiser.keys_of_context import keys_of_context
from sdprobe.testing.stock_call import call_stock
from tests.parity.test_families import USUAL, assert_same
from tests.tiny_models.ltx import ltx

VIDEO = USUAL | {"frames": 5, "height": 32, "width": 64}


@pytest.mark.parametrize("prompt", ["a red circle", ["a red circle", "a star"]], ids=["one", "two"])
def test_a_decoder_that_is_told_a_timestep(prompt):
    assert_same(sdprobe.load(ltx(timestep_conditioning=True)), **VIDEO | {"prompt": prompt})


@pytest.mark.parametrize("scale", [4.0, 1.0])
def test_half_precision(scale):
    """There the layout of what is multiplied changes the last bits."""
    model, settings = sdprobe.load(ltx().to(torch.bfloat16)), VIDEO | {"guidance_scale": scale}
    own = sdprobe.sample(model, progress=False, **settings)
    assert torch.equal(model.latents_returned(own.latents), call_stock(model, settings, "latent"))


def test_given_latents_are_a_video_of_noise():
    model = sdprobe.load(ltx())
    noise = torch.randn(1, 4, 3, 4, 8, generator=torch.Generator().manual_seed(5))
    given = sdprobe.sample(model, latents=noise, progress=False, **VIDEO)
    drawn = sdprobe.sample(model, progress=False, **VIDEO)
    assert torch.equal(given.latents, drawn.latents)


def test_sizes_are_those_that_the_pipeline_takes():
    with pytest.raises(ValueError, match="multiples of 32"):
        sdprobe.sample(sdprobe.load(ltx()), "a star", height=48, width=32)


def test_keys_made_of_a_text_outside_a_run_are_those_of_the_run():
    """Past the norm, which is over all heads."""
    model = sdprobe.load(ltx())
    embeds = model.encoded(["a red circle"])["encoder_hidden_states"]

    class Keys(sdprobe.Observer):
        kinds, modules = ("cross",), ("transformer_blocks.1.attn2",)

        def start(self, run):
            self.same = []

        def attention(self, attn, site):
            row = [row.role for row in attn.rows].index("cond")
            self.same.append(torch.allclose(attn.key[row], keys_of_context(model, site.name, embeds[0]), atol=1e-5))

    run = sdprobe.sample(model, hooks=[look := Keys()], progress=False, **VIDEO)
    assert run[look].same == [True] * 2
