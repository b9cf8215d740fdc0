"""What is special to Qwen-Image: texts as long as they are, a template, guidance that keeps lengths, roles apart."""

from __future__ import annotations

import pytest
import torch
from diffusers import QwenImageImg2ImgPipeline
from torch import Tensor

import sdprobe
from tests.stock_pipelines import picture
from tests.tiny_models.qwen_image import qwen_image

SETTINGS = {"steps": 2, "height": 16, "width": 24, "guidance_scale": 4.0, "seed": 5, "progress": False}


@pytest.fixture(scope="module")
def model() -> sdprobe.Model:
    return sdprobe.load(qwen_image())


class Calls(sdprobe.Observer):
    """The rows of each call of the denoiser, the text's tokens in it, and whether there is a mask."""

    def start(self, run):
        self.seen = []

    def attention(self, attn, site):
        self.seen.append((site.step.roles, len(attn.query), site.text.stop, attn.mask is not None))


def test_the_denoiser_is_called_for_each_role_with_its_own_tokens(model):
    """A mask hides padding, and is there only where prompts of one role have different numbers of tokens."""
    for prompts, masked in ((["a red circle"] * 2, False), (["a red circle", "a checkered star"], True)):
        run = sdprobe.sample(model, prompts, hooks=[calls := Calls()], **SETTINGS)
        longest = max(len(prompt.ids) for prompt in run.prompts)
        empty = len(model.read("").ids)
        each = [(("cond",), 2, longest, masked)] * 2 + [(("uncond",), 2, empty, False)] * 2  # of two blocks
        assert run[calls].seen == each * 2


def test_guidance_keeps_the_length_of_each_token(model):
    torch.manual_seed(0)
    of = {"cond": torch.randn(2, 4, 8, 12), "uncond": torch.randn(2, 4, 8, 12)}
    guided, plain = model.guided(of, 4.0), of["uncond"] + 4.0 * (of["cond"] - of["uncond"])
    lengths = [model.packed(x).norm(dim=-1) for x in (guided, of["cond"])]
    assert torch.allclose(*lengths, rtol=1e-5)
    assert torch.allclose(torch.cosine_similarity(model.packed(guided), model.packed(plain), dim=-1), torch.ones(2, 24))
    assert torch.allclose(model.guided({"cond": of["cond"], "uncond": of["cond"]}, 4.0), of["cond"], atol=1e-6)


def test_without_a_negative_prompt_sample_guides_away_from_an_empty_one(model):
    """Where the pipeline has no guidance: `attach` sees the conditional rows alone."""
    empty, none = (sdprobe.sample(model, "a star", **SETTINGS, **own) for own in ({"negative_prompt": ""}, {}))
    assert torch.equal(empty.latents, none.latents)
    asked = {"num_inference_steps": 2, "height": 16, "width": 24, "output_type": "pt"}
    model.pipe.set_progress_bar_config(disable=True)
    for negative, roles in (({}, {("cond",)}), ({"negative_prompt": ""}, {("cond",), ("uncond",)})):
        with sdprobe.attach(model.pipe, [calls := Calls()]) as run:
            model.pipe("a star", generator=torch.Generator().manual_seed(5), **asked, **negative)
        assert {own for own, *_ in run[calls].seen} == roles
        assert torch.equal(run.latents, none.latents) == (len(roles) == 2)


def test_the_template_is_read_by_the_encoder_and_its_first_tokens_are_not_shown(model):
    text = "a checkered star of blue"
    read, shown = model.read(text, "text_encoder"), model.read(text)
    dropped = model.pipe.prompt_template_encode_start_idx
    assert read.ids[dropped:] == shown.ids
    assert set(read.roles[:dropped]) == {"start"}
    assert shown.roles.index("end") == shown.positions("blue")[-1] + 1
    assert set(shown.roles) == {"word", "end"}
    assert [p + dropped for p in shown.positions("checkered")] == list(read.positions("checkered"))
    whole = model.pipe.tokenizer(model.pipe.prompt_template_encode.format(text)).input_ids
    assert tuple(whole) == read.ids


def test_a_long_prompt_is_cut_as_the_pipeline_cuts_it(model):
    """The denoiser is shown ``max_sequence_length`` tokens; the encoder reads on."""
    long = " ".join(["a red star"] * 250)
    embeds = model.encoded([long])["encoder_hidden_states"]
    assert embeds.shape[1] == len(model.read(long).ids) == 512
    assert len(model.read(long, "text_encoder").ids) == 34 + len(model.pipe.tokenizer(long).input_ids) + 5


def test_a_word_s_positions_are_where_its_embedding_acts(model):
    """A change of one token's embedding leaves what is shown of the tokens before it, which read no further."""
    text = "a red circle of a star"
    (position,) = model.read(text).positions("circle")

    class Shift(sdprobe.Transform):
        def token_embeds(self, x: Tensor, text: sdprobe.Text) -> Tensor:
            (own,) = text.prompts[0].positions("circle") if text.role == "cond" else (0,)
            return torch.cat([x[:, :own], x[:, own : own + 1] + 1, x[:, own + 1 :]], 1) if text.role == "cond" else x

    class Shown(sdprobe.Observer):
        def start(self, run):
            self.embeds = {}

        def prompt_embeds(self, x, text):
            self.embeds[text.role] = x

    plain, moved = (
        sdprobe.sample(model, text, hooks=[*hooks, look := Shown()], **SETTINGS)[look].embeds["cond"]
        for hooks in ([], [Shift()])
    )
    changed = (plain != moved).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == list(range(position, len(changed)))


def test_from_a_picture(model):
    """The stock image-to-image pipeline on the same parts gives the same picture."""
    stock = QwenImageImg2ImgPipeline(**model.pipe.components)
    stock.set_progress_bar_config(disable=True)
    texts, image = ["a red circle", "a star"], picture()
    asked = {"num_inference_steps": 4, "height": 16, "width": 24, "strength": 0.6, "true_cfg_scale": 4.0}
    generator = torch.Generator().manual_seed(5)
    made = stock(
        texts, negative_prompt=["", ""], image=image, generator=generator, output_type="latent", **asked
    ).images
    run = sdprobe.sample(model, texts, image=image, strength=0.6, **SETTINGS | {"steps": 4})
    assert torch.equal(model.packed(run.latents), made)


def test_latents_of_a_picture_and_back(model):
    """Means and deviations are those of each channel; decoding is the pipeline's own."""
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    encoded = sdprobe.encode(model, picture)
    config = model.pipe.vae.config
    mean, std = (torch.tensor(own).view(1, 4, 1, 1) for own in (config.latents_mean, config.latents_std))
    raw = model.pipe.vae.encode(2 * picture[:, :, None] - 1).latent_dist.mode()[:, :, 0]
    assert torch.allclose(encoded.mean, (raw - mean) / std, atol=1e-5)
    pixels = model.pipe.vae.decode(raw[:, :, None], return_dict=False)[0][:, :, 0]
    assert torch.allclose(model.decode(encoded.mean, None), (pixels / 2 + 0.5).clamp(0, 1), atol=1e-5)
    assert torch.allclose(model.picture_of(encoded.mean), (pixels / 2 + 0.5).clamp(0, 1), atol=1e-5)
