"""What a recording may hold: more is refused before the first step, in arithmetic and with what to do."""

from __future__ import annotations

import psutil
import pytest
import torch

import sdprobe
from sdprobe import AttentionMaps
from sdprobe.observe.memory_budget import free_bytes
from tests.laws.strategies import run
from tests.tiny import stable_diffusion

EVERYTHING = ("step", "layer", "head")


class Begun(sdprobe.Observer):
    """Counts in a list of its own what a run has come to, which a refused run cannot return."""

    def __init__(self):
        self.points = []

    def prompt_embeds(self, x, text):
        self.points.append("prompt_embeds")

    def latents(self, x, step):
        self.points.append("latents")


@pytest.mark.parametrize(
    "config",
    [
        {"keep": EVERYTHING},
        {"keep": "step", "dtype": "float16"},
        {"keep": ("layer", "head"), "dtype": torch.float16},
        {"keep": EVERYTHING, "rows": "both", "words": ["red"], "dtype": "bfloat16"},
    ],
    ids=str,
)
def test_a_budget_is_refused_to_the_byte(tiny, config):
    """What a refusal asks for is enough, and one byte less is not."""
    begun = Begun()
    with pytest.raises(ValueError, match="would hold") as refused:
        run(tiny, AttentionMaps(**config, budget=1), begun, prompt="a red circle", negative_prompt="red", steps=3)
    needed = int(str(refused.value).rpartition("budget=")[2])
    with pytest.raises(ValueError, match=f"budget={needed}"):
        run(tiny, AttentionMaps(**config, budget=needed - 1), begun, negative_prompt="red", steps=3)
    assert begun.points == []
    maps = AttentionMaps(**config, budget=needed)
    assert run(tiny, maps, negative_prompt="red", steps=3)[maps].held_bytes <= needed


def test_the_refusal_says_the_arithmetic_and_what_to_do(tiny):
    with pytest.raises(ValueError, match="would hold") as refused:
        run(tiny, AttentionMaps(keep=EVERYTHING, budget=50_000), steps=5, images_per_prompt=2)
    assert str(refused.value) == (
        "AttentionMaps(keep=('step', 'layer', 'head'), budget=50000) would hold 327.7 kB on cpu, and its budget is "
        "50.0 kB:\n"
        "  5 steps × 3 layers × 2 images × 2 heads × 64 positions (8×8) × 16 tokens × 4 bytes = 245.8 kB\n"
        "  5 steps × 4 layers × 2 images × 2 heads × 16 positions (4×4) × 16 tokens × 4 bytes = 81.9 kB\n"
        "Hold less, with words=[...], less than keep=('step', 'layer', 'head'), grids=[...], dtype=torch.float16, or "
        "allow more: budget=327680"
    )


def test_what_is_done_already_is_not_advised(tiny):
    done = AttentionMaps(["red"], keep="step", dtype="float16", device="cpu", budget=1)
    with pytest.raises(ValueError, match=r"Hold less, with less than keep=\('step',\), grids=\[...\], or allow"):
        run(tiny, done)


def test_what_is_advised_helps(tiny):
    budget = 40_000
    with pytest.raises(ValueError, match="would hold"):
        run(tiny, AttentionMaps(keep=EVERYTHING, budget=budget))
    for less in ({"words": ["red"]}, {"keep": ("step",)}, {"grids": [4]}, {"keep": ("layer", "head")}):
        maps = AttentionMaps(**{"keep": EVERYTHING, "budget": budget} | less)
        assert run(tiny, maps)[maps].held_bytes <= budget


def test_the_budget_is_a_quarter_of_what_is_free_unless_given(tiny):
    device = torch.device("cpu")
    assert free_bytes(device) == pytest.approx(psutil.virtual_memory().available, rel=0.1)
    needed = 50 * 7 * 2 * 8192 * 8192 * 16 * 4  # no machine has as much: refused before the latents are made
    assert needed > free_bytes(device)
    with pytest.raises(ValueError, match=r"its budget is a quarter of the \d+\.\d GB that are free there"):
        run(tiny, AttentionMaps(keep=EVERYTHING), steps=50, height=16384, width=16384)


def test_sums_that_nobody_asked_for_give_way_to_the_budget(tiny):
    whole, small = AttentionMaps(), AttentionMaps(budget=10_000)
    result = run(tiny, whole, small)
    assert result[small].held_bytes <= 10_000 < result[whole].held_bytes
    assert torch.allclose(result[small].heat_map("red").values, result[whole].heat_map("red").values, atol=1e-6)


def test_limits_count(tiny):
    held = 4 * 2 * 64 * 16  # one site of 8×8 in one step
    maps = AttentionMaps(keep=EVERYTHING, budget=held)
    with pytest.raises(ValueError, match="5 steps × 3 layers"):
        run(tiny, maps, steps=5)
    site = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    result = run(tiny, sdprobe.only(maps, steps={3}, sites=site), steps=5)
    assert result[maps].held_bytes == held
    second = sdprobe.only(maps, steps={3}, sites=site, rows=[1])
    assert run(tiny, second, steps=5, images_per_prompt=2)[maps].held_bytes == held


def attached(budget, keep=EVERYTHING, **given):
    pipe, maps, begun = stable_diffusion(), AttentionMaps(keep=keep, budget=budget), Begun()
    pipe.set_progress_bar_config(disable=True)
    with sdprobe.attach(pipe, hooks=[maps, begun]) as result:
        pipe(num_inference_steps=3, **given)
    return result[maps]


def test_an_attached_pipeline_is_refused_at_the_size_of_its_latents():
    latents = torch.randn(1, 4, 4, 4)  # half of the size that the pipeline would make
    held = attached(None, prompt="a red circle", latents=latents).held_bytes
    assert attached(held, prompt="a red circle", latents=latents).held_bytes == held
    with pytest.raises(ValueError, match=r"would hold .*\n.*3 steps × 3 layers × .*16 positions"):
        attached(held - 1, prompt="a red circle", latents=latents)


def test_given_embeddings_are_counted_before_the_first_step():
    embeds, negative = stable_diffusion().encode_prompt("a red circle", "cpu", 1, True, "")
    given = {"prompt_embeds": embeds, "negative_prompt_embeds": negative}
    held = attached(None, **given).held_bytes
    assert attached(held, **given).held_bytes == held
    with pytest.raises(ValueError, match="would hold"):
        attached(held - 1, **given)


def test_what_only_the_run_shows_is_refused_when_it_is_recorded():
    """A callback gives another prompt, whose sums are of its own."""

    def to_star(pipe, step, timestep, values):
        return {"prompt_embeds": torch.cat(pipe.encode_prompt("a red star", "cpu", 1, True, "")[::-1])}

    given = {"prompt": "a red circle", "callback_on_step_end": to_star, "keep": ("layer", "head")}
    held = attached(None, **given).held_bytes
    assert attached(held, **given).held_bytes == held == 2 * attached(None, ("layer", "head"), prompt="red").held_bytes
    with pytest.raises(ValueError, match=r"holds .* on cpu at step 1 of 3, and its budget is .*; .* asks for another"):
        attached(held - 1, **given)


@pytest.mark.parametrize("budget", [0, -1, True, "2 GB", float("nan")])
def test_a_budget_is_a_number_of_bytes(budget):
    with pytest.raises(ValueError, match="budget is a number of bytes"):
        AttentionMaps(budget=budget)
