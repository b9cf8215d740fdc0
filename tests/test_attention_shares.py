"""Where attention goes by the role of the token: it adds up, and it is what plain counting gives."""

from __future__ import annotations

import pickle

import pytest
import torch

import sdprobe
from sdprobe import AttentionMaps, AttentionMatrices, AttentionShares
from tests.families import flux, stable_diffusion_3
from tests.laws.strategies import run
from tests.stock_pipelines import text_to_image

PROMPTS = ["a red circle", "a checkered star of a ring"]


class Calls(sdprobe.Observer):
    """The mean over places and heads of the attention to each token, at every call."""

    kinds = ("cross", "joint")

    def start(self, run):
        self.found = {}

    def attention(self, attn, site):
        probs = attn.probs(rows="cond", queries=site.image, tokens=site.text)
        self.found[site.name, site.index] = probs.mean((1, 2))


@pytest.mark.parametrize("make", [None, stable_diffusion_3, flux])
def test_shares_are_counted_by_role(tiny, make):
    maps, calls = AttentionMaps(keep=("layer", "step")), Calls()
    model = tiny if make is None else sdprobe.load(make())
    result = run(model, maps, calls, prompt=PROMPTS, width=24, height=16, guidance_scale=4.0)
    for image in (0, 1):
        own, roles = result[maps].shares(image), result.prompt_of(image).roles
        assert set(zip(own.layers, own.steps, strict=True)) == set(result[calls].found)
        for row, at in enumerate(zip(own.layers, own.steps, strict=True)):
            seen = result[calls].found[at][image]
            for column, role in enumerate(("start", "word", "end", "pad")):
                expected = sum(seen[i].item() for i, its in enumerate(roles) if its == role)
                assert own.values[row, column].item() == pytest.approx(expected, abs=1e-5)
            if make is not None:
                assert own.roles[-1] == "image"
                assert own.values[row, -1].item() == pytest.approx(1 - seen.sum().item(), abs=1e-5)
        assert torch.allclose(own.values.sum(-1), torch.ones(len(own.layers)), atol=1e-5)


def test_they_add_up_as_row_sums_do(tiny):
    model, maps = sdprobe.load(stable_diffusion_3()), AttentionMaps()
    result = run(model, maps, own := AttentionMatrices())
    text = 1 - result[maps].shares().values[0, -1]
    sums = result[maps].row_sums()  # of the places with the least and with the most
    assert sums.min() <= text <= sums.max() < 1
    assert torch.allclose(text, result[own].matrix("image", "text").values.sum(-1).mean(), atol=1e-5)
    result = run(tiny, maps)
    sums = result[maps].row_sums()
    assert torch.allclose(sums, result[maps].shares().values.sum().expand_as(sums), atol=1e-5)


def test_positions_that_no_encoder_fills_are_told_apart():
    """Without T5 there are zeros in its place, at 256 positions of which the prompt has no token."""
    maps, own = AttentionMaps(), AttentionMatrices()
    result = run(sdprobe.load(stable_diffusion_3(with_t5=False)), maps, own)
    shares, matrix = result[maps].shares(), result[own].matrix("image", "text")
    assert shares.roles == ("start", "word", "end", "pad", "empty", "image")
    by_label = dict.fromkeys(matrix.columns, 0.0)
    for label, share in zip(matrix.columns, matrix.values.mean(0).tolist(), strict=True):
        by_label[label] += share
    for role in ("start", "end", "pad", "empty"):
        assert shares.mean()[role] == pytest.approx(by_label[f"<{role}>"], abs=1e-5)
    assert matrix.columns.count("<empty>") == 256
    assert "<empty>" not in matrix.without_padding().columns
    assert shares.values.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("keep", [(), "step", "layer", ("layer", "step"), ("layer", "step", "head")])
def test_what_is_kept_apart_averages_to_the_whole(tiny, keep):
    whole, apart = AttentionMaps(), AttentionMaps(keep=keep)
    result = run(tiny, whole, apart, steps=3, prompt=PROMPTS[1])
    expected, found = result[whole].shares(), result[apart].shares()
    assert len(found.steps) == (3 if "step" in keep else 1) * (7 if "layer" in keep else 1)
    for role, share in expected.mean().items():
        assert found.mean()[role] == pytest.approx(share, abs=1e-6)
    assert sum(found.calls) == sum(expected.calls) == 21


def test_a_layer_and_some_steps(tiny):
    maps = AttentionMaps(keep=("layer", "step"), rows="both")
    own = run(tiny, maps, steps=4)[maps].shares(role="uncond")
    layer = own.layers[0]
    assert len(own.of("pad")) == 4 * 7
    assert len(own.of("pad", layer)) == 4
    assert len(own.of("pad", layer, range(2, 4))) == 2
    assert own.of("pad", layer, 3).item() == own.values[own._rows(layer, 3)[0], own.roles.index("pad")].item()
    assert own.mean(layer, 3)["word"] == 0  # the negative prompt is empty
    with pytest.raises(KeyError, match="'image' is no role of a token here; the roles: start, word, end, pad"):
        own.of("image")
    with pytest.raises(ValueError, match=r"no shares of layer up, steps \[9\]; recorded: .* the steps \[0, 1"):
        own.mean("up", 9)


def test_as_a_table_a_figure_and_in_files(tiny, reopened):
    maps = AttentionMaps(keep=("layer", "step"))
    live = run(tiny, maps, steps=3)
    own = live[maps].shares()
    lines = repr(own).splitlines()
    assert lines[0].split() == ["layer", "step", "start", "word", "end", "pad"]
    assert len(lines) == 1 + 21
    assert "21 rows" in own._repr_html_()
    titles = [ax.get_title() for ax in own.plot().axes]
    assert [title.split(":")[0] for title in titles[:4]] == ["start", "word", "end", "pad"]
    again = reopened(live)[AttentionMaps].shares()
    for other in (again, pickle.loads(pickle.dumps(own))):
        assert torch.equal(other.values, own.values)
        assert (other.layers, other.steps, other.roles) == (own.layers, own.steps, own.roles)
    pytest.importorskip("pandas")
    table = own.to_pandas()
    assert list(table) == ["layer", "step", "calls", "start", "word", "end", "pad"]
    assert table.groupby("layer")["pad"].mean()[own.layers[0]] == pytest.approx(
        own.mean(own.layers[0])["pad"], abs=1e-6
    )
    assert isinstance(own, AttentionShares)


def test_every_token_must_have_been_recorded(tiny):
    maps = AttentionMaps(words=["red"])
    with pytest.raises(ValueError, match="record with words=None"):
        run(tiny, maps, prompt="a red circle")[maps].shares()


def test_of_embeddings_the_roles_are_not_known():
    maps = AttentionMaps()
    stock = text_to_image()
    embeds = stock.pipe.encode_prompt("a red circle", "cpu", 1, False)[0]
    with sdprobe.attach(stock.pipe, [maps]) as result:
        stock.pipe(prompt_embeds=embeds, num_inference_steps=1, guidance_scale=1.0, height=16, width=16)
    with pytest.raises(ValueError, match="prompt_embeds instead of a text, so which tokens are words"):
        result[maps].shares()
