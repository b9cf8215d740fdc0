"""What is special to Flux.2: layers side by side, a template and padding, statistics of latents, fused blocks."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

import sdprobe
from sdprobe.experiments.heads_of_model import ablate, heads_of
from sdprobe.model.text.conditioning import join
from tests.planted_families import planted
from tests.stock_pipelines import picture
from tests.test_planted_families import CELLS, masks, run_of
from tests.tiny_models.flux2 import flux2_dev, flux2_klein

SETTINGS = {"steps": 2, "height": 16, "width": 24, "guidance_scale": 4.0, "seed": 5, "progress": False}
BOTH = pytest.mark.parametrize("make", [flux2_klein, flux2_dev])


class Sites(sdprobe.Observer):
    """Where text, image and reference pictures stand at each site, and the rows of each call."""

    kinds = ("joint",)

    def start(self, run):
        self.places, self.roles = {}, []

    def attention(self, attn, site):
        self.places[site.name] = (site.text, site.image, site.reference, attn.key.shape[-2])
        self.roles.append(site.step.roles)


def test_a_distilled_model_has_rows_of_the_prompt_alone():
    run = sdprobe.sample(flux2_klein(distilled=True), "a star", hooks=[sites := Sites()], **SETTINGS)
    assert set(run[sites].roles) == {("cond",)}
    guided = sdprobe.sample(flux2_klein(), "a star", hooks=[sites := Sites()], **SETTINGS)
    assert guided[sites].roles == [("cond",), ("cond",), ("uncond",), ("uncond",)] * 2  # of two blocks


@BOTH
def test_the_template_and_the_padding_are_shown(make):
    model, text = sdprobe.load(make()), "a checkered star of blue"
    shown = []
    handle = model.pipe.text_encoder.register_forward_pre_hook(
        lambda module, args, kwargs: shown.append(kwargs["input_ids"]), with_kwargs=True
    )
    embeds = model.encoded([text, ""])["encoder_hidden_states"]
    handle.remove()
    for ids, own in zip(shown[0].tolist(), (text, ""), strict=True):
        prompt = model.read(own)
        assert tuple(ids) == prompt.ids == model.read(own, "text_encoder").ids
        assert len(prompt.ids) == embeds.shape[1] == 512
        kept = [role for role in prompt.roles if role != "pad"]
        assert kept == sorted(kept, key=("start", "word", "end").index)
        assert {"start", "end"} < set(prompt.roles)
    prompt = model.read(text)
    assert "".join(prompt.spelt(p) for p in prompt.positions("checkered")) == "checkered"
    assert sdprobe.detokenize(model, [prompt.ids]) == [text]


def test_the_mark_of_a_picture_is_taken_out_of_a_prompt_of_dev():
    model = sdprobe.load(flux2_dev())
    assert model.read("a [IMG]star").ids == model.read("a star").ids
    a, b = (sdprobe.sample(model, text, **SETTINGS).latents for text in ("a [IMG]star", "a star"))
    assert torch.equal(a, b)


@BOTH
def test_three_layers_are_side_by_side(make):
    """A picture of other layers is another one, also with hooks that change nothing attached to the pipeline."""
    model = sdprobe.load(make())
    layers = model.argument("text_encoder_out_layers")
    ids = torch.tensor([model.read("a star").ids])
    kept = torch.tensor([[role != "pad" for role in model.read("a star").roles]]).long()
    with torch.no_grad():
        states = model.pipe.text_encoder(input_ids=ids, attention_mask=kept, output_hidden_states=True).hidden_states
    embeds = model.encoded(["a star"])["encoder_hidden_states"]
    assert torch.allclose(embeds, torch.cat([states[k] for k in layers], -1), atol=1e-6)
    with pytest.raises(ValueError, match=f"layers {', '.join(map(str, layers))} side by side"):
        sdprobe.sample(model, "a star", hooks=[sdprobe.ReadLayer(3)], **SETTINGS)
    pipe, asked = model.pipe, {"num_inference_steps": 1, "height": 16, "width": 16, "output_type": "pt"}
    pipe.set_progress_bar_config(disable=True)
    same = sdprobe.on("prompt_embeds", lambda x, text: x + 0)
    made = []
    for own in (layers, (1, 2, 3)):
        asked["text_encoder_out_layers"] = own
        plain = pipe(prompt="a star", generator=torch.Generator().manual_seed(0), **asked).images
        with sdprobe.attach(pipe, [same]):
            passed = pipe(prompt="a star", generator=torch.Generator().manual_seed(0), **asked).images
        assert torch.equal(plain, passed)
        made.append(plain)
    assert not torch.equal(*made)


def test_further_tokens_stand_after_those_of_the_text():
    """Tokens beside the prompt have the places that a longer text's would have."""
    model = sdprobe.load(flux2_klein())
    told: Mapping[str, torch.Tensor] = model.encoded(["a star"])
    joined = join(told, torch.zeros(1, 3, told["encoder_hidden_states"].shape[-1]))
    assert torch.equal(joined["txt_ids"], model.pipe._prepare_text_ids(joined["encoder_hidden_states"]))


@BOTH
def test_latents_have_the_statistics_of_the_autoencoder(make):
    """Of a picture and back: four positions are one, normalised."""
    model = sdprobe.load(make())
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    encoded = sdprobe.encode(model, image)
    stock = model.pipe._encode_vae_image(2 * image - 1, None)
    assert encoded.mean.shape == (1, 4, 8, 8)
    assert torch.allclose(encoded.mean, stock, atol=1e-5)
    raw = model.pipe.vae.encode(2 * image - 1).latent_dist.mode()
    pixels = model.pipe.vae.decode(raw, return_dict=False)[0]
    assert torch.allclose(model.decode(encoded.mean, None), (pixels / 2 + 0.5).clamp(0, 1), atol=1e-5)


@BOTH
def test_in_both_kinds_of_block_token_and_patch_look_at_each_other(make):
    """A marked token and the four places of a patch see each other alone, in blocks of two streams and of one."""

    class Directions(sdprobe.Observer):
        kinds = ("joint",)

        def start(self, run):
            self.seen = {}

        def attention(self, attn, site):
            if site.step.roles == ("cond",):
                parts = {"image": site.image, "text": site.text}
                self.seen[site.name] = {
                    (a, b): attn.probs(queries=x, tokens=y).mean(1) for a, x in parts.items() for b, y in parts.items()
                }

    model, look = planted(make()), Directions()
    run = run_of(model, "circle", look)
    assert {name.split(".")[0] for name in run[look].seen} == {"transformer_blocks", "single_transformer_blocks"}
    for parts in run[look].seen.values():
        for image, mask in enumerate(masks(CELLS)):
            (position,), patch = run.prompts[image].positions("circle"), mask.flatten()
            assert parts["image", "text"][image][patch][:, position].min() > 0.9
            assert parts["image", "text"][image][~patch][:, position].max() < 0.1
            assert parts["text", "image"][image][position][patch].sum() > 0.9
            assert parts["image", "image"][image][patch].sum(-1).max() < 0.1


def test_heads_of_a_block_of_one_stream_are_ablated_by_themselves():
    """All heads of it: what is left is the feed-forward layer beside them."""
    model = sdprobe.load(flux2_klein())
    name = "single_transformer_blocks.0.attn"
    heads = heads_of(model, name)
    assert [(head.number, head.width, head.layers) for head in heads] == [(k, 16, (f"{name}.to_out",)) for k in (0, 1)]
    whole = sdprobe.sample(model, "a star", hooks=ablate(heads), **SETTINGS)
    by_hand = sdprobe.on("attention", lambda attn, site: attn.with_output(0 * attn.output()), modules=name)
    assert torch.equal(whole.latents, sdprobe.sample(model, "a star", hooks=[by_hand], **SETTINGS).latents)
    one, none = (sdprobe.sample(model, "a star", hooks=own, **SETTINGS).latents for own in (ablate(heads[:1]), []))
    assert not torch.equal(one, none)
    assert not torch.equal(one, whole.latents)
    chosen = sdprobe.Ablate(f"{name}.to_out", heads=[0], sides="input")
    with pytest.raises(ValueError, match="not divided into heads"):
        sdprobe.sample(model, "a star", hooks=[chosen], **SETTINGS)


@BOTH
def test_reference_pictures_have_places_of_their_own(make):
    """They follow the image's: hooks get the image's latents and places alone."""
    pipe = make()
    pipe.set_progress_bar_config(disable=True)
    asked = {"prompt": "a star", "image": [picture(64)], "height": 16, "width": 24, "num_inference_steps": 2}

    def called():
        return pipe(generator=torch.Generator().manual_seed(0), output_type="pt", **asked).images

    plain = called()
    with sdprobe.attach(pipe, [sites := Sites(), maps := sdprobe.AttentionMaps()]) as run:
        assert torch.equal(called(), plain)
    assert run.latents.shape == (1, 4, 8, 12)
    each = (slice(0, 512), slice(512, 608), slice(608, 608 + 1024), 608 + 1024)
    assert list(run[sites].places.values()) == [each] * 2
    assert run[maps].heat_map("star").values.shape == (8, 12)
    for point in ("latents", "model_output", "noise_pred", "sample", "final_latents"):
        with sdprobe.attach(pipe, [sdprobe.on(point, lambda x, place: 1.1 * x)]):
            assert not torch.equal(called(), plain), point
