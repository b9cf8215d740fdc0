"""`random_field`: a random map as smooth as a given one, as a control for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from sdprobe.plot.heatmap import HeatMap


def random_field(like: HeatMap, seed: int | Sequence[int]) -> HeatMap:
    """Return a map with the power spectrum of another one and random phases: as smooth, with its peaks elsewhere.

    The phases are those of white noise, so that the map is real. The mean stays; the distribution of the values does
    not, and only their order is of use here. The map goes on over its edges, as a Fourier transform has it. That of a
    video is as smooth in time as well.

    >>> import torch
    >>> import sdprobe
    >>> spot = torch.zeros(8, 8)
    >>> spot[2:4, 2:5] = 1.0
    >>> field = random_field(sdprobe.HeatMap(spot, "spot"), seed=0)
    >>> power = [torch.fft.fft2(own).abs() for own in (spot, field.values)]
    >>> field, bool(torch.allclose(*power, atol=1e-5)), bool(torch.equal(spot, field.values))
    (HeatMap('spot', 8×8), True, False)

    Args:
        like: the map.
        seed: of the phases; several numbers are one seed.

    Source: Theiler et al. 1992, "Testing for nonlinearity in time series: the method of surrogate data", section 2.4
    (phase randomisation), here over two axes, and over that of frames.
    """
    values = like.numpy().astype(np.float64)
    spectrum = np.fft.fftn(values)
    noise = np.fft.fftn(np.random.default_rng(seed).standard_normal(values.shape))
    phases = noise / np.abs(noise)
    mean = (0,) * values.ndim
    phases[mean] = spectrum[mean] / np.abs(spectrum[mean]) if spectrum[mean] else 1.0
    drawn = np.fft.ifftn(np.abs(spectrum) * phases).real
    return replace(like, values=torch.from_numpy(drawn).to(like.values))
