"""`ReplaceAttention`: prompt-to-prompt for a word in the place of another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.attention import in_full_precision
from sdprobe.core.prompt import Prompt
from sdprobe.core.token_alignment import align_tokens
from sdprobe.transform.prompt_to_prompt.source_of_attention import AttentionFromSource, SourceRows, columns_of


class ReplaceAttention(AttentionFromSource):
    """Give an edited prompt the attention of its source: words that were swapped are seen where the old ones were.

    The picture's places look at each token of the edit as they look at the token of the source in its place. Words are
    found by the longest common subsequence of tokens (`align_tokens`). Where a swap has another number of tokens, each
    token of the source is shared in equal parts by those in its place, so that no attention is lost. In joint attention
    the text columns of the picture's places are replaced, and nothing is scaled to make up for it.

    >>> import sdprobe
    >>> prompts = ["a red circle left of a blue square", "a green circle left of a blue square"]
    >>> settings = {"steps": 4, "seed": [0, 0], "guidance_scale": 5.0, "progress": False}
    >>> replaced = sdprobe.ReplaceAttention(until=0.8)
    >>> run = sdprobe.sample(sdprobe.load(), prompts, hooks=[replaced], **settings)
    >>> plain = sdprobe.sample(sdprobe.load(), prompts, **settings)
    >>> [bool((a == b).all()) for a, b in zip(run.latents, plain.latents)]
    [True, False]

    Args:
        source: where attention comes from. A number: a prompt of the run; image j of every other prompt takes the
            attention of the source's image j, and has its noise if the seeds say so. Else an earlier run with an
            `AttentionRecorder`, ``run[recorder]``, its ``record``, or the folder of one: an image takes the attention
            of the image with the same number, and a record of one image is used for every image. One step of one site
            is read at a time.
        until: the share of the steps in which it acts, from the first step on.
        targets: the numbers of the prompts that are edited; None for all but the source.
        modules: fnmatch patterns on dotted module names; None for every site where the picture looks at text.

    Limited by ``only(rows=...)``, the source's rows must be among those that it gets: say what is edited by
    ``targets``. In further calls of the denoiser (`Step.predict`) it acts if these have the source's rows; from a
    record it does not, as a record holds the loop's own calls.

    Raises:
        TypeError: in a run, for a source that holds no record.
        ValueError: for a share that is none, and targets that are none. Before the run: for a source or target that it
            lacks, one prompt and no record, rows without the source, a record of another number of steps or another
            scheduler, and prompts that differ in more than swapped words, which `RefineAttention` edits. In the run,
            for another size of the picture than the record's.
        KeyError: in the run, for a step or site that is not in the record.

    Source: Hertz et al. 2022, "Prompt-to-Prompt Image Editing with Cross Attention Control", section 3, "word swap".
    The authors' code compares the words of prompts of as many words, and takes the tokens after the last swap by their
    position; here every token is aligned, and padding counted from the end of the text. Theirs has a share of steps for
    each word; here it is one for all.
    """

    kinds = ("cross", "joint")
    columns = "text"

    def check(self, source: Prompt, target: Prompt) -> None:
        alignment = align_tokens(source, target)
        if not alignment.only_swaps:
            raise ValueError(
                f"{alignment.said()}, and ReplaceAttention only knows words in the place of others: use "
                f"RefineAttention, which keeps the attention to new words"
            )

    def edited(
        self, found: SourceRows, targets: Sequence[Prompt], own: Callable[[], Tensor], count: int
    ) -> Float[Tensor, "edits heads queries columns"]:
        pairs = zip(found.prompts, targets, strict=True)
        shares = [columns_of(align_tokens(*pair).replacement, found.probs.shape[-1], count, pair) for pair in pairs]
        with in_full_precision(found.probs):
            return found.probs @ torch.stack(shares).unsqueeze(1).to(found.probs.device, non_blocking=True)
