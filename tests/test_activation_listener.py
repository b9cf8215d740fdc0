"""The point `activation`: every tensor of a named module, in every family, as a forward hook by hand would see it."""

import pytest
import torch

import sdprobe
from tests.families import flux, pixart, stable_diffusion_3, stable_diffusion_xl
from tests.stock_pipelines import (
    called,
    controlnet,
    flux_guided,
    instruct_pix2pix,
    sd3_controlnet,
    text_to_image,
    xl_inpainting,
)
from tests.tiny import stable_diffusion
from tests.tiny_models.qwen_image import qwen_image

FAMILIES = [stable_diffusion, stable_diffusion_xl, stable_diffusion_3, flux, pixart, qwen_image]
SETTINGS = {"steps": 2, "seed": 0, "progress": False}


class See(sdprobe.Observer):
    def __init__(self, *modules, sides=("input", "output"), streams=None):
        self.modules, self.sides, self.streams = modules, sides, streams

    def start(self, run):
        self.found = {}

    def activation(self, x, site):
        self.found.setdefault((site.name, site.side, site.stream), []).append((x, site))


class Change(sdprobe.Transform):
    def __init__(self, *modules, change, sides=("output",), streams=None):
        self.modules, self.sides, self.streams, self.change = modules, sides, streams, change

    def activation(self, x, site):
        return self.change(x)


def sampled(make, *hooks, **settings):
    torch.manual_seed(0)
    return sdprobe.sample(sdprobe.load(make()), "a red circle", hooks=hooks, **{**SETTINGS, **settings})


@pytest.mark.parametrize("make", FAMILIES)
def test_to_pass_every_tensor_of_every_module_changes_no_bit(make):
    same = Change("*", "text_encoder*", "vae.*", change=lambda x: x, sides=("input", "output"))
    plain, seen = sampled(make), sampled(make, same, see := See("*", "text_encoder*", "vae.*"))
    assert torch.equal(plain.latents, seen.latents)
    assert plain.images == seen.images
    sides = {(name, side) for name, side, _ in seen[see].found}
    labels = {label for label in seen.coverage.seen if "no tensor here" not in seen.coverage.missed.get(label, "")}
    assert sides == {tuple(label[:-1].split(" (")) for label in labels}
    assert len(sides) > 250


@pytest.mark.parametrize("make", [instruct_pix2pix, controlnet, xl_inpainting, sd3_controlnet, flux_guided])
def test_nor_does_it_in_a_stock_pipeline(make):
    stock = make()
    same = Change("*", "text_encoder*", "vae.*", change=lambda x: x, sides=("input", "output"))
    plain = called(stock, output_type="pil")
    with sdprobe.attach(stock.pipe, [same]) as run:
        passed = called(stock, output_type="pil")
    assert plain == passed == run.images
    for part in ("text_encoder", "vae.decoder"):
        assert any(label.startswith(part) for label in run.coverage.seen)


@pytest.mark.parametrize("make", [stable_diffusion_3, flux, qwen_image])
def test_a_joint_block_takes_and_gives_both_streams(make):
    model = sdprobe.load(make())
    run = sdprobe.sample(model, "a red circle", hooks=[see := See("*transformer_blocks.?")], **SETTINGS)
    blocks = {name for name, _, _ in run[see].found}
    assert len(blocks) == len(model.denoiser.transformer_blocks) + len(
        getattr(model.denoiser, "single_transformer_blocks", ())
    )
    last = f"transformer_blocks.{len(model.denoiser.transformer_blocks) - 1}"
    for name in blocks:
        (x, site), *_ = run[see].found[name, "output", "image"]
        assert x.shape[1] == site.grid[0] * site.grid[1] == site.image.stop
        assert site.text is None
        given = [stream for own, side, stream in run[see].found if (own, side) == (name, "output")]
        assert sorted(given) == (["image"] if make is stable_diffusion_3 and name == last else ["image", "text"])


def test_one_stream_of_image_and_text_says_where_each_is():
    run = sampled(flux, see := See("single_transformer_blocks.0.proj_mlp", "single_transformer_blocks.0"))
    (mixed, site), *_ = run[see].found["single_transformer_blocks.0.proj_mlp", "input", "hidden"]
    assert (site.text.stop, site.image.stop) == (site.image.start, mixed.shape[1])
    normed = run.model.denoiser.single_transformer_blocks[0].norm.norm
    for stream, where in (("image", site.image), ("text", site.text)):
        (x, _), *_ = run[see].found["single_transformer_blocks.0", "input", stream]
        assert x.shape[1] == where.stop - where.start
        assert normed(x).shape == mixed[:, where].shape


@pytest.mark.parametrize("make", [stable_diffusion_3, flux, qwen_image])
def test_an_activation_set_at_one_patch_moves_exactly_that_patch(make):
    pipe = make()
    model = sdprobe.load(pipe)
    blocks = [
        (name, own)
        for part in ("transformer_blocks", "single_transformer_blocks")
        for name, own in ((f"{part}.{i}", own) for i, own in enumerate(getattr(pipe.transformer, part, ())))
    ]
    for name, block in reversed(blocks):  # the blocks after this one are the identity: their gates are shut
        planted = Change(name, streams=("image",), change=lambda x: torch.cat([x[:, :5], x[:, 5:6] + 1, x[:, 6:]], 1))
        settings = {**SETTINGS, "steps": 1, "guidance_scale": 1.0}
        outputs = []
        keep = sdprobe.watch("model_output", outputs.append)
        for hooks in ([], [planted]):
            run = sdprobe.sample(model, "a star", hooks=[*hooks, keep], **settings)
        h, w = run.latents.shape[-2] // 2, run.latents.shape[-1] // 2
        moved = (outputs[0] != outputs[1]).any(1)[0].unflatten(0, (h, 2)).unflatten(2, (w, 2)).any(3).any(1)
        assert moved.flatten().nonzero().flatten().tolist() == [5], name
        for named in ("norm1.linear", "norm.linear", "img_mod.1"):
            if (gates := dict(block.named_modules()).get(named)) is not None:
                torch.nn.init.zeros_(gates.weight)
                torch.nn.init.zeros_(gates.bias)


def by_hand(pipe, name, change, before=False):
    module = pipe.unet.get_submodule(name)
    if before:
        return module.register_forward_pre_hook(lambda module, args, kwargs: change(args, kwargs), with_kwargs=True)
    return module.register_forward_hook(lambda module, args, output: change(output))


def test_a_block_of_a_unet_gives_its_skips_too():
    pipe = stable_diffusion()
    model = sdprobe.load(pipe)
    for streams, change in (
        (None, lambda out: (2 * out[0], tuple(2 * x for x in out[1]))),
        (("hidden",), lambda out: (2 * out[0], out[1])),
        (("skip 1",), lambda out: (out[0], (out[1][0], 2 * out[1][1], *out[1][2:]))),
    ):
        hook = Change("down_blocks.0", streams=streams, change=lambda x: 2 * x)
        ours = sdprobe.sample(model, "a star", hooks=[hook], **SETTINGS).latents
        handle = by_hand(pipe, "down_blocks.0", change)
        assert torch.equal(ours, sdprobe.sample(model, "a star", **SETTINGS).latents)
        handle.remove()
        assert not torch.equal(ours, sdprobe.sample(model, "a star", **SETTINGS).latents)


def test_what_a_module_takes_is_changed_before_it_runs():
    pipe = stable_diffusion()
    model = sdprobe.load(pipe)
    name = next(name for name, _ in pipe.unet.named_modules() if name.endswith("attn2.to_out.0"))
    hook = sdprobe.on("activation", lambda x, site: x * site.heads, modules=name, sides="input")
    ours = sdprobe.sample(model, "a star", hooks=[hook], **SETTINGS).latents
    heads = pipe.unet.get_submodule(name.removesuffix(".to_out.0")).heads
    handle = by_hand(pipe, name, lambda args, kwargs: ((args[0] * heads, *args[1:]), kwargs), before=True)
    assert heads > 1
    assert torch.equal(ours, sdprobe.sample(model, "a star", **SETTINGS).latents)
    handle.remove()


@pytest.mark.parametrize("streams", [("image",), ("hidden", "skips*")])
def test_a_stream_pattern_that_fits_nothing_is_refused_with_the_streams_there_are(streams):
    modules, there = ("mid_block", "hidden") if streams == ("image",) else ("down_blocks.0", "hidden, skip 0, skip 1")
    with pytest.raises(ValueError, match=rf"pattern '{streams[-1].replace('*', '.')}' fits none of .*: {there}"):
        sampled(stable_diffusion, Change(modules, streams=streams, change=lambda x: 2 * x))
    loose = Change(modules, streams=("image",), change=lambda x: 2 * x)
    loose.strict = False
    run = sampled(stable_diffusion, loose)
    assert run.coverage.missed == {f"{modules} (output)": f"nobody asks for its streams: {there}"}
    assert torch.equal(run.latents, sampled(stable_diffusion).latents)


def test_modules_that_do_not_run_are_said_where_others_did():
    stock = text_to_image()
    embeds, negative = stock.pipe.encode_prompt("a red circle", "cpu", 1, True)
    asked = {"prompt": None, "prompt_embeds": embeds, "negative_prompt_embeds": negative, "output_type": "latent"}
    change = Change("mid_block", "text_encoder.*layers.0", "vae.decoder.mid_block", change=lambda x: 2 * x)
    with pytest.warns(UserWarning, match="none ran in this run") as warned, sdprobe.attach(stock.pipe, [change]):
        called(stock, **asked)
    said = [str(own.message) for own in warned if "none ran in this run" in str(own.message)]
    assert len(said) == 2
    assert "'text_encoder.*layers.0'" in said[0]
    assert "'vae.decoder.mid_block'" in said[1]


@pytest.mark.parametrize("sides", [("outputs",), (), ("input", "both")])
def test_sides_are_input_and_output(sides):
    with pytest.raises(ValueError, match="a module has the sides input and output"):
        sdprobe.Hooks(See("mid_block", sides=sides))


def test_limits_hold_for_every_stream():
    hook = sdprobe.only(See("transformer_blocks.0", sides=("output",)), steps=[1], rows="cond")
    run = sampled(stable_diffusion_3, hook, guidance_scale=3.0)
    for (_, _, stream), ((x, site), *more) in run[hook].found.items():
        assert (stream, len(x), site.step.index, site.index, more) == (stream, 1, 1, 1, [])
        assert [row.role for row in site.rows] == ["cond"]
    assert {stream for _, _, stream in run[hook].found} == {"image", "text"}
