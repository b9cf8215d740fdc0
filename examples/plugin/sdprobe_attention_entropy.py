"""How widely the picture's attention to each word is spread, step by step."""

from __future__ import annotations

import math

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import Tensor

from sdprobe import Attention, Observer, Run, Site


class AttentionEntropy(Observer):
    """The entropy of each token's cross-attention over the positions of the picture, at every step.

    The attention to a token is normalised to a distribution over the positions, at every site and head, and its entropy
    is divided by that of a uniform one; the mean over sites and heads is kept. Fewer positions attend to words for
    objects than to words such as "a" and "of".

    >>> import sdprobe
    >>> from sdprobe_attention_entropy import AttentionEntropy
    >>> entropy = AttentionEntropy()
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[entropy], steps=4, seed=0, progress=False)
    >>> run[entropy].of("circle").shape
    torch.Size([4, 1])
    >>> bool((0 < run[entropy].of("circle")).all() and (run[entropy].of("circle") < 1).all())
    True
    """

    kinds = ("cross",)

    def start(self, run: Run) -> None:
        self.run = run
        self.sums: dict[int, Tensor] = {}  # with public names, these are saved with the run
        self.counts: dict[int, Tensor] = {}

    def attention(self, attn: Attention, site: Site) -> None:
        if attn.query.shape[-2] == 1:
            return  # with a single position there is no distribution
        probs = attn.probs(rows="cond").float()
        given = probs / probs.sum(-2, keepdim=True)
        entropy = torch.special.entr(given).sum(-2) / math.log(given.shape[-2])
        seen = ~entropy.isnan()  # a head may give a token nothing at all
        step = site.step.index
        self.sums[step] = self.sums.get(step, 0) + entropy.nansum(1)
        self.counts[step] = self.counts.get(step, 0) + seen.sum(1)

    @property
    def values(self) -> Tensor:
        """``[steps, images, tokens]``: from 0, all at one position, to 1, uniform."""
        return torch.stack([total / self.counts[step] for step, total in self.sums.items()])

    def of(self, word: str) -> Tensor:
        """``[steps, images]`` of a word of the prompt: the mean over its tokens."""
        own = [
            self.values[:, image, list(self.run.prompt_of(image).positions(word))].mean(-1)
            for image in range(self.run.settings.images)
        ]
        return torch.stack(own, dim=1)

    def plot(self, image: int = 0) -> Figure:
        """A line over the steps for each word of a picture's prompt."""
        figure = Figure(figsize=(5, 3), layout="constrained")
        ax = figure.subplots()
        words = self.run.prompt_of(image).words
        for i, (word, (first, *_)) in enumerate(words.items()):
            color, marker = matplotlib.colormaps["viridis"](i / len(words)), "osD^v<>"[i % 7]
            values = self.values[:, image, list(first)].mean(-1).cpu()
            ax.plot(list(self.sums), values, marker=marker, color=color, markersize=4, linewidth=1, label=word)
        ax.set(xlabel="step", ylabel="entropy of the attention\n(1: spread evenly)")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right upper", frameon=False)
        return figure
