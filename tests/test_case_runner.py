"""One case under many conditions in one batch."""

import pytest
import torch

import sdprobe
from sdprobe.experiments import Case
from sdprobe.experiments.case_runner import CaseRunner, can_share
from sdprobe.experiments.sampler import sampler_of

CASE = Case("a red circle", seed=3)
SETTINGS = {"steps": 2, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def runner(tiny):
    return CaseRunner(sampler_of(tiny), CASE, SETTINGS)


def stacks():
    maps = sdprobe.AttentionMaps()
    return {
        "untouched": [],
        "no hooks": [],
        "swap": [sdprobe.ReplaceToken("red", with_="blue")],
        "maps": {"maps": maps},
        "recorded": [sdprobe.LatentRecorder(), sdprobe.ScalePrompt(0.5)],
        "late": [sdprobe.only(sdprobe.ScalePrompt(0.5), steps=[1])],
        "attention": [sdprobe.only(sdprobe.Ablate("*attn2"), sites="mid_block*")],
    }


def test_together_equals_one_by_one(runner):
    """Without the rounding of larger matrices: a batch is equal to the last bit to one of copies of a single run."""
    given = stacks()
    together = dict(zip(given, runner.run_together(list(given.values())), strict=True))
    for name, stack in given.items():
        alone = runner.run(stack)
        assert together[name].settings.images == 1
        assert together[name].latents.shape == alone.latents.shape
        torch.testing.assert_close(together[name].latents, alone.latents, atol=1e-4, rtol=1e-4)
        copies = runner.run_together([*[given["untouched"]] * (len(given) - 1), stack])[-1]
        assert torch.equal(together[name].latents, copies.latents)


def test_no_hooks_is_untouched_to_the_last_bit(runner):
    untouched, empty, swapped, again = runner.run_together([[], [], [sdprobe.ReplaceToken("red", with_="blue")], []])
    assert torch.equal(untouched.latents, empty.latents)
    assert torch.equal(untouched.latents, again.latents)
    assert untouched.images == empty.images
    assert not torch.equal(untouched.latents, swapped.latents)


def test_two_in_a_batch_are_the_batch_and_nearly_two_by_themselves(embedded):
    """The experiment adds nothing to what the kernels of this machine make of a batch of two."""
    runner = CaseRunner(sampler_of(embedded), CASE, settings := {"steps": 2, "guidance_scale": 5.0})
    swap = sdprobe.ReplaceToken("red", with_="blue")
    both = {"prompt": [CASE.prompt] * 2, "seed": [CASE.seed] * 2, "progress": False, **settings}
    batch = sdprobe.sample(embedded, hooks=[sdprobe.only(swap, rows=[1])], **both)
    for k, (stack, together) in enumerate(zip(([], [swap]), runner.run_together([[], [swap]]), strict=True)):
        assert torch.equal(together.latents[0], batch.latents[k])
        torch.testing.assert_close(together.latents, runner.run(stack).latents, atol=1e-4, rtol=1e-4)


def test_records_are_of_the_own_image(runner):
    maps, recorder = sdprobe.AttentionMaps(), sdprobe.LatentRecorder()
    scale = sdprobe.ScalePrompt(0.5)
    first, second = runner.run_together([{"seen": maps}, [maps, recorder, scale]])
    alone = runner.run([maps, recorder, scale])
    assert torch.equal(first[maps].heat_map("red").values, first["seen"].heat_map("red").values)
    assert not torch.equal(first[maps].heat_map("red").values, second[maps].heat_map("red").values)
    found, expected = second[maps].heat_map("red").values, alone[maps].heat_map("red").values
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert second[recorder]["latents"].shape == alone[recorder]["latents"].shape
    with pytest.raises(KeyError, match="not a hook of this run"):
        first[recorder]


def test_what_cannot_share_a_batch():
    loss = sdprobe.LossGuidance(sdprobe.losses.brightness(0.9), scale=1.0, through="model")
    assert not can_share([loss])
    both = sdprobe.on("latents", lambda x: x)
    assert can_share([both, sdprobe.AttentionMaps()])
    assert can_share(["latents", ("scale-prompt", {"factor": 0.5})])


def test_changes_of_one_run(runner, tiny):
    other = runner.run(prompt="a blue circle", seed=5)
    plain = sdprobe.sample(tiny, ["a blue circle"], seed=[5], progress=False, **SETTINGS)
    assert torch.equal(other.latents, plain.latents)
    assert runner.read().text == "a red circle"
    assert runner.once("number", lambda: object()) is runner.once("number", lambda: object())
