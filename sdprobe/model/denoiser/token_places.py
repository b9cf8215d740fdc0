"""`TokenPlaces`: where the tokens of image and text stand in a tensor of a module, and which stream it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from sdprobe.model.denoiser.image_prompts import MAKERS
from sdprobe.model.denoiser.token_layout import Grid, Layout

NOWHERE = slice(0, 0)
EMBEDDERS = ("context_embedder", "caption_projection")
"""Modules that the text goes through before the blocks."""

OF_TEXT = frozenset(
    (
        *("add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k", "to_add_out"),
        *("ff_context", "norm1_context", "norm2_context"),
        *(*EMBEDDERS, "text_embedder", "text_proj", "caption_norm", "caption_embedder", "cap_embedder"),
        *("text_fusion", "txt_norm", "txt_in", "txt_norm1", "txt_norm2", "txt_mlp"),
        "context_refiner",
    )
)
"""Modules that only the text goes through, by a part of their names."""

OF_PICTURE, OF_ADDED = "image_embedder", frozenset(("add_k_proj", "add_v_proj", "norm_added_k"))
"""Modules that only a picture beside the prompt goes through: of Wan, one that makes tokens, and of attention."""

OF_LAYERS = "layerwise_blocks"
"""Modules of Krea 2 that see the layers of each token of the text, not its tokens."""

OF_CONTEXT = frozenset(("to_k", "to_v", "norm_k"))
"""Modules of cross-attention that the text goes through."""

SIDE_BY_SIDE = {
    "output": frozenset(
        ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "q_proj", "k_proj", "v_proj", "q", "k", "v")
    ),
    "input": frozenset(("to_out.0", "to_out", "to_add_out", "out_proj", "o")),
}
"""Parts of an attention module whose width is its heads, side by side."""

OF_QUERIES, OF_KEYS = (
    ("to_q", "q_proj", "q"),
    ("to_k", "to_v", "add_k_proj", "add_v_proj", "k_proj", "v_proj", "k", "v"),
)
"""Of these, those that make queries, and those that make keys and values."""


class Placed(NamedTuple):
    """A tensor's stream, the image's grid in it, and the ranges of image and text on its second axis."""

    stream: str
    grid: Grid | None
    image: slice
    text: slice | None


class TokenPlaces:
    """The places of tokens in the tensors of one network.

    Args:
        layout: the positions of image and text on one axis.
        kinds: the kind of each attention module, by its name.
    """

    def __init__(self, layout: Layout, kinds: Mapping[str, str]) -> None:
        self._layout, self._kinds = layout, kinds
        self._is_joint = "joint" in kinds.values()

    def of(self, name: str, stream: str, x: Tensor) -> Placed:
        """Return the places in a tensor of a module.

        Args:
            name: the module's name.
            stream: the stream as the module's own signature tells it.
            x: the tensor.
        """
        if name.split(".")[0] in MAKERS or self._is_of_image_prompt(name):
            return Placed(stream.replace("hidden", "image prompt"), None, NOWHERE, None)
        if stream == "text" and self._layout.one_stream and name in self._kinds:
            stream = "context"  # the same tensor again, of which keys and values are made
        own = stream == "text"
        if OF_LAYERS in name.split("."):
            return Placed("layers", None, NOWHERE, None)
        if stream == "hidden" and x.ndim == 3 and self._is_of_text(name):
            stream = "text"
        if stream == "context" and x.ndim == 3 and self._is_of_text(name):
            return Placed(stream, None, NOWHERE, slice(0, x.shape[1]))
        if stream == "text" and x.ndim == 3:
            first = 0 if name.split(".")[0] in EMBEDDERS else self._layout.registers
            text = self._layout.text_in(x.shape[1]) if own else slice(first, x.shape[1])
            return Placed(stream, None, NOWHERE, text)
        if stream.split(" ")[0] not in ("hidden", "context", "skip", "output"):
            return Placed(stream, None, NOWHERE, None)
        if x.ndim == 4 and not self.is_within_attention(name):
            return Placed(stream, self._layout.grid_of(x), slice(None), None)
        if x.ndim != 3:
            return Placed(stream, None, NOWHERE, None)
        return self._of_tokens(stream, x)

    def _of_tokens(self, stream: str, x: Tensor) -> Placed:
        count, grid = x.shape[1], self._layout.grid_of(x)
        if self._is_joint and grid is None and count > max(self._layout.grids) + self._layout.beside:
            return Placed(stream, *self._layout.of("joint", count, count))
        if grid is None:
            return Placed(stream, None, NOWHERE, None)
        return Placed(
            "image" if self._is_joint and stream == "hidden" else stream,
            grid,
            slice(0, count - self._layout.beside),
            None,
        )

    def _is_of_image_prompt(self, name: str) -> bool:
        *above, last = name.split(".")
        return OF_PICTURE in name.split(".") or (last in OF_ADDED and self._kinds.get(".".join(above)) == "cross")

    def _is_of_text(self, name: str) -> bool:
        parts = name.split(".")
        if not OF_TEXT.isdisjoint(parts):
            return True
        of_cross = (part for n, part in enumerate(parts) if self._kinds.get(".".join(parts[:n])) == "cross")
        return not OF_CONTEXT.isdisjoint(of_cross)  # or within one of them, as the layers of a LoRA are

    def is_within_attention(self, name: str) -> bool:
        """Whether a module is an attention module or a part of one."""
        parts = name.split(".")
        return any(".".join(parts[:n]) in self._kinds for n in range(1, len(parts)))


def heads_of(modules: Mapping[str, nn.Module], name: str, side: str, x: Tensor) -> int:
    """Return into how many heads the width of a tensor is divided, side by side; 0 if it is not.

    With grouped queries, keys and values have fewer heads than the queries.
    """
    parts = name.split(".")
    for n in (1, 2):
        if len(parts) > n and ".".join(parts[-n:]) in SIDE_BY_SIDE[side]:
            attention: Any = modules.get(".".join(parts[:-n]))
            width, heads = x.shape[-1], heads_of_queries(attention)
            own = getattr(attention, "inner_dim", None)
            if side == "input" and isinstance(own, int) and own != width:
                return 0  # Flux.2's blocks of one stream: values of a feed-forward layer stand beside the heads
            if parts[-1] in OF_KEYS and heads:
                query = next(
                    (own.out_features for name in OF_QUERIES if (own := getattr(attention, name, None))), width
                )
                if width < query and query % heads == 0:
                    heads = width // (query // heads)
            return heads if heads and width % heads == 0 else 0
    return 0


def heads_of_queries(attention: Any) -> int:
    """Return the number of heads of an attention module's queries; 0 where it does not say."""
    counts = (getattr(attention, own, None) for own in ("heads", "num_heads", "n_heads"))
    return next((count for count in counts if isinstance(count, int)), 0)
