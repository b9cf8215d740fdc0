"""Attention calls go to the hooks of their own thread, whichever function makes them, and nothing stays replaced."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from diffusers.models import attention_dispatch

import sdprobe
from sdprobe.model.denoiser.attention_calls import backend_of, divert, restore
from tests.families import flux
from tests.tiny import stable_diffusion

SETTINGS = {"steps": 2, "height": 16, "width": 16, "seed": 3, "progress": False}
STOCK = F.scaled_dot_product_attention
Q = torch.randn(1, 2, 4, 8, generator=torch.Generator().manual_seed(0))


pytestmark = pytest.mark.usefixtures("backend_of_others_stays")


class Calls(sdprobe.Observer):
    def start(self, run):
        self.names = []

    def attention(self, attn, site):
        self.names.append(site.name)
        F.scaled_dot_product_attention(Q, Q, Q)  # a call of the hook's own is none of the module's


def doubled(stock, *args, **kwargs):
    return 2 * stock(*args, **kwargs)


def test_calls_are_received_from_divert_to_restore():
    plain = F.scaled_dot_product_attention(Q, Q, Q)
    before = divert(doubled)
    try:
        assert torch.equal(F.scaled_dot_product_attention(Q, Q, Q), 2 * plain)
        inner = divert(None)
        assert torch.equal(F.scaled_dot_product_attention(Q, Q, Q), plain)
        restore(inner)
        assert torch.equal(F.scaled_dot_product_attention(Q, Q, Q), 2 * plain)
    finally:
        restore(before)
    assert F.scaled_dot_product_attention is STOCK


def test_other_threads_call_what_they_always_call():
    plain, found = F.scaled_dot_product_attention(Q, Q, Q), []
    before = divert(doubled)
    try:
        thread = threading.Thread(target=lambda: found.append(F.scaled_dot_product_attention(Q, Q, Q)))
        thread.start()
        thread.join()
    finally:
        restore(before)
    assert torch.equal(found[0], plain)


@pytest.mark.slow
def test_runs_in_several_threads_see_their_own_calls_and_leave_nothing():
    models = [sdprobe.load(stable_diffusion()) for _ in range(3)]
    plain = [sdprobe.sample(model, "a star", **SETTINGS).latents for model in models]
    found = [None] * 3

    def work(number):
        hook = Calls()
        run = sdprobe.sample(models[number], "a star", hooks=[hook], **SETTINGS)
        found[number] = (run.latents, run[hook].names)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert F.scaled_dot_product_attention is STOCK
    for (latents, names), expected in zip(found, plain, strict=True):
        assert torch.equal(latents, expected)
        assert names == found[0][1]
        assert len(names) == len(set(names)) * SETTINGS["steps"]


def test_a_function_that_somebody_put_in_its_place_is_called_and_stays(monkeypatch):
    """As SageAttention is often used: it takes the place of torch's function."""
    asked = []

    def sage(query, key, value, attn_mask=None, **kwargs):
        asked.append(query.shape)
        return STOCK(query, key, value, attn_mask=attn_mask) * 1.01

    monkeypatch.setattr(F, "scaled_dot_product_attention", sage)
    model = sdprobe.load(stable_diffusion())
    plain = sdprobe.sample(model, "a star", **SETTINGS).latents
    calls, asked[:] = len(asked), []
    run = sdprobe.sample(model, "a star", hooks=[maps := sdprobe.AttentionMaps()], **SETTINGS)
    assert F.scaled_dot_product_attention is sage
    assert len(asked) == calls
    assert torch.equal(run.latents, plain)
    assert torch.allclose(run[maps].row_sums(), torch.ones(()), atol=1e-5)


def test_a_function_that_takes_its_place_meanwhile_is_left_there():
    before = divert(doubled)
    received = F.scaled_dot_product_attention
    try:
        F.scaled_dot_product_attention = own = lambda *args, **kwargs: received(*args, **kwargs)
        restore(before)
        assert F.scaled_dot_product_attention is own
        assert torch.equal(own(Q, Q, Q), STOCK(Q, Q, Q))
        F.scaled_dot_product_attention = received  # put back what it found
        again = divert(doubled)
        assert torch.equal(F.scaled_dot_product_attention(Q, Q, Q), 2 * STOCK(Q, Q, Q))
        restore(again)
    finally:
        F.scaled_dot_product_attention = STOCK


@pytest.mark.parametrize("backend", ["native", "_native_math", "flex"])
def test_backends_of_diffusers_are_seen_and_their_output_is_theirs(backend):
    pipe = flux()
    pipe.transformer.set_attention_backend(backend)
    table = dict(attention_dispatch._AttentionBackendRegistry._backends)
    module = pipe.transformer.transformer_blocks[0].attn
    assert (backend_of(module) is None) == (backend != "flex")
    model = sdprobe.load(pipe)
    plain = sdprobe.sample(model, "a star", **SETTINGS).latents
    maps, same = sdprobe.AttentionMaps(), sdprobe.on("attention", lambda attn: attn)
    run = sdprobe.sample(model, "a star", hooks=[maps, same], **SETTINGS)
    assert torch.equal(run.latents, plain)
    assert not run.coverage.missed
    pipe.transformer.set_attention_backend("native")
    native = sdprobe.sample(model, "a star", hooks=[maps], **SETTINGS)
    assert torch.allclose(run[maps].heat_map("star").values, native[maps].heat_map("star").values, atol=1e-6)
    assert attention_dispatch._AttentionBackendRegistry._backends == table


def test_a_transform_acts_on_another_backend_as_on_torchs_own():
    pipe, hook = flux(), sdprobe.on("attention", lambda attn: attn.with_value(attn.value / 2))
    native = sdprobe.sample(pipe, "a star", hooks=[hook], **SETTINGS).latents
    pipe.transformer.set_attention_backend("flex")
    assert torch.allclose(sdprobe.sample(pipe, "a star", hooks=[hook], **SETTINGS).latents, native, atol=1e-4)


def test_a_function_that_a_hook_puts_there_stays_and_calls_what_it_found():
    """It found the function that looks who listens; nothing goes round in circles, in the run or after it."""
    pipe = stable_diffusion()

    class Patch(sdprobe.Observer):
        def attention(self, attn, site):
            if F.scaled_dot_product_attention.__name__ != "patched":
                found = F.scaled_dot_product_attention

                def patched(*args, **kwargs):
                    return found(*args, **kwargs)

                F.scaled_dot_product_attention = patched

    plain = sdprobe.sample(pipe, "a star", **SETTINGS).latents
    try:
        assert torch.equal(sdprobe.sample(pipe, "a star", hooks=[Patch()], **SETTINGS).latents, plain)
        assert F.scaled_dot_product_attention.__name__ == "patched"
        assert torch.equal(F.scaled_dot_product_attention(Q, Q, Q), STOCK(Q, Q, Q))
        maps = sdprobe.AttentionMaps()
        run = sdprobe.sample(pipe, "a star", hooks=[maps], **SETTINGS)
        assert torch.equal(run.latents, plain)
        assert F.scaled_dot_product_attention.__name__ == "patched"
    finally:
        F.scaled_dot_product_attention = STOCK


def test_a_backend_that_is_registered_meanwhile_is_left_there(monkeypatch):
    registry = attention_dispatch._AttentionBackendRegistry
    flex = attention_dispatch.AttentionBackendName.FLEX
    monkeypatch.setitem(registry._backends, flex, registry._backends[flex])
    before = divert(None, flex)
    registry._backends[flex] = new = lambda **kwargs: None
    restore(before)
    assert registry._backends[flex] is new


def test_a_hook_that_calls_the_denoiser_by_itself_is_not_called_for_that():
    model = sdprobe.load(stable_diffusion())
    plain = sdprobe.sample(model, "a star", **SETTINGS)

    class Again(sdprobe.Observer):
        kinds = ("cross",)

        def start(self, run):
            self.names = []

        def attention(self, attn, site):
            self.names.append(site.name)
            x = torch.cat([site.step.latents] * 2)
            model.denoiser(x, site.step.timestep, torch.zeros(2, 16, model.denoiser.config.cross_attention_dim))

    run = sdprobe.sample(model, "a star", hooks=[again := Again(), calls := Calls()], **SETTINGS)
    assert len(run[again].names) == len(set(run[again].names)) * SETTINGS["steps"]
    assert len(run[calls].names) == len(set(run[calls].names)) * SETTINGS["steps"]
    assert torch.equal(run.latents, plain.latents)


def test_an_error_leaves_the_functions_as_they_were():
    def fail(attn):
        raise RuntimeError("no")

    for pipe in (stable_diffusion(), flux()):
        if hasattr(pipe, "transformer"):
            pipe.transformer.set_attention_backend("flex")
        table = dict(attention_dispatch._AttentionBackendRegistry._backends)
        with pytest.raises(RuntimeError, match="no"):
            sdprobe.sample(pipe, "a star", hooks=[sdprobe.on("attention", fail)], **SETTINGS)
        assert F.scaled_dot_product_attention is STOCK
        assert attention_dispatch._AttentionBackendRegistry._backends == table
