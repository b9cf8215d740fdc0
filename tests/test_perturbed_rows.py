"""Pipelines of perturbed-attention guidance: which rows pass where, at modules that are perturbed and at others."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe import only
from tests.families import stable_diffusion_3, stable_diffusion_xl
from tests.further_stock_pipelines import pag, sd3_pag, xl_pag
from tests.stock_pipelines import SMALL, Stock, attached, called
from tests.tiny import stable_diffusion

FAMILIES = {
    "Stable Diffusion 1": (pag, stable_diffusion, "mid_block.attentions.0.transformer_blocks.0.attn1"),
    "Stable Diffusion XL": (xl_pag, stable_diffusion_xl, "mid_block.attentions.0.transformer_blocks.0.attn1"),
    "Stable Diffusion 3": (sd3_pag, lambda: stable_diffusion_3(dual=False), "transformer_blocks.1.attn"),
}
"""Each with the same networks without this guidance, and a module that is perturbed."""

GUIDED = ("uncond", "cond", "perturbed")
SCALES = {1.0: GUIDED[1:], 3.0: GUIDED}


class Looks(sdprobe.Observer):
    """Which rows attention is computed for, with their queries, at one module."""

    def __init__(self, module):
        self.modules = (module,)

    def start(self, run):
        self.calls = []

    def attention(self, attn, site):
        assert attn.rows == site.rows
        self.calls.append(([row.role for row in attn.rows], attn.query.clone()))


class Hears(sdprobe.Observer):
    """What the layers of one module give, and for which rows."""

    def __init__(self, module):
        self.modules = (f"{module}.to_q", f"{module}.to_v", f"{module}.to_out.0")

    def start(self, run):
        self.calls = []

    def activation(self, x, site):
        self.calls.append((site.name.rsplit(".attn", 1)[1], site.call, [row.role for row in site.rows], x.clone()))


def by_plain_hooks(stock, names, **asked):
    """What layers give in a call of the pipeline alone."""
    network, kept = getattr(stock.pipe, "unet", None) or stock.pipe.transformer, []
    handles = [
        network.get_submodule(name).register_forward_hook(lambda module, args, x, name=name: kept.append((name, x)))
        for name in names
    ]
    called(stock, **asked)
    for handle in handles:
        handle.remove()
    return kept


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_what_plain_hooks_are_shown(family, scale):
    make, _, perturbed = FAMILIES[family]
    stock, asked = make(), {"guidance_scale": scale, "num_inference_steps": 1}
    roles, joint = list(SCALES[scale]), "Diffusion 3" in family
    other = perturbed.replace(".1.", ".0.") if joint else perturbed.replace("attn1", "attn2")
    for module, parts in ((other, [roles]), (perturbed, [roles[:-1], ["perturbed"]])):
        looks, hears = Looks(module), Hears(module)
        run = attached(stock, looks, hears, **asked)
        plain = by_plain_hooks(stock, hears.modules, **asked)
        assert all(torch.equal(own, x) for (*_, own), (_, x) in zip(run[hears].calls, plain, strict=True))
        assert all(len(x) == len(rows) for *_, rows, x in run[hears].calls)
        # Attention to oneself alone needs no queries: U-Nets compute none for the perturbed rows.
        seen = [rows for rows, _ in run[looks].calls]
        assert seen == (parts if joint else parts[:1])
        of_values = [rows for name, _, rows, _ in run[hears].calls if name.endswith("to_v")]
        assert of_values == parts
        heads = run[looks].calls[0][1]
        query = next(x for name, _, _, x in run[hears].calls if name.endswith("to_q"))
        merged = heads.transpose(1, 2).flatten(2)
        assert torch.equal(merged[:, : query.shape[1]], query)
        cond = run[looks].calls[0][0].index("cond")
        assert torch.equal(merged[cond, : query.shape[1]], plain[0][1][cond])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_word_s_map_in_the_first_step_is_that_of_the_plain_pipeline(family, scale):
    """Before the perturbed rows have had any part in the latents."""
    make, plain, _ = FAMILIES[family]
    pipe = plain()
    pipe.set_progress_bar_config(disable=True)
    asked, found = {"guidance_scale": scale, "num_inference_steps": 1}, []
    for stock in (make(), Stock(pipe, SMALL)):
        maps = sdprobe.AttentionMaps()
        found.append(attached(stock, maps, **asked)[maps].heat_map("circle").values)
    assert torch.allclose(*found, atol=1e-6)


class Doubled(sdprobe.Transform):
    """Values twice as large."""

    def __init__(self, module):
        self.modules = (f"{module}.to_v",)

    def activation(self, x, site):
        return 2 * x


@pytest.mark.parametrize("family", FAMILIES)
def test_hooks_limited_to_the_perturbed_rows(family):
    """The other rows stay as they were to the last bit, and the perturbed ones are another."""
    make, _, perturbed = FAMILIES[family]
    stock, outputs = make(), []
    for hooks in ([], [only(Doubled(perturbed), rows="perturbed")]):
        seen = sdprobe.watch("model_output", lambda x, step: outputs.append((step, x.clone())))
        attached(stock, *hooks, seen, num_inference_steps=1)
    (step, before), (_, after) = outputs
    for role in GUIDED:
        same = torch.equal(before[step.rows_of(role)], after[step.rows_of(role)])
        assert same == (role != "perturbed")


def test_a_run_without_perturbed_rows_says_so():
    stock = pag()
    with pytest.raises(ValueError, match="no rows of role 'perturbed'; its roles: cond, uncond"):
        attached(Stock(stock.pipe, {**stock.given, "pag_scale": 0.0}), only(Doubled("mid_block*"), rows="perturbed"))
