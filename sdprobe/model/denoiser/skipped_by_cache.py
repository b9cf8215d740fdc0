"""`cache_of`: which cache of diffusers (`enable_cache`) can skip a module of the denoiser."""

from __future__ import annotations

from torch import nn

from sdprobe.model.denoiser.diffusers_hooks import diffusers_hooks

# By the name under which diffusers registers a cache's hook on a module. Only the hooks that can skip the module are
# here: the first block of FirstBlockCache is always computed, and TextKVCache skips nothing.
CACHES = {
    "fbc_block_hook": "FirstBlockCache",
    "pyramid_attention_broadcast": "PyramidAttentionBroadcast",
    "faster_cache_block": "FasterCache",
    "mag_cache_leader_block_hook": "MagCache",
    "mag_cache_block_hook": "MagCache",
    "taylorseer_cache": "TaylorSeerCache",
    "sea_cache_leader_block": "SeaCache",
    "sea_cache_block": "SeaCache",
    "sea_cache_post_norm": "SeaCache",
}


def cache_of(denoiser: nn.Module, name: str) -> str | None:
    """Return the name of the cache that can skip a module, or a module around it; None if there is none.

    The name is that of its configuration in diffusers, without ``Config``.

    Args:
        denoiser: the network.
        name: the dotted name of one of its modules.
    """
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        for hook in diffusers_hooks(denoiser.get_submodule(".".join(parts[:length]))):
            if hook in CACHES:
                return CACHES[hook]
    return None
