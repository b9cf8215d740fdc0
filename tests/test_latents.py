"""`LatentRecorder`: what flows through the loop, kept."""

from __future__ import annotations

import pytest
import torch

from sdprobe import LatentRecorder
from tests.laws.strategies import run


def test_the_last_latents_step_to_the_final_ones(tiny):
    recorder = LatentRecorder(keep=("latents", "noise_pred", "denoised"))
    result = run(tiny, recorder, steps=5, images_per_prompt=2)
    own = result[recorder]
    assert own.indices == [0, 1, 2, 3, 4]
    assert own["latents"].shape == own["noise_pred"].shape == own["denoised"].shape == (5, 2, 4, 8, 8)
    assert torch.equal(own.final, result.latents)
    scheduler = type(tiny.pipe.scheduler).from_config(tiny.pipe.scheduler.config)
    scheduler.set_timesteps(5)
    for i, timestep in enumerate(scheduler.timesteps):
        stepped = scheduler.step(own["noise_pred"][i], timestep, own["latents"][i])
        after = own["latents"][i + 1] if i < 4 else own.final
        assert torch.equal(stepped.prev_sample, after)
        assert torch.allclose(stepped.pred_original_sample, own["denoised"][i], atol=1e-4)


@pytest.mark.parametrize(("chosen", "expected"), [({"every": 2}, [0, 2, 4]), ({"steps": [1, 4]}, [1, 4])])
def test_chosen_steps(tiny, chosen, expected):
    recorder, every = LatentRecorder(**chosen), LatentRecorder()
    result = run(tiny, recorder, every, steps=5)
    assert result[recorder].indices == expected
    assert torch.equal(result[recorder]["latents"], result[every]["latents"][expected])


@pytest.mark.parametrize("dtype", [torch.float16, "float16"])
def test_dtype(tiny, dtype):
    recorder = LatentRecorder(dtype=dtype)
    result = run(tiny, recorder)
    assert result[recorder]["latents"].dtype == result[recorder].final.dtype == torch.float16


def test_errors(tiny):
    with pytest.raises(ValueError, match=r"torch\.float16.*, not 'half'"):
        LatentRecorder(dtype="half")
    with pytest.raises(ValueError, match="every must be 1 or more"):
        LatentRecorder(every=0)
    with pytest.raises(ValueError, match="what can be kept: latents, noise_pred, denoised"):
        LatentRecorder(keep=("x0",))
    recorder = LatentRecorder()
    with pytest.raises(KeyError, match="'denoised' was not kept"):
        run(tiny, recorder)[recorder]["denoised"]
