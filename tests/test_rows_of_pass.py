"""`rows_of_pass`: FasterCache leaves out the unconditional rows, and the rows of a pass are those that are left."""

from __future__ import annotations

import pytest

import sdprobe
from sdprobe.model.denoiser.rows_of_pass import rows_of_pass
from tests.caches import cached, denoiser, run


class Batches(sdprobe.Observer):
    """The rows of each step, and the batch that its first block was called for."""

    def start(self, run):
        self.found = []
        block = run.model.denoiser.transformer_blocks[0]
        self.handle = block.register_forward_pre_hook(lambda _, args: self.batches.append(len(args[0])))

    def latents(self, x, step):
        self.batches = []

    def noise_pred(self, x, step):
        self.found.append((step.rows, *self.batches))

    def finish(self, run):
        self.handle.remove()


def test_the_conditional_rows_are_left():
    pipe, batches = cached("PixArt", "FasterCache"), Batches()
    found = run(pipe, batches, images_per_prompt=2)[batches].found
    assert {count for _, count in found} == {2, 4}
    for rows, count in found:
        left = rows_of_pass(rows, count)
        assert left == (rows if count == 4 else tuple(row for row in rows if row.role == "cond"))
    with pytest.raises(ValueError, match="4 rows, and a module of the denoiser was called for 3"):
        rows_of_pass(found[0][0], 3)
    assert denoiser(pipe)._diffusers_hook.hooks["faster_cache_denoiser"].state.iteration == 0
