"""Modules of the text encoders and of the decoder: passed in `sample` and attached, outside the steps."""

import copy
import dataclasses

import pytest
import torch

import sdprobe
from tests.families import flux, stable_diffusion_3, stable_diffusion_xl
from tests.test_activation_listener import SETTINGS, Change, See
from tests.tiny import stable_diffusion

ENCODED = "text_encoder*layers.0"


@pytest.mark.parametrize("make", [stable_diffusion, stable_diffusion_xl, stable_diffusion_3, flux])
@pytest.mark.parametrize("modules", [(ENCODED,), ("vae.decoder.mid_block",)])
def test_a_change_is_the_same_in_sample_and_attached(make, modules):
    pipe = make()
    pipe.set_progress_bar_config(disable=True)
    change, see = Change(*modules, change=lambda x: 1.5 * x), See(*modules, sides=("output",))
    plain = sdprobe.sample(pipe, "a red circle", **SETTINGS)
    ours = sdprobe.sample(pipe, "a red circle", hooks=[change, see], **SETTINGS)
    with sdprobe.attach(pipe, hooks=[change, see]) as theirs:
        pipe("a red circle", num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    assert ours.images == theirs.images != plain.images
    assert torch.equal(ours.latents, theirs.latents)
    assert torch.equal(ours.latents, plain.latents) == modules[0].startswith("vae")
    assert ours[see].found.keys() == theirs[see].found.keys()
    for key, seen in ours[see].found.items():
        assert all(torch.equal(x, y) for (x, _), (y, _) in zip(seen, theirs[see].found[key], strict=True))


def test_an_encoder_changed_by_hand_gives_the_same_latents():
    pipe = stable_diffusion()
    name = next(name for name, _ in pipe.text_encoder.named_modules() if name.endswith("layers.0"))
    hook = Change(f"text_encoder.{name}", change=lambda x: -x)
    ours = sdprobe.sample(pipe, "a star", hooks=[hook], **SETTINGS).latents
    layer = pipe.text_encoder.get_submodule(name)
    handle = layer.register_forward_hook(
        lambda module, args, out: (-out[0], *out[1:]) if isinstance(out, tuple) else -out
    )
    assert torch.equal(ours, sdprobe.sample(pipe, "a star", **SETTINGS).latents)
    handle.remove()


def test_a_site_outside_the_steps_says_what_its_entries_are_and_has_no_step():
    prompts = ["a red circle", "a star"]
    pipe = stable_diffusion()
    see = See(ENCODED, "vae.decoder.mid_block", sides=("output",))
    run = sdprobe.sample(pipe, prompts, hooks=[see], images_per_prompt=2, guidance_scale=3.0, **SETTINGS)
    (name,) = {name for name, _, _ in run[see].found if name.startswith("text")}
    by_role = {site.rows[0].role: (x, site) for x, site in run[see].found[name, "output", "hidden"]}
    assert set(by_role) == {"cond", "uncond"}
    x, site = by_role["cond"]
    assert [(row.image, row.prompt.text) for row in site.rows] == [(0, "a red circle"), (2, "a star")]
    assert (site.text, site.grid, site.index) == (slice(0, x.shape[1]), None, None)
    assert site.run is run
    with pytest.raises(AttributeError, match="runs outside the steps, so its site has no step"):
        _ = site.step
    (x, site), *_ = run[see].found["vae.decoder.mid_block", "output", "hidden"]
    assert [row.image for row in site.rows] == [0, 1, 2, 3]
    assert site.grid == tuple(x.shape[-2:])
    assert run.coverage.seen[f"{name} (output)"] == 2
    assert next(own for own in run.coverage.hooks if "See" in own.hook).calls["activation"] == 3


def test_rows_limit_an_encoder_and_a_decoder_as_if_they_ran_alone():
    pipe = stable_diffusion()
    prompts = ["a red circle", "a star"]
    for modules in (ENCODED, "vae.decoder.mid_block"):
        change = Change(modules, change=lambda x: 1.5 * x)
        plain, all_, one = (
            sdprobe.sample(pipe, prompts, hooks=own, guidance_scale=1.0, **SETTINGS)
            for own in ([], [change], [sdprobe.only(change, rows=[1])])
        )
        assert one.images[0] == plain.images[0] != all_.images[0]
        assert one.images[1] == all_.images[1] != plain.images[1]


def test_what_cannot_be_limited_is_refused_in_words():
    pipe = stable_diffusion()
    change = Change(ENCODED, change=lambda x: 2 * x)
    with pytest.raises(ValueError, match=r"limited to steps asks for text_encoder.*, which runs outside the steps"):
        sdprobe.sample(pipe, "a star", hooks=[sdprobe.only(change, steps=[0])], **SETTINGS)
    with pytest.raises(ValueError, match="encodes a prompt once for all of its 2 images"):
        sdprobe.sample(pipe, "a star", hooks=[sdprobe.only(change, rows=[0])], images_per_prompt=2, **SETTINGS)


def test_a_pattern_may_name_the_text_model_or_not():
    pipe = stable_diffusion()
    found = []
    for modules in ("text_encoder.text_model.encoder.layers.*", "text_encoder.encoder.layers.*"):
        run = sdprobe.sample(pipe, "a star", hooks=[see := See(modules)], **SETTINGS)
        found.append(list(run[see].found))
    assert found[0] == found[1] != []


def test_a_pattern_reaches_outside_the_denoiser_only_by_the_parts_name():
    run = sdprobe.sample(stable_diffusion(), "a star", hooks=[see := See("*")], **SETTINGS)
    assert not any(name.startswith(("text_encoder", "vae.")) for name, _, _ in run[see].found)
    with pytest.raises(ValueError, match=r"'text_encoder.layer' matches no activation site.*nearest.*text_encoder"):
        sdprobe.sample(stable_diffusion(), "a star", hooks=[See("text_encoder.layer")], **SETTINGS)


def test_a_hooks_own_decoding_is_not_heard():
    see = See("vae.decoder.mid_block", sides=("output",))
    run = sdprobe.sample(stable_diffusion(), "a star", hooks=[see, sdprobe.Preview()], **SETTINGS)
    assert len(run[see].found["vae.decoder.mid_block", "output", "hidden"]) == 1


def test_a_decoder_that_works_in_parts_is_refused_with_the_remedy():
    pipe = stable_diffusion()
    see = See("vae.decoder.mid_block", sides=("output",))
    pipe.vae.enable_slicing()
    sdprobe.sample(pipe, "a star", hooks=[see], **SETTINGS)
    with pytest.raises(ValueError, match=r"decodes with slicing, .* switch it off by pipe.vae.disable_slicing\(\)"):
        sdprobe.sample(pipe, "a star", hooks=[see], images_per_prompt=2, **SETTINGS)
    pipe.vae.disable_slicing()
    pipe.vae.enable_tiling()
    sdprobe.sample(pipe, "a star", hooks=[see], **SETTINGS)
    pipe.vae.tile_latent_min_size = 2
    with pytest.raises(ValueError, match=r"decodes with tiling, .* switch it off by pipe.vae.disable_tiling\(\)"):
        sdprobe.sample(pipe, "a star", hooks=[see], **SETTINGS)


def test_sites_can_be_compared_and_replaced():
    run = sdprobe.sample(stable_diffusion(), "a star", hooks=[see := See(ENCODED, sides=("output",))], **SETTINGS)
    site = next(iter(run[see].found.values()))[0][1]
    assert site == copy.copy(site)
    assert site != dataclasses.replace(site, heads=3)
    assert len({site, copy.copy(site)}) == 1


@pytest.mark.parametrize("limited", [lambda hook: sdprobe.only(hook, steps=[0]), sdprobe.every(2)])
def test_every_limit_on_steps_is_refused(limited):
    with pytest.raises(ValueError, match=r"limited to steps asks for text_encoder.*, which runs outside the steps"):
        sdprobe.sample(stable_diffusion(), "a star", hooks=[limited(See(ENCODED))], **SETTINGS)
