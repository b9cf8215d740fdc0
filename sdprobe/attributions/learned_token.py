"""`LearnedToken`: two prompt embeddings whose attention tells an object from its background."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from PIL.Image import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sdprobe.attributions.looks_at_picture import looks_at_picture
from sdprobe.core.attribution_registry import attribution
from sdprobe.core.finite import refuse_not_finite
from sdprobe.core.run import Run
from sdprobe.core.short_repr import said
from sdprobe.files.atomic_file import write_atomically
from sdprobe.plot.heatmap import HeatMap


@dataclass(frozen=True, eq=False, repr=False)
class LearnedToken:
    """A token whose attention map is a mask: what `sdprobe.learn_token` returns.

    Its map is the mean attention of a picture's queries to the object vector, where only the two vectors are shown.

    >>> import torch
    >>> import sdprobe
    >>> sdprobe.LearnedToken(torch.zeros(2, 96), "ring")
    LearnedToken('ring', 2 × 96)

    Args:
        vectors: of the background and of the object, in the space of the model's prompt embeddings.
        word: what it is called; `sdprobe.attributions.Ovam` takes any name for it.
        losses: the loss of every step of training.

    Raises ValueError for vectors that are not two rows of finite numbers.
    """

    vectors: Float[Tensor, "2 width"]
    word: str = ""
    losses: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.vectors) != 2 or not self.vectors.is_floating_point():
            raise ValueError(
                f"a learnt token is two vectors [2, width], background and object, not {said(self.vectors)}"
            )
        refuse_not_finite("the vectors of a learnt token", self.vectors)
        object.__setattr__(self, "losses", tuple(map(float, self.losses)))

    def heat_map(self, of: Run | Image, image: int = 0, *, model: Any = None) -> HeatMap:
        """Return the token's map of one image.

        Args:
            of: a run with `sdprobe.AttentionQueries`, or a picture, which is looked at as in `sdprobe.learn_token`.
            image: the image number, of a run.
            model: the model, for a picture, and for a run that holds none.

        Raises ValueError as `sdprobe.attributions.Ovam`, and for a picture without a model.
        """
        how = {"tokens": {self.word: self}, "model": model}
        if isinstance(of, Run):
            return attribution(("ovam", how)).heat_map(of, self.word, image)
        if model is None:
            raise ValueError("a picture holds no queries: give the model that is to look at it, model=...")
        del how["model"]
        found = [attribution(("ovam", how)).heat_map(run, self.word) for run in looks_at_picture(model, of)]
        return replace(found[0], values=torch.stack([own.values for own in found]).mean(0), picture=of)

    def segment(
        self, of: Run | Image, image: int = 0, *, threshold: float = 0.5, model: Any = None
    ) -> Bool[Tensor, "H W"]:
        """Return the mask of the object, at the size of the picture: where the normalized map is above a threshold.

        The map is normalized as in training. So the mask is never empty, also where a picture does not have the object.

        Args:
            of: as in `heat_map`.
            image: as in `heat_map`.
            threshold: from 0 to 1.
            model: as in `heat_map`.
        """
        heat = self.heat_map(of, image, model=model)
        size = (of.settings.height, of.settings.width) if isinstance(of, Run) else (of.height, of.width)
        return heat.resize(size, "bilinear").mask(threshold)

    def save(self, path: str | Path) -> Path:
        """Write a ``.safetensors`` file, completely or not at all, and return its path.

        >>> import tempfile
        >>> import torch
        >>> import sdprobe
        >>> token = sdprobe.LearnedToken(torch.ones(2, 96), "ring", losses=(0.5, 0.25))
        >>> path = token.save(tempfile.mkdtemp() + "/ring.safetensors")
        >>> sdprobe.LearnedToken.load(path)
        LearnedToken('ring', 2 × 96, 2 losses)
        """
        written = {"word": self.word, "losses": json.dumps(self.losses), "kind": "LearnedToken"}
        with write_atomically(Path(path)) as beside:
            save_file({"vectors": self.vectors.detach().cpu().contiguous()}, beside, written)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> LearnedToken:
        """Read a file that `save` wrote. Raises ValueError for any other."""
        try:
            with safe_open(path, framework="pt") as file:
                held: Mapping[str, str] = file.metadata() or {}
                if held.get("kind") != "LearnedToken":
                    raise ValueError("it was not written by LearnedToken.save")
                losses: Sequence[float] = json.loads(held["losses"])
                return cls(file.get_tensor("vectors"), held["word"], tuple(losses))
        except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{Path(path).name} holds no learnt token ({error})") from None

    def __repr__(self) -> str:
        losses = f", {len(self.losses)} losses" if self.losses else ""
        return f"LearnedToken({self.word!r}, 2 × {self.vectors.shape[1]}{losses})"
