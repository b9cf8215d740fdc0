"""Caches of diffusers on tiny pipelines, and the call of the stock pipeline that runs are held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import hooks as of_diffusers
from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS
from torch import Tensor

import sdprobe
from tests.families import flux, pixart, stable_diffusion_3, stable_diffusion_xl
from tests.tiny import stable_diffusion

STEPS = 5
SIZE = {"height": 16, "width": 16}
MAKERS: dict[str, Callable[[], Any]] = {
    "Stable Diffusion": stable_diffusion,
    "Stable Diffusion XL": stable_diffusion_xl,
    "Stable Diffusion 3": stable_diffusion_3,
    "Flux": flux,
    "PixArt": pixart,
}
UNET = ("Stable Diffusion", "Stable Diffusion XL")


def broadcast(now: Callable[[], Any]) -> Any:
    return of_diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        cross_attention_block_skip_range=3,
        spatial_attention_timestep_skip_range=(0, 1001),
        cross_attention_timestep_skip_range=(0, 1001),
        current_timestep_callback=now,
    )


def faster(now: Callable[[], Any], distilled: bool) -> Any:
    return of_diffusers.FasterCacheConfig(
        spatial_attention_timestep_skip_range=(-1, 900),
        unconditional_batch_timestep_skip_range=(-1, 900),
        unconditional_batch_skip_range=2,
        tensor_format="BCHW",
        is_guidance_distilled=distilled,
        attention_weight_callback=lambda _: 0.5,
        current_timestep_callback=now,
    )


def mag() -> Any:
    return of_diffusers.MagCacheConfig(mag_ratios=FLUX_MAG_RATIOS, num_inference_steps=STEPS, threshold=0.9)


def taylor(lite: bool) -> Any:
    return of_diffusers.TaylorSeerCacheConfig(cache_interval=3, disable_cache_before_step=2, use_lite_mode=lite)


CONFIGURED: Mapping[str, Callable[[Callable[[], Any], bool], Any]] = {
    "FirstBlockCache": lambda now, distilled: of_diffusers.FirstBlockCacheConfig(threshold=0.5),
    "PyramidAttentionBroadcast": lambda now, distilled: broadcast(now),
    "FasterCache": faster,
    "MagCache": lambda now, distilled: mag(),
    "TaylorSeerCache": lambda now, distilled: taylor(lite=False),
    "TaylorSeerCache, lite": lambda now, distilled: taylor(lite=True),
    "TextKVCache": lambda now, distilled: of_diffusers.TextKVCacheConfig(),
    "SeaCache": lambda now, distilled: of_diffusers.SeaCacheConfig(),
}
APPLIED = {
    "FirstBlockCache": of_diffusers.apply_first_block_cache,
    "PyramidAttentionBroadcast": of_diffusers.apply_pyramid_attention_broadcast,
    "FasterCache": of_diffusers.apply_faster_cache,
    "MagCache": of_diffusers.apply_mag_cache,
    "TaylorSeerCache": of_diffusers.apply_taylorseer_cache,
    "TaylorSeerCache, lite": of_diffusers.apply_taylorseer_cache,
}
"""The functions for networks without `enable_cache`."""

WORK = [
    *(("Flux", cache) for cache in CONFIGURED),
    *((family, "PyramidAttentionBroadcast") for family in ("Stable Diffusion 3", "PixArt", *UNET)),
    *((family, "MagCache") for family in ("Stable Diffusion 3", "PixArt")),
    ("PixArt", "FasterCache"),
]
"""Every family and cache with which the stock pipeline runs, and the cache acts or, of the last two of Flux, idles."""

WITHOUT_CONTEXT = [
    ("Stable Diffusion 3", "FirstBlockCache"),
    ("Stable Diffusion 3", "TaylorSeerCache"),
    ("PixArt", "TaylorSeerCache, lite"),
    ("Stable Diffusion", "TaylorSeerCache, lite"),
]
"""Caches that need a cache context, in pipelines that open none."""


def denoiser(pipe: Any) -> Any:
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def cached(family: str, cache: str, dtype: torch.dtype = torch.float32) -> Any:
    """A tiny pipeline with a cache in its denoiser, as a user puts it there."""
    pipe = MAKERS[family]().to(dtype)
    pipe.set_progress_bar_config(disable=True)
    tells = hasattr(type(pipe), "current_timestep")
    config = CONFIGURED[cache](lambda: pipe.current_timestep if tells else 500, family == "Flux")
    if hasattr(denoiser(pipe), "enable_cache"):
        denoiser(pipe).enable_cache(config)
    else:
        APPLIED[cache](denoiser(pipe), config)
    return pipe


def stock(pipe: Any, **given: Any) -> Any:
    """The final latents of the stock pipeline, or what it returns for another ``output_type``."""
    pipe.set_progress_bar_config(disable=True)
    own = pipe.scheduler
    pipe.scheduler = type(own).from_config(own.config)
    usual: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": 4.0, "output_type": "latent", **SIZE}
    if "PixArt" in type(pipe).__name__:
        usual["use_resolution_binning"] = False  # it knows no sizes for one so small
    try:
        found = pipe("a red circle", generator=torch.Generator().manual_seed(5), **usual | given).images
    finally:
        pipe.scheduler = own
    if "Flux" in type(pipe).__name__ and isinstance(found, Tensor):
        return pipe._unpack_latents(found, 16, 16, pipe.vae_scale_factor)
    return found


def run(pipe: Any, *hooks: Any, **given: Any) -> sdprobe.Run:
    """The same with `sample`."""
    usual = {"steps": STEPS, "guidance_scale": 4.0, "seed": 5, "progress": False, **SIZE}
    return sdprobe.sample(pipe, "a red circle", hooks=hooks, **usual | given)


def attached(pipe: Any, *hooks: Any) -> tuple[Tensor, sdprobe.Run]:
    """The same with `attach`: the stock pipeline's latents, and the run."""
    with sdprobe.attach(pipe, hooks=hooks) as own:
        return stock(pipe), own
