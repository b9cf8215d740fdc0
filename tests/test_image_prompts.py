"""Image prompts of IP-Adapters: which picture each attention call attends to, and the text's call."""

from __future__ import annotations

import pytest
import torch
from diffusers.image_processor import IPAdapterMaskProcessor
from diffusers.models.embeddings import (
    IPAdapterFaceIDImageProjection,
    IPAdapterFaceIDPlusImageProjection,
    IPAdapterPlusImageProjection,
    IPAdapterTimeImageProjection,
)

import sdprobe
from sdprobe.stock_pipelines.attach import attach
from tests.families import stable_diffusion_3
from tests.stock_pipelines import attached, called
from tests.test_attach import with_ip_adapter

MODULE = "up_blocks.0.attentions.0.transformer_blocks.0.attn2"
BOTH, TWO = [0.7, 0.6], [torch.rand(1, 2, 16, 16), None]
CASES = {
    "two adapters": (2, [0.7, 0.6], None, [1, 1], ["0", "1"]),
    "two adapters, the first without weight": (2, [0.0, 0.6], None, [1, 1], ["1"]),
    "a mask": (1, 0.7, [torch.rand(1, 1, 16, 16)], [1], ["0, picture 0"]),
    "a tensor of masks": (2, BOTH, torch.rand(2, 1, 16, 16), [1, 1], ["0, picture 0", "1, picture 0"]),
    "masks of two pictures, and of none": (2, [BOTH, 0.6], TWO, [2, 1], ["0, picture 0", "0, picture 1", "1"]),
    "masks of two pictures, one without weight": (1, [[0.0, 0.6]], TWO[:1], [2], ["0, picture 0", "0, picture 1"]),
}
"""For each the number of adapters, their scales and masks, how many pictures each is shown, and what is attended to."""


class Calls(sdprobe.Observer):
    """The attention calls of one module, in order."""

    modules = (MODULE,)

    def start(self, run):
        self.seen = []

    def attention(self, attn, site):
        self.seen.append((site, attn.probs(), attn.key.clone(), attn.output().clone(), attn.query.clone()))


def shown_to(stock, given):
    """What the module is shown and returns in the pipeline alone: its arguments, and its output."""
    kept = []

    def keep(module, args, kwargs, output):
        kept.append((args[0], kwargs["encoder_hidden_states"], output))

    handle = stock.pipe.unet.get_submodule(MODULE).register_forward_hook(keep, with_kwargs=True)
    called(stock, num_inference_steps=1, **given)
    handle.remove()
    return kept[0]


def heads(x, module):
    return x.unflatten(-1, (module.heads, -1)).transpose(1, 2)


@pytest.mark.parametrize("case", CASES)
def test_calls_are_what_the_module_computes_by_itself(case):
    adapters, scales, masks, pictures, names = CASES[case]
    torch.manual_seed(4)
    stock = with_ip_adapter(adapters)
    stock.pipe.set_ip_adapter_scale(scales)
    given = {"ip_adapter_image_embeds": [torch.randn(2, count, 8) for count in pictures]}
    given |= {} if masks is None else {"cross_attention_kwargs": {"ip_adapter_masks": masks}}
    hidden, (text, states), output = shown_to(stock, given)
    module, maps, calls = stock.pipe.unet.get_submodule(MODULE), sdprobe.AttentionMaps(modules=[MODULE]), Calls()
    run = attached(stock, maps, calls, num_inference_steps=1, **given)
    seen = run[calls].seen
    assert [site.attends_to for site, *_ in seen] == ["text", *(f"image prompt {name}" for name in names)]
    assert [site.kind for site, *_ in seen] == ["cross"] + ["image_prompt"] * len(names)
    assert {site.grid for site, *_ in seen} == {seen[0][0].grid}
    assert [site.text for site, *_ in seen[1:]] == [None] * len(names)

    # The text's call.
    query, key = heads(module.to_q(hidden), module), heads(module.to_k(text), module)
    probs = (query @ key.mT * module.scale).softmax(-1)
    assert torch.allclose(seen[0][1], probs, atol=1e-6)
    positions = run.prompts[0].positions("circle")
    word = probs[1][..., list(positions)].mean((0, 2)).unflatten(0, seen[0][0].grid)
    assert torch.allclose(run[maps].heat_map("circle").values, word, atol=1e-6)

    # The image prompts' calls, and what the module makes of all of them.
    found = seen[0][3].transpose(1, 2).flatten(2)
    for (_, _, own, made, asking), name in zip(seen[1:], names, strict=True):
        number, picture = (int(part) for part in f"{name}, picture -1".split(", picture ")[:2])
        state = states[number] if picture < 0 else states[number][:, picture]
        assert torch.equal(asking, seen[0][4])
        assert torch.equal(own, heads(module.processor.to_k_ip[number](state.flatten(1, -2)), module))
        scale = module.processor.scale[number]
        scale = scale[picture] if isinstance(scale, list) else scale
        added = made.transpose(1, 2).flatten(2)
        if picture >= 0:
            mask = masks[number] if isinstance(masks, list) else masks[number].unsqueeze(0)
            added = added * IPAdapterMaskProcessor.downsample(mask[:, picture], len(added), *added.shape[1:])
        found = found + scale * added
    assert torch.allclose(module.to_out[0](found) / module.rescale_output_factor, output, atol=1e-6)


def face_id_plus():
    made = IPAdapterFaceIDPlusImageProjection(
        embed_dims=16, output_dims=16, hidden_dims=8, id_embeddings_dim=8, depth=1, dim_head=8, heads=2, num_tokens=16
    )
    made.clip_embeds = torch.randn(2, 1, 5, 8)
    return made


PROJECTIONS = {
    "Plus": lambda: IPAdapterPlusImageProjection(
        embed_dims=8, output_dims=16, hidden_dims=16, depth=2, dim_head=8, heads=2, num_queries=16
    ),
    "FaceID": lambda: IPAdapterFaceIDImageProjection(image_embed_dim=8, cross_attention_dim=16, num_tokens=16),
    "FaceID Plus": face_id_plus,
}
"""Each makes 16 tokens of a picture, as many as the coarsest grid has places."""


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_the_attention_of_a_projection_is_none_of_the_picture_that_is_made(kind):
    stock = with_ip_adapter()
    torch.manual_seed(5)
    stock.pipe.unet.encoder_hid_proj.image_projection_layers[0] = PROJECTIONS[kind]().eval()
    shape = (2, 1, 5, 8) if kind == "Plus" else (2, 1, 8)
    given = {"ip_adapter_image_embeds": [torch.randn(shape)], "num_inference_steps": 1}
    maps, selfs, calls = sdprobe.AttentionMaps(), sdprobe.SelfAttentionMaps(), Calls()
    streams = sdprobe.Activations("encoder_hid_proj.*", streams="*")
    expected, plain = called(stock, **given), with_ip_adapter()
    with attach(stock.pipe, [maps, selfs, calls, streams]) as run:
        assert torch.equal(called(stock, **given), expected)
    with attach(plain.pipe, [selfs]) as other:
        called(plain, ip_adapter_image_embeds=[torch.randn(2, 1, 8)], num_inference_steps=1)
    assert not any("encoder_hid_proj" in name for name in run.coverage.sites)
    assert run[selfs].counts == other[selfs].counts
    assert [(site.attends_to, key.shape[2]) for site, _, key, *_ in run[calls].seen] == [
        ("text", 16),
        ("image prompt 0", 16),
    ]
    forms = run[streams].record.forms(0).values()
    assert all(form.grid is None and form.image is None for form in forms)


def test_the_projection_of_stable_diffusion_3_is_no_site_either():
    pipe = stable_diffusion_3(dual=False)
    pipe.set_progress_bar_config(disable=True)
    before = sdprobe.sample(pipe, "a red circle", steps=1, height=16, width=16, progress=False).coverage.sites
    pipe.transformer.image_proj = IPAdapterTimeImageProjection(
        embed_dim=8, output_dim=16, hidden_dim=16, depth=1, dim_head=8, heads=2, num_queries=4
    )
    with sdprobe.attach(pipe, [sdprobe.SelfAttentionMaps()]) as run:
        pipe("a red circle", num_inference_steps=1, height=16, width=16, output_type="latent")
    assert run.coverage.sites == before
