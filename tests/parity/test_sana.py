"""What is Sana's own: linear self-attention, an instruction before the prompt, sizes that it knows."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe.stock_pipelines.attach import attach
from tests.parity.test_families import Seen, assert_same
from tests.stock_pipelines import Stock, called
from tests.tiny_models.sana import sana

SETTINGS = {"steps": 2, "height": 64, "width": 64, "seed": 3, "progress": False}
ASKED = {"height": 64, "width": 64, "use_resolution_binning": False, "num_inference_steps": 2}


class Selves(sdprobe.Observer):
    """Self-attention alone."""

    kinds = ("self",)

    def start(self, run):
        self.calls = 0

    def attention(self, attn, site):
        self.calls += 1


@pytest.fixture(scope="module")
def model():
    return sdprobe.load(sana())


def test_linear_attention_is_refused_in_words_before_the_first_step(model):
    class Steps(sdprobe.Observer):
        def latents(self, x, step):
            raise AssertionError("a step was made")

    with pytest.raises(RuntimeError, match=r"Selves.*attn1.*linear attention.*no attention probabilities.*strict"):
        sdprobe.sample(model, "a star", hooks=[Steps(), Selves()], **SETTINGS)
    with pytest.raises(RuntimeError, match="linear attention"), attach(model.pipe, [Selves()]):
        called(Stock(model.pipe, ASKED))


def test_linear_attention_is_named_as_unseen(model):
    look = Selves()
    look.strict = False
    run = sdprobe.sample(model, "a star", hooks=[look, maps := sdprobe.AttentionMaps()], **SETTINGS)
    with attach(model.pipe, [look, maps]) as attached:
        called(Stock(model.pipe, ASKED), "a star")
    for coverage in (run.coverage, attached.coverage):
        linear = {name for name, kind in coverage.sites.items() if kind == "self"}
        assert {*coverage.missed} == linear
        assert all("linear attention" in why for why in coverage.missed.values())
        assert {*coverage.seen} == {name for name in coverage.sites if name.endswith("attn2")}
    assert run[look].calls == 0
    assert run[maps].heat_map("star").values.shape == (4, 4)


@pytest.mark.parametrize("instruction", [None, ["Draw it well.", "Prompt: "]])
def test_the_instruction_of_a_call(model, instruction):
    class Read(sdprobe.Observer):
        def start(self, run):
            self.read = {}

        def token_embeds(self, x, text):
            assert x.shape[1] == len(text.prompts[0].ids)
            self.read[text.role] = text.prompts[0]

    stock = Stock(model.pipe, ASKED | {"complex_human_instruction": instruction})
    plain = called(stock, "a red star")
    with attach(model.pipe, [look := Read()]) as run:
        assert torch.equal(called(stock, "a red star"), plain)
    cond, uncond = (run[look].read[role] for role in ("cond", "uncond"))
    before = len(model.tokenizer.encode("\n".join(instruction))) - 2 if instruction else 0
    assert (len(cond.ids), len(uncond.ids)) == (300 + before, 300)
    assert cond.roles.count("start") == before + 1
    assert [cond.tokens[p] for p in cond.positions("red star")] == ["▁red", "▁star"]
    assert run.prompts[0].positions("red star") == (2, 3)
    written = called(stock, "a red ring")
    with attach(model.pipe, [sdprobe.ReplaceToken("star", with_="ring")]):
        assert torch.equal(called(stock, "a red star"), written)
    assert not torch.equal(written, plain)


def test_what_gemma_is_given_is_what_was_read(model):
    text = "  A Red circle of a star "
    for role in ("cond", "uncond"):
        shown, own = [], model.of_role(role)
        handle = model.pipe.text_encoder.register_forward_pre_hook(lambda module, args, shown=shown: shown.append(args))
        told = own.encoded([text])
        handle.remove()
        prompt, given = own.read(text), own.read(text, "text_encoder")
        assert tuple(shown[0][0][0].tolist()) == given.ids
        assert prompt.text == text
        assert own.shown(torch.tensor(given.ids)[None, :, None], [len(given.ids)]).flatten().tolist() == list(
            prompt.ids
        )
        assert told["encoder_attention_mask"][0].sum() == sum(role != "pad" for role in prompt.roles)
        assert text[slice(*prompt.spans[prompt.positions("star")[0]])].strip() == "star"


def test_the_last_layer_is_what_the_denoiser_is_told(model):
    plain = sdprobe.sample(model, "a star", **SETTINGS)
    read = sdprobe.sample(model, "a star", hooks=[sdprobe.ReadLayer(-1)], **SETTINGS)
    assert torch.equal(read.latents, plain.latents)
    first = sdprobe.sample(model, "a star", hooks=[sdprobe.ReadLayer(0)], **SETTINGS)
    assert not torch.equal(first.latents, plain.latents)


def test_sizes_it_knows_at_the_factor_of_its_autoencoder():
    model = sdprobe.load(sana(sample_size=16, levels=6))
    assert model.scale_factor == 32
    settings = {"prompt": "a star", "steps": 1, "seed": 5, "height": 400, "width": 600}
    assert_same(model, **settings)
    run = sdprobe.sample(model, hooks=[maps := sdprobe.AttentionMaps(), Seen()], progress=False, **settings)
    assert run.images[0].size == (600, 400)
    assert tuple(run.latents.shape[-2:]) == run[maps].heat_map("star").values.shape == (13, 19)


@pytest.mark.parametrize("norm", [None, "rms_norm_across_heads"])
def test_keys_of_its_own_prompt_are_those_of_the_call(norm):
    model = sdprobe.load(sana(qk_norm=norm))

    class Given(sdprobe.Transform):
        kinds = ("cross",)

        def attention(self, attn, site):
            told = site.step.run.model.encoded(["a star"])["encoder_hidden_states"]
            assert len(attn.query) == 1
            other = attn.with_context(told)
            assert torch.equal(other.key, attn.key)
            assert torch.equal(other.value, attn.value)
            return other

    plain = sdprobe.sample(model, "a star", guidance_scale=1.0, **SETTINGS)
    given = sdprobe.sample(model, "a star", hooks=[Given()], guidance_scale=1.0, **SETTINGS)
    assert torch.allclose(given.latents, plain.latents, atol=1e-5)


def test_a_picture_goes_through_the_autoencoder(model):
    pictures = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    encoded = sdprobe.encode(model, pictures)
    vae = model.pipe.vae
    latents = vae.encode(2 * pictures - 1).latent * vae.config.scaling_factor
    assert torch.allclose(encoded.mean, latents, atol=1e-6)
    assert not encoded.std.any()


def test_sizes_are_those_that_the_pipeline_takes(model):
    with pytest.raises(ValueError, match="multiples of 32"):
        sdprobe.sample(model, "a star", height=48, progress=False)


def test_where_the_tokens_of_picture_and_text_stand(model):
    class Sites(sdprobe.Observer):
        modules = ("transformer_blocks.1*", "caption_*")

        def start(self, run):
            self.found = {}

        def activation(self, x, site):
            text = None if site.text is None else x[:, site.text].shape[1]
            self.found[site.name] = (site.stream, site.grid, text, site.heads)

    run = sdprobe.sample(model, "a star", hooks=[look := Sites()], **SETTINGS | {"width": 96})
    found, block = run[look].found, "transformer_blocks.1"
    assert found[block] == found[f"{block}.attn2"] == ("hidden", (4, 6), None, 0)
    assert found[f"{block}.attn1.to_v"] == found[f"{block}.attn2.to_q"] == ("hidden", (4, 6), None, 2)
    assert found[f"{block}.attn2.to_k"] == found[f"{block}.attn2.to_v"] == ("text", None, 300, 2)
    assert found[f"{block}.ff"][:2] == found[f"{block}.ff.conv_depth"][:2] == ("hidden", (4, 6))
    assert found["caption_projection"][:3] == found["caption_norm"][:3] == ("text", None, 300)


def test_an_output_changed_at_one_patch_moves_that_patch():
    """After the last block, places are apart: what is added to one of them moves its own latents alone."""

    class Add(sdprobe.Transform):
        modules = ("transformer_blocks.1",)

        def activation(self, x, site):
            x = x.clone()
            x[:, site.image][:, 7] += 1
            return x

    settings = SETTINGS | {"width": 96, "steps": 1}
    model = sdprobe.load(sana())
    runs = [sdprobe.sample(model, "a star", hooks=hooks, **settings).latents for hooks in ([], [Add()])]
    moved = (runs[0] != runs[1]).any(1)[0]
    truth = torch.zeros(8, 12, dtype=torch.bool)
    truth[2:4, 2:4] = True
    assert torch.equal(moved, truth)
