"""`current_timestep`: a pipeline says the step it is in, and afterwards what it said before."""

from __future__ import annotations

import pytest
import torch

from sdprobe.model.denoiser.current_timestep import current_timestep
from tests.families import flux
from tests.tiny import stable_diffusion


def test_it_is_said_only_meanwhile():
    pipe, timestep = flux(), torch.tensor(500.0)
    before = dict(vars(pipe))
    with current_timestep(pipe, timestep):
        assert pipe.current_timestep is timestep
        with current_timestep(pipe, torch.tensor(400.0)):
            assert pipe.current_timestep == 400
        assert pipe.current_timestep is timestep
    assert vars(pipe) == before


def test_after_an_error():
    pipe = flux()
    pipe._current_timestep = None  # as its own loop leaves it
    with pytest.raises(RuntimeError, match="stop"), current_timestep(pipe, torch.tensor(500.0)):
        raise RuntimeError("stop")
    assert pipe.current_timestep is None


def test_a_pipeline_that_says_none():
    pipe = stable_diffusion()
    before = dict(vars(pipe))
    with current_timestep(pipe, torch.tensor(500.0)):
        assert vars(pipe) == before
