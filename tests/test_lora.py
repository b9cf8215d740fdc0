"""LoRA: stacks of adapters with weights, fused and taken off, are those of the stock pipeline; names stay the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import sdprobe
from sdprobe.model.weights_hash import weights_hash
from tests.families import flux
from tests.laws.strategies import same_run, same_values, seen
from tests.stock_pipelines import SMALL, Stock, attached, called, sampled
from tests.tiny import stable_diffusion

peft = pytest.importorskip("peft", reason="diffusers loads LoRA by way of peft")
pytestmark = pytest.mark.filterwarnings("ignore:.*adapter.*")
FAMILIES = {
    "Stable Diffusion": (stable_diffusion, ["to_q", "to_k", "to_out.0"], "cross_attention_kwargs"),
    "Flux": (flux, ["to_q", "to_k", "add_k_proj"], "joint_attention_kwargs"),
}


def network(pipe: Any) -> Any:
    return getattr(pipe, "unet", None) or pipe.transformer


def part(pipe: Any) -> str:
    return "unet" if hasattr(pipe, "unet") else "transformer"


def config(layers: list[str]) -> Any:
    return peft.LoraConfig(r=2, lora_alpha=3, target_modules=layers, init_lora_weights=False)


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request, tmp_path_factory):
    """A family, and the folders of two LoRAs: of the denoiser, and of it and a text encoder."""
    make, layers, _ = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp("lora")
    for seed, name, own in ((1, "style", layers), (2, "subject", layers[:1])):
        pipe = make()
        torch.manual_seed(seed)
        network(pipe).add_adapter(config(own))
        given = {f"{part(pipe)}_lora_layers": peft.get_peft_model_state_dict(network(pipe))}
        if name == "subject":
            pipe.text_encoder.add_adapter(config(["q_proj"]))
            given["text_encoder_lora_layers"] = peft.get_peft_model_state_dict(pipe.text_encoder)
        pipe.save_lora_weights(folder / name, **given)
    return request.param, folder


def loaded(saved: Any, *names: str) -> Stock:
    """A pipeline with LoRAs, of which the last one acts."""
    family, folder = saved
    pipe = FAMILIES[family][0]()
    pipe.set_progress_bar_config(disable=True)
    for name in names:
        pipe.load_lora_weights(str(folder / name), weight_name="pytorch_lora_weights.safetensors", adapter_name=name)
    return Stock(pipe, SMALL)


WAYS: dict[str, Callable[[Any], Any]] = {
    "one": lambda pipe: pipe.set_adapters("style"),
    "one, at half its strength": lambda pipe: pipe.set_adapters("style", 0.5),
    "both, with weights": lambda pipe: pipe.set_adapters(["style", "subject"], [0.5, 1.5]),
    "fused": lambda pipe: fused(pipe),
    "fused, and taken apart": lambda pipe: (fused(pipe), pipe.unfuse_lora(components=components(pipe))),
    "switched off": lambda pipe: pipe.disable_lora(),
}


def components(pipe: Any) -> list[str]:
    return [part(pipe), "text_encoder"]


def fused(pipe: Any) -> None:
    pipe.set_adapters(["style", "subject"], [0.5, 1.5])
    pipe.fuse_lora(components=components(pipe))


@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_the_stock_pipeline_s(saved, way):
    stock = loaded(saved, "style", "subject")
    WAYS[way](stock.pipe)
    expected, hooks = called(stock), [seen("attention"), seen("activation"), seen("prompt_embeds")]
    hooks[1].modules = ("*to_q", "text_encoder.*q_proj")
    run, own = attached(stock, *hooks), sampled(stock, *hooks, height=16, width=16)
    assert torch.equal(called(stock), expected)
    assert same_run(run, own)
    for hook in hooks:
        assert run[hook].values
        assert same_values(run[hook].values, own[hook].values)
    plain = loaded(saved)
    assert run.coverage.sites == attached(plain).coverage.sites  # names and kinds are those without
    assert same_run(run, attached(plain)) == (way == "switched off")


def test_a_layer_s_name_gives_what_the_layer_gives_with_its_loras(saved):
    stock, plain = loaded(saved, "style", "subject"), loaded(saved)
    weights = {"style": 0.5, "subject": 1.5}
    stock.pipe.set_adapters(list(weights), list(weights.values()))
    name = next(name for name in sdprobe.load(plain.pipe).modules if name.endswith("to_q"))
    keep, whole = sdprobe.Activations(name, sides=("input", "output")), sdprobe.Activations("*to_q")
    run = attached(stock, keep, whole)
    assert run[whole].record.keys == attached(plain, whole)[whole].record.keys
    layer = network(stock.pipe).get_submodule(name)
    given, made = (
        run[keep].record.at(0, next(key for key in run[keep].record.keys if key.side == side))
        for side in ("input", "output")
    )
    found = layer.base_layer(given)
    for own in weights:
        found = found + layer.lora_B[own](layer.lora_A[own](given)) * layer.scaling[own]
    assert torch.allclose(made, found, atol=1e-6)
    assert not torch.allclose(made, layer.base_layer(given), atol=1e-3)


def test_the_strength_of_a_call_acts_too(saved):
    """``scale``, which pipelines take among the arguments of attention."""
    stock = loaded(saved, "style", "subject")
    stock.pipe.set_adapters(["style", "subject"], [0.5, 1.5])
    given = {FAMILIES[saved[0]][2]: {"scale": 0.4}}
    expected = called(stock, **given)
    with sdprobe.attach(stock.pipe, [sdprobe.AttentionMaps(), seen("prompt_embeds")]):
        assert torch.equal(called(stock, **given), expected)
    assert not torch.equal(called(stock), expected)


def test_the_hash_tells_adapters_and_weights_apart_and_is_the_old_one_when_they_are_gone(saved):
    stock = loaded(saved)
    before, expected = weights_hash(stock.pipe), called(stock)
    stock = loaded(saved, "style", "subject")
    found = []
    for names, weights in (
        (["style"], [1.0]),
        (["subject"], [1.0]),
        (["style", "subject"], [1.0, 1.0]),
        (["style", "subject"], [0.5, 1.5]),
        (["style", "subject"], [1.5, 0.5]),
    ):
        stock.pipe.set_adapters(names, weights)
        found.append(weights_hash(stock.pipe))
    assert len({before, *found}) == 6
    stock.pipe.set_adapters(["style", "subject"], [0.5, 1.5])
    assert weights_hash(stock.pipe) == found[3]
    stock.pipe.fuse_lora(components=components(stock.pipe))
    assert weights_hash(stock.pipe) not in {before, *found}
    stock.pipe.unfuse_lora(components=components(stock.pipe))
    stock = loaded(saved, "style", "subject")
    stock.pipe.unload_lora_weights()
    assert weights_hash(stock.pipe) == before
    assert torch.equal(called(stock), expected)


def test_a_lora_of_the_text_encoder_changes_what_a_prompt_is(saved):
    stock = loaded(saved, "style", "subject")
    values = []
    for name in ("style", "subject"):
        stock.pipe.set_adapters(name)
        hook = seen("pooled_embeds" if saved[0] == "Flux" else "prompt_embeds")
        run, own = attached(stock, hook), sampled(stock, hook, height=16, width=16)
        assert same_values(run[hook].values, own[hook].values)
        values.append(run[hook].values[-1])
    assert not torch.equal(*values)


def test_layers_within_a_lora_of_the_text_s_keys_are_of_the_text():
    """Sixteen tokens are as many as the coarsest grid has places."""
    pipe = stable_diffusion()
    pipe.unet.add_adapter(config(["to_k"]))
    keep = sdprobe.Activations("*attn2.to_k*")
    run = sampled(Stock(pipe, {}), keep, height=16, width=16)
    forms = run[keep].record.forms(0)
    assert {key.name.rsplit("to_k")[1] for key in forms} >= {"", ".base_layer", ".lora_A.default"}
    assert all(form.grid is None and form.text == (0, 16) for form in forms.values())
