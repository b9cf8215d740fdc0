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
    not, and only their order is of use here. The map goes on over its edges, as a Fourier transform has it.

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
    (phase randomisation), here over two axes.
    """
    values = like.numpy().astype(np.float64)
    spectrum = np.fft.fft2(values)
    noise = np.fft.fft2(np.random.default_rng(seed).standard_normal(values.shape))
    phases = noise / np.abs(noise)
    phases[0, 0] = spectrum[0, 0] / np.abs(spectrum[0, 0]) if spectrum[0, 0] else 1.0
    drawn = np.fft.ifft2(np.abs(spectrum) * phases).real
    return replace(like, values=torch.from_numpy(drawn).to(like.values))
