"""Random vectors have the norms of those they stand for, and come from the seed."""

import torch

import sdprobe
from sdprobe.core.activations.source import record_of
from sdprobe.experiments.random_vectors import RandomPrompt, random_record

SETTINGS = {"steps": 2, "seed": 0, "guidance_scale": 5.0, "progress": False}


def test_a_random_record_has_the_norms_of_the_record(tiny):
    modules = ["mid_block", "*attn2"]  # maps, and positions
    kept = sdprobe.Activations(modules, rows="cond")
    record = record_of(sdprobe.sample(tiny, "a red circle", hooks=[kept], **SETTINGS))
    made, again, other = (random_record(record, seed) for seed in (1, 1, 2))
    for key in record.keys:
        axis = record.axes_of(key).index("channels") if "channels" in record.axes_of(key) else -1
        torch.testing.assert_close(made[key].norm(dim=axis), record[key].norm(dim=axis))
        assert torch.equal(made[key], again[key])
        assert not torch.equal(made[key], other[key])
        assert not torch.equal(made[key][0], made[key][1])  # each step has its own
        assert made.form_of(0, key) == record.form_of(0, key)


def test_a_random_prompt_has_the_norms_of_the_other_text(tiny):
    seen = {}

    def keep(x, text):
        seen[text.role] = (x, text.encode(["a blue circle"]))
        return x

    hooks = [RandomPrompt("a blue circle", seed=3), sdprobe.on("prompt_embeds", keep)]
    sdprobe.sample(tiny, ["a red circle", "a star"], hooks=hooks, **SETTINGS)
    x, other = seen["cond"]
    torch.testing.assert_close(x.norm(dim=-1), other.norm(dim=-1).expand(2, -1))
    assert torch.equal(x[0], x[1])
