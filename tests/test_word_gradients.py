"""`WordGradients`: gradients with respect to a word as each place reads it, and the maps made of them."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

import sdprobe
from sdprobe import WordGradients, losses
from sdprobe.attributions import Gradient, GradientTimesInput, Integrated
from tests.families import FAMILIES
from tests.laws.strategies import run
from tests.planted import OneHot, latents_for, planted, square
from tests.test_lost_gradients import quantised

WIDE = {"prompt": ["a red circle", "a blue star of a red ring"], "height": 16, "width": 24, "seed": [3, 4]}
CROSS = ("Stable Diffusion 1", "Stable Diffusion XL", "PixArt-Σ")


class OneForEachPlace(sdprobe.Transform):
    """Attention in which every place has its own keys and values ``[rows, heads, places, keys, width]``."""

    kinds = ("cross", "joint")

    def __init__(self):
        self.seen = []

    def attention(self, attn, site):
        query = attn.query[:, :, site.image, None]
        every = [x[:, :, None].expand(-1, -1, query.shape[2], -1, -1) for x in (attn.key, attn.value)]
        leaves = [torch.zeros_like(x).requires_grad_() for x in every]
        key, value = (x + leaf for x, leaf in zip(every, leaves, strict=True))
        scores = (query * key).sum(-1) * attn.scale
        if attn.mask is not None:
            scores = scores + attn.mask
        output = attn.output().clone()
        output[:, :, site.image] = (scores.softmax(-1)[..., None] * value).sum(-2)
        self.seen.append((site, every, leaves))
        return attn.with_output(output)


class Plainly(sdprobe.Observer):
    """The gradients of a word by autograd, with a copy of the text for each place."""

    def __init__(self, word, of=None):
        self.word, self.of = word, of

    def start(self, run):
        self.norms, self.products = {}, {}

    def noise_pred(self, x, step):
        hidden = step.predict(step.latents, sdprobe.HideTokens(self.word), role="cond")
        change = step.predict(step.latents, role="cond") - hidden
        direction = change / change.flatten(1).norm(dim=1)[:, None, None, None]
        with torch.enable_grad():
            output = step.predict(step.latents, every := OneForEachPlace(), role="cond")
            leaves = [leaf for _, _, both in every.seen for leaf in both]
            score = (output * direction).sum()
            if self.of is not None:
                score = -self.of(step.run.model.picture_of(step.denoised(output))).sum()
            found = torch.autograd.grad(score, leaves)
        rows = [row for row in step.rows if row.role == "cond"]
        for (site, (key, value), _), of_key, of_value in zip(every.seen, found[::2], found[1::2], strict=True):
            for row in rows:
                at = site.tokens(row.prompt.positions(self.word))
                k, v, gk, gv = (own[row.image][..., at, :].detach() for own in (key, value, of_key, of_value))
                norm = torch.cat([gk, gv], -1).flatten(-2).norm(dim=-1).mean(0)
                product = (gk * k + gv * v).sum((-2, -1)).sum(0)
                for sums, new in ((self.norms, norm), (self.products, product)):
                    sums[site.grid, row.image] = sums.get((site.grid, row.image), 0) + new


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "PixArt-Σ", "Stable Diffusion 3.5", "Flux.1 dev"])
def test_they_are_those_of_a_copy_of_the_text_for_each_place(family):
    of = losses.brightness(0.0) if family in ("PixArt-Σ", "Flux.1 dev") else None
    model, gradients, plainly = sdprobe.load(FAMILIES[family]()), WordGradients(["red"], of=of), Plainly("red", of)
    found = run(model, gradients, plainly, **WIDE)
    for name in ("norms", "products"):
        for (grid, image), expected in getattr(found[plainly], name).items():
            own = getattr(found[gradients], name)[grid][image, 0]
            assert (own - expected).abs().max() <= 1e-3 * expected.abs().max(), (name, grid)


@pytest.mark.parametrize("family", CROSS)
def test_contributions_along_the_path_add_up_to_the_change(family):
    model = sdprobe.load(FAMILIES[family]())
    for options in ({}, {"baseline": None}):
        gradients = WordGradients("red", path=12, **options)
        found = run(model, gradients, steps=1, **WIDE)[gradients]
        for image in (0, 1):
            whole, change = found.total("red", image)
            assert whole == pytest.approx(change, rel=0.01), options
            assert found.values("red", "path", image).sum().item() == pytest.approx(whole, rel=1e-3)


def test_the_maps_of_planted_truth_are_the_patch():
    prompt = "a red circle"
    position = sdprobe.load().read(prompt).positions("circle")[0]
    model, masks = planted(position), [square((8, 12), 2, 4, 4), square((8, 12), 0, 0, 4)]
    unet = model.pipe.unet
    with torch.no_grad():  # the planted token adds a little to what it is attended from, and that reaches the output
        unet.conv_out.weight[0, 0, 1, 1] = 1
        for module in unet.modules():
            if getattr(module, "is_cross_attention", False):
                module.to_v.weight.zero_()
                module.to_v.weight[:, position] = 1
                module.to_out[0].weight[0] = 0.01
    gradients = WordGradients(path=2, modules="up_blocks.*")  # strides look at every other place of the first blocks
    found = run(
        model, OneHot(), gradients, prompt=[prompt] * 2, latents=latents_for(masks), height=16, width=24, steps=1
    )
    for image, mask in enumerate(masks):
        for method in (Gradient(), GradientTimesInput(), Integrated(points=2)):
            heat = method.heat_map(found, "circle", image)
            assert heat.resize((8, 12)).iou(mask) == 1, method
            assert heat.values.sum() > 100 * method.heat_map(found, "red", image).values.sum()


def test_a_region_is_the_part_of_the_change_that_counts(tiny):
    mask = square((16, 16), 0, 0, 8)
    whole, half = WordGradients("red"), WordGradients("red", region=mask)
    found = run(tiny, whole, half)
    assert not torch.equal(found[whole].values("red", "norm"), found[half].values("red", "norm"))

    class Kept(sdprobe.Observer):
        def noise_pred(self, x, step):
            self.change = step.predict(step.latents, role="cond")
            self.change = self.change - step.predict(step.latents, sdprobe.HideTokens("red"), role="cond")

    kept, gradients = Kept(), WordGradients("red", region=mask, path=12)
    change = run(tiny, kept, gradients, steps=1)
    # The score is the part of the noise along the change there: hidden, it loses that part's whole length.
    inside = change[kept].change * adaptive_avg_pool2d(mask[None, None].float(), (8, 8))
    direction = inside / inside.norm()
    assert (change[kept].change * direction).sum() == pytest.approx(inside.norm().item(), rel=1e-5)
    assert change[gradients].total("red")[0] == pytest.approx(change[gradients].total("red")[1], rel=0.01)
    with pytest.raises(ValueError, match="ratio of height to width"):
        run(tiny, WordGradients(region=mask[:8]))


def test_words_of_each_prompt_and_other_hooks(tiny, reopened):
    """Each image is as in a run of its own, whatever else guides the run by gradients."""
    gradients, guidance = WordGradients(), sdprobe.LossGuidance(lambda x: x.mean((1, 2, 3)), 1.0, through="model")
    settings = {**WIDE, "guidance_scale": 1.0}
    both = run(tiny, guidance, gradients, **settings)
    assert both[gradients].names == [["a", "red", "circle"], ["a", "blue", "star", "of", "red", "ring"]]
    alone = run(tiny, guidance, own := WordGradients(["ring"]), **{**settings, "prompt": WIDE["prompt"][1], "seed": 4})
    expected = alone[own].values("ring", "product")
    assert torch.allclose(both[gradients].values("ring", "product", 1), expected, rtol=1e-3, atol=1e-6)
    kept = reopened(both)
    for method in ("gradient", "gradient_x_input"):
        heats = [sdprobe.attributions.create(method).heat_map(one, "ring", 1).values for one in (both, kept)]
        assert torch.equal(*heats)


def test_the_parameters_are_as_before_at_the_next_step(tiny):
    class Learning(sdprobe.Observer):
        def start(self, run):
            self.seen = []

        def latents(self, x, step):
            self.seen.append([p.requires_grad for p in step.run.model.denoiser.parameters()])

    learning = Learning()
    seen = run(tiny, WordGradients(), learning)[learning].seen
    assert seen[0] == seen[1]
    assert all(seen[0])


def test_errors(tiny):
    joint = sdprobe.load(FAMILIES["Stable Diffusion 3.5"]())
    with pytest.raises(ValueError, match="joint attention these depend on the picture too"):
        run(joint, Integrated().hooks())
    with pytest.raises(sdprobe.WordNotInPrompt, match="'blue' is not in the prompt"):
        run(tiny, WordGradients(["blue"]))
    with pytest.raises(sdprobe.WordNotInPrompt, match="'blue' is not in the prompt"):
        WordGradients(path=1, baseline="blue").start(run(tiny))
    with pytest.raises(ValueError, match="which is quantised"):
        sdprobe.sample(quantised("Stable Diffusion"), "a", hooks=[WordGradients()], steps=1, progress=False)
    with pytest.raises(ValueError, match="a loss, given with of=, has its own"):
        WordGradients(of=losses.blue(), region=square((4, 4), 0, 0, 2))
    with pytest.raises(ValueError, match="sign is 'positive', 'negative', 'both'"):
        GradientTimesInput(sign="signed")
    found = run(tiny, sdprobe.every(2)(WordGradients(["red"])))
    for method, word, said in (
        (Integrated(), "red", "no path was recorded"),
        (Gradient(), "circle", "'circle' was not recorded; recorded: 'red'"),
        (Gradient(), "blue", "'blue' is not in the prompt"),
        (Gradient(of=losses.blue()), "red", "is of another score"),
        (Gradient(modules="up_blocks.*"), "red", "is of other modules"),
    ):
        with pytest.raises(ValueError, match=said):
            method.heat_map(found, word)
    with pytest.raises(ValueError, match="kind is 'norm', 'product', 'path', not 'signed'"):
        next(hook for _, hook in found.records).inner.values("red", "signed")
    along = run(tiny, WordGradients("red", path=1, baseline=None), steps=1)
    with pytest.raises(ValueError, match=r"begins at '<end>', and what .* recorded at None"):
        Integrated().heat_map(along, "red")
    with pytest.raises(ValueError, match=r"one number for each of the 1 images, \[1\]; this gave a tensor \[1, 3\]"):
        run(tiny, WordGradients(of=lambda pictures: pictures.mean((2, 3))))
    with pytest.raises(ValueError, match="this loss has no gradient"):
        run(tiny, WordGradients(of=lambda pictures: (pictures > 0.5).float().mean((1, 2, 3))))


def test_a_region_of_a_video_is_the_same_in_all_of_its_frames():
    model, asked = sdprobe.load(FAMILIES["Wan 2.1"]()), {"frames": 5, "height": 16, "width": 32}
    whole, half = torch.ones(16, 32, dtype=torch.bool), torch.zeros(16, 32, dtype=torch.bool)
    half[:, :16] = True
    hooks = [WordGradients("circle", region=own) for own in (None, whole, half)]
    found = sdprobe.sample(model, "a red circle", hooks=hooks, steps=2, seed=0, progress=False, **asked)
    none, everywhere, left = (found[hook].norms for hook in hooks)
    for grid, own in none.items():
        assert torch.equal(everywhere[grid], own)
        assert not torch.equal(left[grid], own)
