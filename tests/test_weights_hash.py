"""The hash of a model's weights: the same for the same weights, and for no others."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe.model import weights_hash as module
from sdprobe.model.weights_hash import source_of, weights_hash
from tests.tiny import stable_diffusion


def test_two_pipelines_of_the_same_weights(tmp_path):
    pipe = stable_diffusion()
    pipe.save_pretrained(tmp_path)
    assert weights_hash(pipe) == weights_hash(sdprobe.load(str(tmp_path)).pipe)
    assert weights_hash(pipe) != weights_hash(sdprobe.load().pipe)


def parameters(pipe):
    """One of each part, which is changed."""
    return {name: next(iter(getattr(pipe, name).state_dict().items())) for name in ("unet", "vae", "text_encoder")}


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_weight_that_changes_changes_it_and_changes_it_back(part):
    pipe = stable_diffusion()
    before = weights_hash(pipe)
    _, weight = parameters(pipe)[part]
    with torch.no_grad():
        weight.mul_(2)
        changed = weights_hash(pipe)
        weight.div_(2)
    assert changed != before
    assert weights_hash(pipe) == before


def test_a_single_number_of_many_changes_it():
    pipe = stable_diffusion()
    before = weights_hash(pipe)
    with torch.no_grad():
        pipe.unet.up_blocks[0].resnets[0].conv1.weight.view(-1)[7] += 1
    assert weights_hash(pipe) != before


def test_a_run_leaves_it_as_it_was_computed(monkeypatch):
    model = sdprobe.load(stable_diffusion())
    before = weights_hash(model.pipe)
    swap = sdprobe.ReplaceToken("red", with_="blue")
    sdprobe.sample(model, "a red circle", hooks=[swap], steps=1, seed=0, progress=False)
    own, sizes = module._hash, []
    monkeypatch.setattr(
        module, "_hash", lambda tensors: (sizes.append(sum(x.numel() for x in tensors.values())), own(tensors))[1]
    )
    assert weights_hash(model.pipe) == before
    assert len(sizes) == 1  # the sample


def test_the_strength_of_a_lora_counts_and_whether_it_is_active():
    peft = pytest.importorskip("peft", reason="no peft: pip install peft")
    pipe = stable_diffusion()
    plain = weights_hash(pipe)
    lora = peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q"])
    pipe.unet.add_adapter(lora, adapter_name="style")
    found = [plain, weights_hash(pipe)]
    pipe.set_adapters("style", 0.3)
    found.append(weights_hash(pipe))
    pipe.disable_lora()
    found.append(weights_hash(pipe))
    assert len(set(found)) == 4
    pipe.enable_lora()
    pipe.set_adapters("style", 1.0)
    assert weights_hash(pipe) == found[1]


def test_written_past_torch_too():
    pipe = stable_diffusion()
    before = weights_hash(pipe)
    _, weight = parameters(pipe)["unet"]
    weight.numpy()[...] += 1
    assert weights_hash(pipe) != before


def test_the_dtype_counts_and_the_place_in_memory_does_not():
    pipe = stable_diffusion()
    before = weights_hash(pipe)
    for module_ in (pipe.unet, pipe.vae):
        module_.to(memory_format=torch.channels_last)
    assert weights_hash(pipe) == before
    pipe.to(torch.bfloat16)
    assert weights_hash(pipe) != before


def test_it_is_computed_once(monkeypatch):
    pipe, sizes = stable_diffusion(), []
    own = module._hash

    def counting(tensors, *also):
        sizes.append(sum(x.numel() for x in tensors.values()))
        return own(tensors, *also)

    monkeypatch.setattr(module, "_hash", counting)
    assert weights_hash(pipe) == weights_hash(pipe)
    assert len(sizes) == 3  # a sample, all, a sample
    assert sizes[0] == sizes[2] < sizes[1]


def test_weights_that_are_not_there_have_none():
    pipe = stable_diffusion()
    pipe.unet.to("meta")
    assert weights_hash(pipe) is None


def test_where_it_was_loaded_from(tmp_path):
    assert source_of(stable_diffusion()) is None
    assert source_of(sdprobe.load("shapes-joint").pipe) == "shapes-joint"
    stable_diffusion().save_pretrained(tmp_path)
    assert source_of(sdprobe.load(str(tmp_path)).pipe) == str(tmp_path)
