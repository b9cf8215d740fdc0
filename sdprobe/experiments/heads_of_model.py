"""`heads_of`: the attention heads of a model, each with the hook that ablates it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sdprobe.core.module_names import fits
from sdprobe.experiments.parts_of_model import attention_of, named_parts
from sdprobe.transform.ablate import Ablate

Way = Literal["zero", "mean"]


@dataclass(frozen=True)
class Head:
    """One head of an attention module.

    Args:
        module: the name of the attention module.
        number: the head's number, from 0.
        layers: the layers whose input is the heads side by side, those after the attention; none where the attention
            gives the heads themselves (the single blocks of Flux).
        width: the width of a head.
        mixed: whether other values follow those of the heads in what the layers take (the single blocks of Flux.2).
    """

    module: str
    number: int
    layers: tuple[str, ...]
    width: int
    mixed: bool = False

    @property
    def name(self) -> str:
        """The module's name and the head's number."""
        return f"{self.module} head {self.number}"


def heads_of(model: Any, modules: str | Iterable[str] | None = None) -> list[Head]:
    """Return the heads of attention modules, in the order of the network.

    >>> import sdprobe
    >>> heads = heads_of(sdprobe.load(), "mid_block*")
    >>> len(heads), heads[3].name
    (4, 'mid_block.attentions.0.transformer_blocks.0.attn2 head 3')

    Args:
        model: a model.
        modules: patterns on the names of attention modules that read the text; None for all of cross-attention, or, in
            a model without it, of joint attention.

    Raises ValueError for a pattern that fits none.
    """
    names = attention_of(model)
    if modules is not None:
        patterns = [modules] if isinstance(modules, str) else list(modules)
        named_parts(patterns, model)
        for pattern in patterns:
            if not any(fits(name, pattern) for name in names):
                raise ValueError(
                    f"{pattern!r} fits no attention that reads the text; there are {', '.join(names) or 'none'}"
                )
        names = tuple(name for name in names if any(fits(name, pattern) for pattern in patterns))
    return [head for name in names for head in _heads(model, name)]


def _heads(model: Any, name: str) -> list[Head]:
    module = model.modules[name]
    if hasattr(module, "to_qkv_mlp_proj"):
        return [Head(name, k, (f"{name}.to_out",), module.head_dim, mixed=True) for k in range(module.heads)]
    layers = tuple(own for own in (f"{name}.to_out.0", f"{name}.to_add_out") if own in model.modules)
    heads = model.heads_of(module)
    width = module.to_q.out_features // heads
    return [Head(name, k, layers, width) for k in range(heads)]


def ablate(heads: Sequence[Head], way: Way = "zero") -> list[Ablate]:
    """Return the hooks that ablate some heads together: one for each module.

    >>> import sdprobe
    >>> ablate(heads_of(sdprobe.load(), "mid_block*")[:2])
    [Ablate(('mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0',), heads=[0, 1], sides=('input',))]

    Args:
        heads: the heads.
        way: what takes the place of what a head gives: ``"zero"``, or ``"mean"``, its mean over all places.
    """
    found = []
    for module in dict.fromkeys(head.module for head in heads):
        own = [head for head in heads if head.module == module]
        layers, mixed = own[0].layers, own[0].mixed
        if layers and not mixed:
            found.append(Ablate(layers, way, heads=[head.number for head in own], sides="input"))
        else:
            of = [k for head in own for k in range(head.number * head.width, (head.number + 1) * head.width)]
            found.append(Ablate(layers or module, way, channels=of, sides="input" if layers else "output"))
    return found
