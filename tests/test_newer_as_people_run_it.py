"""The newer families as people run them, each held to the first table of docs/concepts/as_you_run_it.md."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from tests.newer_families import NEWER, at_night, attached, latents_of, run, stock
from tests.test_as_people_run_it import Gradients
from tests.ways_of_running import NETWORKS, OFFLOAD, WAYS, denoisers, layerwise_casting, tiled

IN_SPACE_AND_TIME = (
    *("Krea 2", "LTX-Video", "CogVideoX", "CogVideoX 1.5", "HunyuanVideo", "Wan 2.1", "Wan 2.2", "Qwen-Image"),
)
"""Families with convolutions over frames too, of pictures as well: torch has another layout for these."""

WITHOUT = {
    "`memory_format=torch.channels_last`": IN_SPACE_AND_TIME,
    "`fuse_qkv_projections()`": ("Lumina 2", "Z-Image"),
    "`pipe.enable_freeu(...)`": tuple(NEWER),
}
"""The families to which diffusers or torch does not give a way of running."""

EVERY = [(name, family) for name in WAYS for family in NEWER]
OFTEN = (
    *("`pipe.to(torch.bfloat16)`", "`enable_layerwise_casting(...)` of the denoiser", "`pipe.vae.enable_tiling()`"),
    *('`enable_group_offload(offload_type="leaf_level")`', "`fuse_qkv_projections()`", "LoRA, one or several"),
)
"""Ways that are tried in every run of the tests, with two families."""
CASES = [(name, family) for name, family in EVERY if family not in WITHOUT.get(name, ())]
FAMILY = pytest.mark.parametrize("family", at_night((family,) for family in NEWER))
NIGHTLY = pytest.mark.parametrize("family", at_night(((family,) for family in NEWER), often=()))


pytestmark = pytest.mark.usefixtures("backend_of_others_stays")


class Picture(sdprobe.Observer):
    """The decoded tensor."""

    def start(self, run):
        self.image_ = None

    def image(self, x, run):
        self.image_ = x.clone()


def made(name, family):
    pipe = NEWER[family]()
    pipe.set_progress_bar_config(disable=True)
    WAYS[name](pipe)
    return pipe


def assert_stock(pipe, family):
    """`sample` and `attach` give what the pipeline gives by itself, and all attention is seen."""
    maps = sdprobe.AttentionMaps(words=["circle"])
    latents, pictures = stock(pipe, family), stock(pipe, family, "pt")
    own = run(pipe, family, maps, Picture())
    shown, by_attach = attached(pipe, family, maps)
    assert torch.equal(latents_of(pipe, own), latents)
    assert torch.equal(own[Picture].image_, pictures)
    assert torch.equal(shown, latents)
    for each in (own, by_attach):
        assert each.coverage.seen
        assert not each.coverage.missed
    assert torch.equal(own[maps].heat_map("circle").values, by_attach[maps].heat_map("circle").values)
    assert torch.equal(stock(pipe, family), latents)


NOW, LATER = ([case for case in CASES if (case[0] in OFTEN) == often] for often in (True, False))


@pytest.mark.parametrize(("name", "family"), [*at_night(NOW), *at_night(LATER, often=())])
def test_it_is_the_stock_pipelines_and_all_attention_is_seen(name, family):
    assert_stock(made(name, family), family)


@pytest.mark.parametrize(("name", "family"), at_night(case for case in EVERY if case not in CASES))
def test_a_way_that_a_family_does_not_have(name, family):
    with pytest.raises((AttributeError, RuntimeError), match=r"has no attribute|required rank 4 tensor"):
        made(name, family)


EXACT = [
    (name, family)
    for name, family in CASES
    if name.startswith(("`enable_group", "`pipe.enable_group", "`pipe.enable_seq", "`pipe.enable_model", "`pipe.vae"))
]


def gradients(pipe, family):
    squares = Gradients()
    return run(pipe, family, squares)[squares].found


@pytest.mark.parametrize(("name", "family"), at_night(EXACT, often=()))
def test_gradients_are_those_of_the_model_as_it_is(name, family):
    as_it_is, as_run = gradients(NEWER[family](), family), gradients(made(name, family), family)
    assert all(torch.equal(a, b) for a, b in zip(as_it_is, as_run, strict=True))


@NIGHTLY
def test_gradients_with_layerwise_casting(family):
    """They are those of a model whose weights have gone through the smaller dtype once, with checkpointing or not."""
    pipe, rounded = NEWER[family](), NEWER[family]().to(torch.bfloat16)
    layerwise_casting(pipe)
    for cast, own in zip(denoisers(pipe), denoisers(rounded), strict=True):
        kept = dict(cast.named_parameters())
        for name, weight in own.named_parameters():
            weight.data = kept[name].data.to(torch.bfloat16)
    for a, b in zip(gradients(pipe, family), gradients(rounded, family), strict=True):
        assert torch.equal(a, b)
    found = [
        run(own, family, sdprobe.LossGuidance(brightness, 2.0, through="model", checkpoint=checkpoint)).latents
        for own, checkpoint in ((rounded, False), (pipe, False), (pipe, True))
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def brightness(pictures):
    return pictures.float().flatten(1).mean(1)  # of videos over all frames


@FAMILY
def test_tiles_are_decoded_one_by_one(family):
    whole, pipe = NEWER[family](), NEWER[family]()
    tiled(pipe)
    assert torch.equal(stock(whole, family), stock(pipe, family))
    assert not torch.equal(stock(whole, family, "pt"), stock(pipe, family, "pt"))


@NIGHTLY
def test_in_inference_mode(family):
    pipe = NEWER[family]()
    with torch.inference_mode():
        assert_stock(pipe, family)


@NIGHTLY
def test_weights_on_disk(family, tmp_path):
    pipe = NEWER[family]()
    for i, network in enumerate(denoisers(pipe)):
        network.enable_group_offload(offload_type="leaf_level", offload_to_disk_path=str(tmp_path / str(i)), **OFFLOAD)
    assert_stock(pipe, family)
    for way in (run, attached):
        with pytest.raises(ValueError, match="a hook wants gradients, and group offloading has taken the weights"):
            way(pipe, family, Gradients())


@NIGHTLY
def test_attention_slicing_changes_nothing(family):
    pipe = NEWER[family]()
    plain = stock(pipe, family)
    pipe.enable_attention_slicing(1)
    assert torch.equal(stock(pipe, family), plain)
    assert_stock(pipe, family)


BACKENDS = [(backend, family) for backend in ("_native_math", "flex") for family in NEWER]


@pytest.mark.parametrize(("backend", "family"), at_night(BACKENDS, often=()))
def test_other_attention_backends(backend, family):
    pipe = NEWER[family]()
    for network in denoisers(pipe):
        network.set_attention_backend(backend)
    assert_stock(pipe, family)


@NIGHTLY
def test_compiled(family):
    """As a whole, and in regions where the class names them; in the parts that hooks look into nothing is compiled."""
    for way in ("whole", "regions"):
        pipe = NEWER[family]()
        for name in NETWORKS:
            network = getattr(pipe, name, None)
            if way == "whole" and network is not None:
                setattr(pipe, name, torch.compile(network, backend="eager"))
            elif network is not None and network._repeated_blocks:
                network.compile_repeated_blocks(backend="eager")
        try:
            assert_stock(pipe, family)
        finally:
            torch._dynamo.reset()
