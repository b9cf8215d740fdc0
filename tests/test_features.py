"""`Features`: the identity without a change, and changes as plain computation gives them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from sdprobe import only
from sdprobe.sae.activation_function import ReLU, TopK
from sdprobe.sae.features import Features
from sdprobe.sae.sparse_autoencoder import SparseAutoencoder
from tests.families import flux, stable_diffusion_3
from tests.laws.strategies import run, same_run

MODULE = "mid_block"
FEATURES = 24
EVERY = dict.fromkeys(range(FEATURES), 3.0)


class Seen(sdprobe.Observer):
    """The values and labels at a module, after all transforms."""

    def __init__(self, *modules):
        self.modules = modules

    def start(self, run):
        self.values, self.rows = [], []

    def activation(self, x, site):
        self.values.append(x.clone())
        self.rows.append(site.rows)


class BothSides(sdprobe.Observer):
    """What a module takes and gives, step by step."""

    sides, streams = ("input", "output"), ("hidden",)

    def __init__(self, *modules):
        self.modules = modules

    def start(self, run):
        self.values = {"input": [], "output": []}

    def activation(self, x, site):
        self.values[site.side].append(x.clone())


class Plain(sdprobe.Transform):
    """A function of a module's output, row by row."""

    def __init__(self, module, function):
        self.modules, self.function = (module,), function

    def activation(self, x, site):
        return self.function(x)


@pytest.fixture(scope="module")
def width(tiny):
    seen = Seen(MODULE)
    return run(tiny, seen)[seen].values[0].shape[1]


def made(width, activation=None, seed=0):
    random = torch.Generator().manual_seed(seed)
    enc, dec = torch.randn(width, FEATURES, generator=random), torch.randn(FEATURES, width, generator=random)
    biases = torch.randn(FEATURES, generator=random), torch.randn(width, generator=random)
    return SparseAutoencoder(enc, biases[0], dec, biases[1], activation or TopK(4))


def last(x):
    return x.flatten(2).transpose(1, 2)


def changed(sae, change):
    """x + decode(changed) - decode(read), in full."""

    def function(x):
        read = sae.encode(last(x))
        new = sae.decode(change(read)) - sae.decode(read)
        return x + new.transpose(1, 2).reshape(x.shape)

    return function


activations = st.sampled_from([ReLU(), TopK(1), TopK(4)])


@given(activation=activations)
def test_with_nothing_changed_not_a_bit_changes(tiny, width, activation):
    class Watched(Features):
        def activation(self, x, site):
            new = super().activation(x, site)
            assert new is x
            return new

    assert same_run(run(tiny, Watched(made(width, activation), MODULE, keep=FEATURES)), run(tiny))


@pytest.mark.parametrize("of", ["input", "update"])
def test_the_input_and_the_update_are_read(tiny, of):
    """A residual block's update is what it adds; reading changes no bit, and a change is added to the output."""
    module, seen = "mid_block.attentions.0", BothSides("mid_block.attentions.0")
    plain = run(tiny, seen)
    taken, given = plain[seen].values["input"], plain[seen].values["output"]
    read = taken if of == "input" else [new - old for new, old in zip(given, taken, strict=True)]
    sae = made(taken[0].shape[1])
    hook = Features(sae, module, of=of, streams="hidden")
    found = run(tiny, hook)
    assert same_run(found, run(tiny))
    assert all(torch.equal(found[hook].at(step), sae.encode(last(x))) for step, x in enumerate(read))
    changing, again = Features(sae, module, of=of, streams="hidden", scale=EVERY), BothSides(module)
    new = run(tiny, changing, again)[again].values["input" if of == "input" else "output"][0]
    encoded, old = sae.encode(last(read[0])), taken[0] if of == "input" else given[0]
    added = (sae.decode(3 * encoded) - sae.decode(encoded)).transpose(1, 2).reshape(old.shape)
    assert torch.allclose(new, old + added, atol=1e-3, rtol=1e-4)


def test_an_update_needs_a_module_that_takes_what_it_gives(tiny):
    with pytest.raises(ValueError, match=r"of='update' reads output - input, and down_blocks.0 gives .* and takes"):
        run(tiny, Features(made(1), "down_blocks.0", of="update"))


def test_a_feature_that_is_nowhere_active_can_be_ablated(tiny, width):
    sae = made(width)
    off = torch.where(torch.arange(FEATURES) == 5, -1e6, sae.b_enc)
    quiet = SparseAutoencoder(sae.W_enc, off, sae.W_dec, sae.b_dec, ReLU())
    coarse = SparseAutoencoder(sae.W_enc, off.clamp(-1e4), sae.W_dec, sae.b_dec, ReLU()).to(dtype=torch.float16)
    for own in (quiet, coarse):  # in half precision nothing of the model's own is rounded
        assert torch.equal(run(tiny, Features(own, MODULE, ablate=[5], keep=FEATURES)).latents, run(tiny).latents)


@given(feature=st.integers(0, FEATURES - 1), activation=activations)
@pytest.mark.parametrize("kind", ["ablate", "clamp", "scale"])
def test_a_change_is_what_plain_computation_gives(tiny, width, kind, feature, activation):
    sae, one = made(width, activation), torch.nn.functional.one_hot(torch.tensor(feature), FEATURES)
    plain = {
        "ablate": lambda f: f * (1 - one),
        "clamp": lambda f: f * (1 - one) + 3.0 * one,
        "scale": lambda f: f * (1 + 1.5 * one),
    }[kind]
    given = {"ablate": [feature], "clamp": {feature: 3.0}, "scale": {feature: 2.5}}[kind]
    seen, again = Seen(MODULE), Seen(MODULE)
    ours = run(tiny, Features(sae, MODULE, keep=FEATURES, **{kind: given}), seen)[seen].values
    theirs = run(tiny, Plain(MODULE, changed(sae, plain)), again)[again].values
    assert all(torch.allclose(x, y, atol=1e-3, rtol=1e-4) for x, y in zip(ours, theirs, strict=True))


def test_a_change_changes(tiny, width):
    for change in ({"clamp": {3: 5.0}}, {"ablate": range(FEATURES)}, {"scale": EVERY}):
        assert not torch.equal(run(tiny, Features(made(width), MODULE, **change)).latents, run(tiny).latents)


def test_a_map_changes_the_places_it_says(tiny, width):
    sae, seen, clean = made(width), Seen(MODULE), Seen(MODULE)
    grid = run(tiny, clean)[clean].values[0].shape[-2:]
    factors = torch.ones(grid)
    factors[0, 0] = 4.0
    settings = {"steps": 1}
    plain = run(tiny, clean, **settings)[clean].values[0]
    hook = Features(sae, MODULE, scale=dict.fromkeys(range(FEATURES), factors))
    new = run(tiny, hook, seen, **settings)[seen].values[0]
    everywhere = changed(sae, lambda f: 4 * f)(plain)
    assert torch.allclose(new[..., 0, 0], everywhere[..., 0, 0], atol=1e-4)
    assert torch.equal(new[..., 1:, :], plain[..., 1:, :])
    assert torch.equal(new[..., 0, 1:], plain[..., 0, 1:])
    with pytest.raises(ValueError, match=r"the map for feature 2 is \[9, 9\], and the grid of mid_block is"):
        run(tiny, Features(sae, MODULE, clamp={2: torch.ones(9, 9)}))


def test_only_some_rows_and_steps(tiny, width):
    sae, seen, clean = made(width), Seen(MODULE), Seen(MODULE)
    hook = Features(sae, MODULE, clamp={3: 9.0})
    found = run(tiny, only(hook, rows="cond", steps={1}), seen)
    plain = run(tiny, clean)[clean]
    new, rows = found[seen].values, found[seen].rows[1]
    assert torch.equal(new[0], plain.values[0])
    cond = [i for i, row in enumerate(rows) if row.role == "cond"]
    uncond = [i for i, row in enumerate(rows) if row.role != "cond"]
    assert torch.equal(new[1][uncond], plain.values[1][uncond])
    assert torch.allclose(new[1][cond], changed(sae, lambda f: _set(f, 3, 9.0))(plain.values[1][cond]), atol=1e-4)
    assert found[hook].record.indices == [1]
    assert [row.role for row in found[hook].record.rows_at(1)] == ["cond"]


def _set(features, number, value):
    return torch.where(torch.arange(FEATURES) == number, value, features)


@given(activation=activations)
def test_the_record_is_what_encode_gives(tiny, width, activation):
    sae, seen = made(width, activation), Seen(MODULE)
    hook = Features(sae, MODULE, keep=None if isinstance(activation, TopK) else FEATURES)
    found = run(tiny, hook, seen, prompt=["a red circle", "a blue star"])
    record, grid = found[hook], found[seen].values[0].shape[-2:]
    encoded = [sae.encode(last(x)) for x in found[seen].values]
    for step, full in enumerate(encoded):
        assert torch.equal(record.at(step), full)
        assert [(row.image, row.role) for row in record.record.rows_at(step)] == [
            (row.image, row.role) for row in found[seen].rows[step]
        ]
    rows = [i for i, row in enumerate(found[seen].rows[0]) if (row.image, row.role) == (1, "cond")]
    for feature in (0, 7):
        heat = record.heat_map(feature, image=1, step=1)
        assert torch.equal(heat.values, encoded[1][rows[0], :, feature].reshape(grid))
        mean = torch.stack([full[rows[0], :, feature] for full in encoded]).mean(0).reshape(grid)
        assert torch.allclose(record.heat_map(feature, image=1).values, mean)
    assert heat.picture is found.images[1]
    mean = torch.stack([full[rows[0]] for full in encoded]).mean((0, 1))
    top = record.top(5, image=1)
    assert [own.mean for own in top] == pytest.approx(mean.sort(descending=True).values[: len(top)].tolist(), rel=1e-4)
    density = (torch.stack([full[rows[0]] for full in encoded]) > 0).float().mean((0, 1))
    assert [own.density for own in top] == pytest.approx([density[own.feature].item() for own in top])


def test_the_record_is_of_what_was_read_before_the_change(tiny, width):
    hook, other = Features(made(width), MODULE, ablate=range(FEATURES)), Features(made(width), MODULE)
    one, two = run(tiny, hook, steps=1)[hook], run(tiny, other, steps=1)[other]
    assert torch.equal(one.at(0), two.at(0))
    assert one.at(0).count_nonzero() > 0


def test_it_keeps_few_numbers_and_says_what_it_cuts(tiny, width):
    hook = Features(made(width, ReLU()), MODULE, keep=2)
    with pytest.warns(UserWarning, match="more than 2 features were active at .* places, and the weakest"):
        kept = run(tiny, hook)[hook]
    (read,) = kept.record._kept[0, kept.record.keys[0]]
    assert read.values.value.shape[-1] == read.indices.value.shape[-1] == 2
    assert (kept.at(0) > 0).sum(-1).max() <= 2
    full = Features(made(width, ReLU()), MODULE, keep=FEATURES)
    assert torch.equal(kept.at(0).amax(-1), run(tiny, full)[full].at(0).amax(-1))


def test_several_modules_are_told_apart(embedded):
    sae = made(32)
    hook = Features(sae, "up_blocks.2.attentions.?")
    found = run(embedded, hook)[hook]
    with pytest.raises(KeyError, match=r"say name= and stream=, of up_blocks.2.attentions.0 \(hidden\), up_blocks.2"):
        found.heat_map(1)
    maps = [found.heat_map(3, name=f"up_blocks.2.attentions.{k}").values for k in (0, 1)]
    assert not torch.equal(*maps)
    with pytest.raises(KeyError, match=r"mid_block was not read; read: up_blocks.2.attentions.0"):
        found.top(name="mid_block")


def test_what_was_not_read_is_an_error_with_the_choices(tiny, width):
    hook = Features(made(width), MODULE)
    found = run(tiny, hook)[hook]
    for asked, said in [
        (lambda: found.heat_map(0, image=4), "image 4 with the role 'cond'; images: 0; roles: cond, uncond"),
        (lambda: found.heat_map(0, role="image"), "role 'image'; images: 0; roles: cond, uncond"),
        (lambda: found.top(role="none"), "any image with the role 'none'"),
        (lambda: found.at(7), "step 7 of mid_block was not read; read: 0, 1"),
    ]:
        with pytest.raises(KeyError, match=said):
            asked()
    with pytest.raises(ValueError, match="the features have the numbers 0 to 23, and 24 is none of them"):
        found.heat_map(24)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"of": "both"}, "of is 'output', 'input' or 'update', not 'both'"),
        ({"keep": 0}, "keep must be 1 or more"),
        ({"clamp": {24: 1.0}}, "numbers 0 to 23, and 24 is none"),
        ({"ablate": [-1]}, "and -1 is none"),
        ({"keep": 2.5}, "keep must be 1 or more, a whole number, not 2.5"),
        ({"clamp": {1: float("nan")}}, "clamp of feature 1 must be a finite number"),
        ({"clamp": {1: 2.0}, "ablate": [1]}, "feature 1 has several changes"),
    ],
)
def test_what_cannot_be_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        Features(made(8), MODULE, **arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"clamp": {3.7: 1.0}}, "a feature is given by its number, a whole one, and not by 3.7"),
        ({"scale": {"abc": 1.0}}, "and not by 'abc'"),
        ({"ablate": [True, False]}, "and not by True"),
        ({"ablate": 3}, r"ablate is a list of the numbers of features, as in ablate=\[3\], not 3"),
        ({"ablate": "12"}, "ablate is a list of the numbers of features, .* not '12'"),
        ({"clamp": [3]}, r"clamp says the amount of each feature, as in clamp=\{3: 2.0\}, and it is \[3\]"),
        ({"clamp": {3: "a"}}, "clamp of feature 3 is a number, not 'a'"),
    ],
)
def test_what_says_no_feature_or_amount_is_refused(arguments, said):
    with pytest.raises(TypeError, match=said):
        Features(made(8), MODULE, **arguments)


def test_numbers_and_maps_of_numpy_are_those_of_torch(tiny, width):
    sae, seen = made(width), Seen(MODULE)
    grid = tuple(run(tiny, seen, steps=1)[seen].values[0].shape[-2:])
    for of_numpy, own in [
        ({"clamp": {np.int64(3): np.full(grid, 5.0)}}, {"clamp": {3: torch.full(grid, 5.0)}}),
        ({"ablate": np.array([3, 5])}, {"ablate": [3, 5]}),
    ]:
        ours, theirs = (run(tiny, Features(sae, MODULE, **given), steps=1) for given in (of_numpy, own))
        assert torch.equal(ours.latents, theirs.latents)


def test_within_attention_the_width_is_the_last_axis():
    """``norm_q`` gives ``[rows, heads, tokens, width]``, which is not ``[rows, channels, h, w]``."""
    model, module = sdprobe.load(stable_diffusion_3()), "transformer_blocks.0.attn.norm_q"
    settings = {"height": 16, "width": 16, "steps": 1}
    clean, seen = Seen(module), Seen(module)
    (plain,) = run(model, clean, **settings)[clean].values
    assert plain.ndim == 4
    sae = made(plain.shape[-1])
    hook = Features(sae, module, scale=EVERY)
    found = run(model, hook, seen, **settings)
    read = sae.encode(plain)
    assert torch.equal(found[hook].at(0), read.flatten(1, 2))
    assert torch.allclose(found[seen].values[0], plain + sae.decode(3 * read) - sae.decode(read), atol=1e-3, rtol=1e-4)
    with pytest.raises(ValueError, match="do not form a grid"):
        found[hook].heat_map(3)
    with pytest.raises(ValueError, match=rf"of width {plain.shape[-1]}, and the autoencoder reads a width of"):
        run(model, Features(made(plain.shape[1]), module), **settings)


def test_a_module_of_another_width_is_refused(tiny, width):
    with pytest.raises(ValueError, match=rf"of width {width}, and the autoencoder reads a width of {width + 1}"):
        run(tiny, Features(made(width + 1), MODULE))


def test_an_autoencoder_of_a_file(tiny, width, tmp_path):
    made(width).save(tmp_path / "sae.safetensors")
    of_file = Features(str(tmp_path / "sae.safetensors"), MODULE, clamp={"3": 5.0})
    assert same_run(run(tiny, of_file), run(tiny, Features(made(width), MODULE, clamp={3: 5.0})))


class Gradient(sdprobe.Transform):
    """The gradient of the denoiser's output with respect to the latents."""

    needs_grad = True

    def start(self, run):
        self.gradients = []

    def noise_pred(self, x, step):
        self.gradients.append(torch.autograd.grad(x.square().sum(), step.latents, retain_graph=True)[0])
        return x


def test_gradients_pass(tiny, width):
    sae, ours, theirs = made(width), Gradient(), Gradient()
    hook, plain = Features(sae, MODULE, scale=EVERY), Plain(MODULE, changed(sae, lambda f: 3 * f))
    found = run(tiny, hook, ours, steps=1)[ours].gradients[0]
    assert torch.allclose(found, run(tiny, plain, theirs, steps=1)[theirs].gradients[0], atol=1e-4, rtol=1e-3)
    assert not torch.allclose(found, run(tiny, theirs, steps=1)[theirs].gradients[0], atol=1e-4, rtol=1e-3)


def test_a_map_in_a_joint_block_is_of_the_image_tokens():
    model, module = sdprobe.load(flux()), "single_transformer_blocks.0.proj_out"
    settings = {"height": 32, "width": 32, "steps": 1, "guidance_scale": 1.0}
    clean, seen = Sites(module), Sites(module)
    first = run(model, clean, **settings)[clean]
    site, plain = first.sites[0], first.values[0]
    sae = made(plain.shape[-1])
    clamp = {3: torch.full(site.grid, 9.0)}
    hook = Features(sae, module, clamp=clamp)
    found = run(model, hook, seen, **settings)
    new = found[seen].values[0]
    assert torch.equal(new[:, site.text], plain[:, site.text])
    assert not torch.equal(new[:, site.image], plain[:, site.image])
    own = sae.encode(plain)[0, site.image, 5].reshape(site.grid)
    assert torch.equal(found[hook].heat_map(5).values, own)


class Sites(Seen):
    """The values, and where they passed."""

    streams = ("hidden",)

    def start(self, run):
        super().start(run)
        self.sites = []

    def activation(self, x, site):
        super().activation(x, site)
        self.sites.append(site)
