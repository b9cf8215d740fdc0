"""`Ablate`: what it puts in an activation's place, against the same written by hand with torch's own hooks."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

import sdprobe
from sdprobe.core.limits.only import only
from sdprobe.observe.activations import Activations
from sdprobe.testing import check_hook
from sdprobe.transform.ablate import Ablate
from tests.families import FAMILIES
from tests.laws.strategies import run, same_run, seen
from tests.test_patch import Asks
from tests.tiny import stable_diffusion

MAP, TOKENS = "up_blocks.1.resnets.0", "up_blocks.2.attentions.1.transformer_blocks.0.attn2"
TWO = {"prompt": ["a red circle", "a blue star"], "seed": [0, 1]}


@contextmanager
def by_torch(model, name, change, side="output"):
    """Change what a module gives or takes with a torch hook."""
    module = model.modules[name]
    if side == "output":
        handle = module.register_forward_hook(lambda own, args, output: change(output))
    else:
        handle = module.register_forward_pre_hook(lambda own, args: (change(args[0]), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


def plain_with(model, name, change, side="output", **settings):
    with by_torch(model, name, change, side):
        return run(model, **settings)


def spread(x):
    """[rows, positions, width], however the activation is laid out."""
    return x.flatten(2).mT if x.ndim == 4 else x


def as_before(flat, x):
    return flat.mT.reshape(x.shape) if x.ndim == 4 else flat


def seen_at(name):
    looking = seen("activation")
    looking.modules = (name,)
    return looking


@pytest.mark.parametrize("name", [MAP, TOKENS])
@pytest.mark.parametrize(
    ("with_", "change"),
    [
        ("zero", torch.zeros_like),
        ("mean", lambda x: as_before(spread(x).mean(1, keepdim=True).expand_as(spread(x)), x)),
        ("resample", lambda x: x[[1, 0, 3, 2]]),
    ],
)
def test_it_is_a_torch_hook(embedded, name, with_, change):
    """Rows are uncond 0, uncond 1, cond 0, cond 1: of two images, each takes the other's, in its own role."""
    ablated = run(embedded, Ablate(name, with_), **TWO)
    assert same_run(ablated, plain_with(embedded, name, change, **TWO))
    assert not same_run(ablated, run(embedded, **TWO))


@pytest.mark.parametrize("name", [MAP, TOKENS])
def test_shuffled_places_are_the_same_vectors_in_one_order(embedded, name):
    before, after = seen_at(name), seen_at(name)
    run(embedded, before, **TWO)
    orders = []
    for seed in (0, 0, 1):
        live = run(embedded, Ablate(name, "shuffle", seed=seed), after, **TWO)[after]
        shuffled = spread(live.values[0])
        own = spread(run(embedded, before, **TWO)[before].values[0])
        order = torch.cdist(shuffled[0].double(), own[0].double()).argmin(1)
        assert torch.equal(shuffled, own[:, order])
        assert order.sort().values.equal(torch.arange(len(order)))
        orders.append(order)
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_a_picture_is_ablated_alone_as_among_others(embedded):
    for with_ in ("zero", "mean", "shuffle"):
        both = run(embedded, Ablate(TOKENS, with_), **TWO)
        alone = run(embedded, Ablate(TOKENS, with_), prompt=TWO["prompt"][1], seed=1)
        torch.testing.assert_close(both.latents[1:], alone.latents, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("images", [2, 3, 5])
def test_no_image_keeps_its_own(embedded, images):
    """Every image gives its activations to one other."""
    before, after = seen_at(TOKENS), seen_at(TOKENS)
    many = {"seed": list(range(images)), "images_per_prompt": images, "steps": 1}
    own = run(embedded, before, **many)[before].values[0]
    for seed in range(4):
        other = run(embedded, Ablate(TOKENS, "resample", seed=seed), after, **many)[after].values[0]
        takes = [[k for k in range(len(own)) if torch.equal(own[k], row)] for row in other]
        assert all(len(found) == 1 for found in takes)
        assert all(found[0] != k and found[0] // images == k // images for k, found in enumerate(takes))
        assert len({found[0] for found in takes}) == len(own)


@pytest.mark.parametrize("heads", [[0], [1, 3]])
def test_heads_are_ranges_of_what_the_last_layer_takes(embedded, heads):
    name = f"{TOKENS}.to_out.0"

    def change(x):
        count = embedded.modules[TOKENS].heads
        divided = x.unflatten(-1, (count, -1)).clone()
        divided[:, :, heads] = 0
        return divided.flatten(-2)

    ablated = run(embedded, Ablate(name, heads=heads, sides=("input",)))
    assert same_run(ablated, plain_with(embedded, name, change, "input"))
    assert not same_run(ablated, run(embedded))


def test_all_heads_are_the_whole(embedded):
    name, every = f"{TOKENS}.to_out.0", range(embedded.modules[TOKENS].heads)
    whole, parts = (run(embedded, Ablate(name, sides="input", heads=heads)) for heads in (None, every))
    assert same_run(whole, parts)


@pytest.mark.parametrize("name", [MAP, TOKENS])
def test_channels(embedded, name):
    def change(x):
        changed = x.clone()
        (changed if x.ndim == 4 else changed.movedim(-1, 1))[:, [2, 5]] = 0
        return changed

    assert same_run(run(embedded, Ablate(name, channels=[2, 5])), plain_with(embedded, name, change))


@pytest.mark.parametrize("name", [MAP, TOKENS])
def test_places_are_resized_to_the_grid(embedded, name):
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[:32, 16:48] = True

    def change(x):
        side = x.shape[-1] if x.ndim == 4 else 16
        small = mask[:: 64 // side, :: 64 // side].flatten()
        return as_before(spread(x) * ~small[None, :, None], x)

    ablated = run(embedded, Ablate(name, places=mask))
    assert same_run(ablated, plain_with(embedded, name, change))
    assert same_run(ablated, run(embedded, Ablate(name, places=mask.numpy())))
    assert same_run(run(embedded, Ablate(name, places=torch.ones(2, 2) > 0)), run(embedded, Ablate(name)))


def test_each_image_has_its_own_places(embedded):
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, :8], masks[1, :, 8:] = True, True
    both = run(embedded, Ablate(TOKENS, places=masks), **TWO)
    for k in range(2):
        one = run(embedded, only(Ablate(TOKENS, places=masks[k]), rows=[k]), **TWO)
        assert torch.equal(one.latents[k], both.latents[k])
        assert not torch.equal(one.latents[1 - k], both.latents[1 - k])


def test_limited_to_steps_and_rows(embedded):
    def change(x):
        return torch.cat([x[:1], torch.zeros_like(x[1:])])

    limited = run(embedded, only(Ablate(TOKENS), rows="cond"))
    assert same_run(limited, plain_with(embedded, TOKENS, change))
    assert same_run(run(embedded, only(Ablate(TOKENS), steps=range(2))), run(embedded, Ablate(TOKENS)))


@pytest.mark.parametrize("name", [MAP, TOKENS])
def test_the_mean_of_a_record_is_over_its_images_in_the_same_role(embedded, name):
    source = run(embedded, Activations(name), prompt="a green ring", images_per_prompt=3, seed=[5, 6, 7])
    looking, record = seen_at(name), source[Activations]
    for step, x in enumerate(run(embedded, Ablate(name, source), looking, **TWO)[looking].values):
        uncond, cond = record.at(step, name).double().unflatten(0, (2, 3)).mean(1).float()
        assert torch.equal(x, torch.stack([uncond, uncond, cond, cond]))
    with pytest.raises(ValueError, match=r"no module that fits 'mid_block'"):
        run(embedded, Ablate("mid_block", source))
    with pytest.raises(ValueError, match=r"has no rows in the role 'uncond' .*it has 'cond' of the images \[0\]"):
        run(embedded, Ablate(name, run(embedded, Activations(name, rows="cond"))))


@pytest.mark.parametrize("with_", ["mean", "shuffle"])
def test_image_and_text_are_apart(with_):
    """In Flux's single blocks the tokens of the text stand before those of the image."""
    model, name = sdprobe.load(FAMILIES["Flux.1 dev"]()), "single_transformer_blocks.0.attn.to_q"
    before, after, size = seen_at(name), seen_at(name), {"height": 16, "width": 16, "steps": 1}
    (own,), (x,) = (run(model, *hooks, **size)[hooks[-1]].values for hooks in ([before], [Ablate(name, with_), after]))
    text = 512
    for part in (slice(0, text), slice(text, None)):
        torch.testing.assert_close(x[:, part].mean(1), own[:, part].mean(1), rtol=1e-4, atol=1e-5)
    assert not torch.equal(x, own)
    assert not torch.allclose(x[:, :text].mean(1), x[:, text:].mean(1), rtol=1e-2)


def test_a_place_is_chosen_if_half_of_it_is_covered(embedded):
    mask, looking = torch.zeros(16, 16, dtype=torch.bool), seen_at(MAP)
    mask[0, :2] = mask[2, 2] = True  # of the places of 2×2, one half and one quarter
    x = run(embedded, Ablate(MAP, places=mask), looking, steps=1)[looking].values[0]
    assert (x == 0).all(1).nonzero()[:, 1:].tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("with_", ["zero", *(pytest.param(own, marks=pytest.mark.slow) for own in ("mean", "shuffle"))])
def test_it_keeps_the_laws_of_hooks(with_):
    check_hook(lambda: Ablate("mid_block", with_))


def test_errors(embedded):
    small = torch.zeros(64, 64, dtype=torch.bool)
    small[:4, :4] = True
    with pytest.raises(ValueError, match=r"with_ is one of 'zero', 'mean', 'resample', 'shuffle', or a record"):
        Ablate(TOKENS, "zeros")
    with pytest.raises(ValueError, match=r"takes the activations of another image, and this run has one"):
        run(embedded, Ablate(TOKENS, "resample"))
    with pytest.raises(ValueError, match=r"the rows here are uncond of image 0, cond of image 0, cond of image 1"):
        run(embedded, only(Ablate(TOKENS, "resample"), rows=lambda row: row.role == "cond" or row.image == 0), **TWO)
    with pytest.raises(ValueError, match=r"time_embedding is \[2, 128\], without several places"):
        run(embedded, Ablate("time_embedding", "mean"))
    with pytest.raises(ValueError, match=r"covers no place of the 8×8 of the output of up_blocks.1.resnets.0 by half"):
        run(embedded, Ablate(MAP, places=small))
    with pytest.raises(ValueError, match=r"places cannot be chosen at the output of time_embedding"):
        run(embedded, Ablate("time_embedding", places=small))
    with pytest.raises(ValueError, match=r"the mask is 2×3 and the places of the output of .*attn2 are 16×16"):
        run(embedded, Ablate(TOKENS, places=torch.ones(2, 3) > 0))
    with pytest.raises(ValueError, match=r"masks for 3 images, and this run has 1"):
        run(embedded, Ablate(TOKENS, places=torch.ones(3, 2, 2) > 0))
    with pytest.raises(ValueError, match=r"has 32 channels, counted from 0, and no number 32"):
        run(embedded, Ablate(TOKENS, channels=[0, 32]))
    with pytest.raises(ValueError, match=r"heads cannot be chosen at the output of .*attn2: its width is not divided"):
        run(embedded, Ablate(TOKENS, heads=[0]))
    with pytest.raises(ValueError, match=r"give channels or heads, not both"):
        Ablate(TOKENS, heads=[0], channels=[0])
    with pytest.raises(TypeError, match=r"channels are whole numbers such as"):
        Ablate(TOKENS, channels=0)
    with pytest.raises(ValueError, match=r"heads=\[\] chooses nothing"):
        Ablate(TOKENS, heads=[])
    with pytest.raises(TypeError, match=r"places=heat_map.mask\(threshold=0.5\)"):
        Ablate(TOKENS, places=sdprobe.HeatMap(torch.rand(4, 4)))
    with pytest.raises(TypeError, match=r"not numbers of torch.float32"):
        Ablate(TOKENS, places=torch.rand(4, 4))
    with pytest.raises(ValueError, match=r"with at least one place"):
        Ablate(TOKENS, places=torch.zeros(4, 4, dtype=torch.bool))


def test_a_heat_map_above_a_threshold(embedded):
    maps = sdprobe.AttentionMaps()
    heat = run(embedded, maps)[maps].heat_map("circle")
    mask = heat.mask(0.5)
    assert 0 < mask.sum() < mask.numel()
    ablated = run(embedded, Ablate(TOKENS, places=mask))
    assert not same_run(ablated, run(embedded))
    assert not same_run(ablated, run(embedded, Ablate(TOKENS)))


def test_the_mean_may_be_written_into_by_what_follows():
    model = sdprobe.load(stable_diffusion())
    model.pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)  # it scales a part of what it is given in place
    assert run(model, Ablate("mid_block", "mean")).latents.isfinite().all()


@pytest.mark.parametrize("way", ["zero", "mean", "shuffle"])
def test_given_to_a_further_call_it_acts_in_it(embedded, way):
    ablate = Ablate(TOKENS, way)
    before = dict(vars(ablate))
    assert torch.equal(run(embedded, Asks(ablate)).latents, run(embedded, ablate).latents)
    assert vars(ablate) == before
