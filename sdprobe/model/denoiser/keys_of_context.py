"""`keys_of_context`: the keys that a cross-attention module makes of prompt embeddings, outside a run."""

from __future__ import annotations

from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from sdprobe.model.base import Model
from sdprobe.model.denoiser.sdpa_call import project_context


def keys_of_context(
    model: Model, layer: str, context: Shaped[Tensor, "tokens width"]
) -> Shaped[Tensor, "heads tokens of_head"]:
    """Return the keys of prompt embeddings at a cross-attention module; differentiable.

    Args:
        model: the model.
        layer: the module's name.
        context: prompt embeddings, as `Model.encoded` gives them.

    Raises ValueError for a module that the model does not have, and for embeddings of another width.
    """
    module: Any = model.modules.get(layer)
    kind = None if module is None else model.attention_kind(module)
    if kind != "cross":
        raise ValueError(f"{model!r} has no cross-attention {layer!r}: the run was made by another model")
    inlet = model.inlet_of(layer)
    first = next(own for part in (*inlet, module.to_k) for own in part.modules() if hasattr(own, "in_features"))
    if context.shape[-1] != first.in_features:
        raise ValueError(
            f"vectors of width {context.shape[-1]} at {layer}, whose prompt embeddings have {first.in_features}"
        )
    # An offloaded weight is on no device until it is used: its module then moves it, and what it is given.
    where = model.device if first.weight.is_meta else first.weight.device
    key, _ = project_context(module, kind, inlet, context.to(where)[None])
    return key[0]
