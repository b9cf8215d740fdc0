"""Random vectors of the norms of others, the control of a sweep: `random_record` and `RandomPrompt`."""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor

from sdprobe.core.activations.record import ActivationRecord, HeldActivations, Kept
from sdprobe.core.cpu_copy import CpuCopy
from sdprobe.core.hook import Transform
from sdprobe.core.text import Text
from sdprobe.experiments.seed_of import seed_of


def with_norms_of(x: Shaped[Tensor, ...], generator: torch.Generator, axis: int = -1) -> Shaped[Tensor, ...]:
    """Return random vectors with the norms of those along an axis of a tensor.

    >>> x = torch.arange(6.0).view(2, 3)
    >>> made = with_norms_of(x, torch.Generator().manual_seed(0))
    >>> bool(torch.allclose(made.norm(dim=-1), x.norm(dim=-1))), bool(torch.allclose(made, x))
    (True, False)
    """
    noise = torch.randn(x.shape, generator=generator)
    norms = x.float().cpu().norm(dim=axis, keepdim=True)
    made: Tensor = noise * (norms / noise.norm(dim=axis, keepdim=True))
    return made.to(x)


def random_record(record: ActivationRecord, seed: int) -> HeldActivations:
    """Return a record of the same form, in which every vector is a random one of the same norm.

    A vector is what a tensor holds at one place: its channels. Vectors of other places, steps and modules are drawn
    apart.

    Args:
        record: the record.
        seed: of the directions; each step and tensor has its own draws from it.
    """
    found = HeldActivations(record.description)
    for index in record.indices:
        kept = {}
        for key, form in record.forms(index).items():
            axis = form.axes.index("channels") if "channels" in form.axes else -1
            own = torch.Generator().manual_seed(seed_of(seed, index, *key))
            kept[key] = Kept(CpuCopy(with_norms_of(record.at(index, key), own, axis)), form)
        found.write(index, kept)
    return found


class RandomPrompt(Transform):
    """Replace the prompt embeddings by random vectors of the norms of another text's, token by token.

    >>> import sdprobe
    >>> control = RandomPrompt("a blue circle", seed=1)
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[control], steps=2, seed=0, progress=False)

    Args:
        text: the other text.
        seed: of the directions.
    """

    def __init__(self, text: str, seed: int = 0) -> None:
        self.text, self.seed = text, seed

    def prompt_embeds(self, x: Tensor, text: Text) -> Tensor:
        if text.role != "cond":
            return x
        (other,) = text.encode([self.text])
        return with_norms_of(other, torch.Generator().manual_seed(self.seed)).to(x).expand_as(x).clone()
