"""`RefineAttention`: prompt-to-prompt for words that are added."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sdprobe.core.attention import in_full_precision
from sdprobe.core.prompt import Prompt
from sdprobe.core.token_alignment import align_tokens
from sdprobe.transform.prompt_to_prompt.source_of_attention import AttentionFromSource, SourceRows, columns_of


class RefineAttention(AttentionFromSource):
    """Give an edited prompt the attention of its source for the tokens that both have; new ones keep their own.

    Tokens are aligned by their longest common subsequence (`align_tokens`), so that words may be added, left out or
    swapped. The k-th padding token takes the attention of the k-th. What new words get is not taken from the others:
    the probabilities of a place need not sum to 1, as in the paper.

    >>> import sdprobe
    >>> prompts = ["a circle left of a blue square", "a large red circle left of a blue square"]
    >>> settings = {"steps": 4, "seed": [0, 0], "guidance_scale": 5.0, "progress": False}
    >>> run = sdprobe.sample(sdprobe.load(), prompts, hooks=[sdprobe.RefineAttention(until=0.8)], **settings)
    >>> run.latents.shape
    torch.Size([2, 4, 16, 16])

    Args:
        source: where attention comes from: a number of a prompt of the run, or the record of an earlier run, as in
            `ReplaceAttention`.
        until: the share of the steps in which it acts, from the first step on.
        targets: the numbers of the prompts that are edited; None for all but the source.
        modules: fnmatch patterns on dotted module names; None for every site where the picture looks at text.

    Rows, further calls and errors are as in `ReplaceAttention`.

    Raises:
        TypeError: in a run, for a source that holds no record.
        ValueError: for a share that is none, and targets that are none. Before the run: for a source or target that it
            lacks, one prompt and no record, rows without the source, and a record of other steps. In the run, for
            another size of the picture.
        KeyError: in the run, for a step or site that is not in the record.

    Source: Hertz et al. 2022, "Prompt-to-Prompt Image Editing with Cross Attention Control", section 3, "adding a new
    phrase". The authors' code aligns by the Needleman-Wunsch algorithm, which may pair different tokens; here only the
    same tokens are paired. Theirs takes the padding by its position, here it is counted from the end of the text.
    """

    kinds = ("cross", "joint")
    columns = "text"

    def check(self, source: Prompt, target: Prompt) -> None:
        align_tokens(source, target)  # raises an error for prompts whose tokens are not known

    def edited(
        self, found: SourceRows, targets: Sequence[Prompt], own: Callable[[], Tensor], count: int
    ) -> Float[Tensor, "edits heads queries columns"]:
        pairs = zip(found.prompts, targets, strict=True)
        shares = torch.stack(
            [columns_of(align_tokens(*pair).refinement, found.probs.shape[-1], count, pair) for pair in pairs]
        )
        device = found.probs.device
        new = (shares.sum(1) == 0)[:, None, None].to(device, non_blocking=True)
        with in_full_precision(found.probs):
            return torch.where(new, own(), found.probs @ shares.unsqueeze(1).to(device, non_blocking=True))
