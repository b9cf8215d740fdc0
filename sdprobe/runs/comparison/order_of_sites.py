"""`order_of_sites`: the order in which a network passes the sites that several hooks recorded.

A run says in which order its sites were passed (`Coverage.passed`). Where it does not, as in the folders of older
versions, each hook recorded its sites in the order in which they came. Two such orders are joined into one: what is
inside a module comes after its input and before its output; of modules of which none is inside the other, their names
decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sdprobe.core.run import Run
from sdprobe.runs.comparison.recorded_attention import attention_of
from sdprobe.runs.comparison.recorded_values import activations_of

STAGES = (
    (r"time.*|add_embedding|pos_embed|.*embedder|conv_in|norm|proj_in", -1),
    (r"down.*", 0),
    (r"mid.*", 1),
    (r"norm1.*", 1),
    (r"attn1?", 2),
    (r"norm2.*", 3),
    (r"attn2", 4),
    (r"up_blocks|norm3.*", 5),
    (r"ff.*|single_transformer_blocks", 6),
    (r".*samplers|conv|conv_norm_out|conv_act|conv_out|norm_out|proj_out", 7),
)
"""Which modules of one parent come before which others, by their names; all others are at 0."""
AFTER_ATTENTION = ("to_out", "to_add_out")
"""How the names of modules begin that come after the attention inside of which they are."""


def order_of_sites(runs: Iterable[Run]) -> dict[str, int]:
    """Return the place of each site that `AttentionMaps` and `Activations` recorded in some runs."""
    found: list[str] = []
    for run in runs:
        found = joined(found, _order_of(run))
    return {name: i for i, name in enumerate(found)}


def _order_of(run: Run) -> list[str]:
    """Return the sites that one run recorded."""
    by_hook = [own.layers for own in attention_of(run)]
    by_hook += [list(map(str, own.record.keys)) for own in activations_of(run)]
    recorded = {name for names in by_hook for name in names}
    found = [name for name in run.coverage.passed if name in recorded]
    for names in by_hook:
        found = joined(found, names)
    return found


def joined(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """Return two orders of sites as one that keeps both.

    >>> joined(["down.0.attn", "mid.attn"], ["mid.attn (input, hidden)", "mid (output, hidden)"])
    ['down.0.attn', 'mid.attn (input, hidden)', 'mid.attn', 'mid (output, hidden)']
    """
    found: list[str] = []
    x, y = list(first), list(second)
    while x and y:
        if x[0] in y or (y[0] not in x and comes_before(y[0], x[0])):
            found.append(y.pop(0))
        else:
            found.append(x.pop(0))
        if x and x[0] in found:
            x.pop(0)
        if y and y[0] in found:
            y.pop(0)
    return list(dict.fromkeys([*found, *x, *y]))


def comes_before(x: str, y: str) -> bool:
    """Return whether a site comes before another, by their names."""
    name, side = _parts(x)
    other, other_side = _parts(y)
    if name == other:
        rank = {"input": 0, "": 1, "output": 2}
        return rank[side] < rank[other_side]
    if other.startswith(f"{name}."):
        return side == "input" or (not side and other.removeprefix(f"{name}.").startswith(AFTER_ATTENTION))
    if name.startswith(f"{other}."):
        after = not other_side and name.removeprefix(f"{other}.").startswith(AFTER_ATTENTION)
        return not (other_side == "input" or after)
    return _key(name) < _key(other)


def _parts(site: str) -> tuple[str, str]:
    """Return the name of the module, and which side of it; none for attention."""
    name, _, rest = site.partition(" (")
    side = rest.split(",")[0]
    return name, side if side in ("input", "output") else ""


def _key(name: str) -> list[tuple[int, int, str]]:
    """Return what names are sorted by: of ``resnets.1`` and ``attentions.1``, the number before the name."""
    key: list[tuple[int, int, str]] = []
    for part, number in re.findall(r"([^.]*[^.\d][^.]*)(?:\.(\d+))?(?:\.|$)", name):
        if part in ("resnets", "attentions"):
            key.append((0, int(number or 0), "0" if part == "resnets" else "1"))
        else:
            stage = next((stage for pattern, stage in STAGES if re.fullmatch(pattern, part)), 0)
            key += [(stage, 0, part), (int(number or 0), 0, "")]
    return key
