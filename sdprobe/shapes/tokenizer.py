"""The tokenizer of the embedded model: a byte-level BPE in CLIP's own format, learnt from the words captions use.

`"checkered"` and `"drawing"` are two tokens each, so that words of several tokens exist here as they do in CLIP.
"""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

MAX_LENGTH = 32
"""Positions of a prompt, start and end included."""

# The pieces of the two long words stand apart: no merge is learnt across them.
_WORDS = [
    word
    for line in (
        "a an the of on in at to and with next , . photo picture draw~ ing image",
        "red orange yellow green cyan blue purple pink brown circle square triangle star cross ring shape",
        "small tiny large big left right above below under top bottom middle",
        "white grey black striped check~ ered dotted background",
    )
    for word in line.split()
]


def _alphabet() -> list[str]:
    """CLIP's printable stand-ins for the 256 bytes, in its order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + k) for k in range(len(others))]


def _merges() -> list[tuple[str, str]]:
    """Join the most frequent neighbours until every word is one piece."""
    words = [[*w[:-1]] if w.endswith("~") else [*w[:-1], w[-1] + "</w>"] for w in _WORDS]
    merges: list[tuple[str, str]] = []
    while counts := Counter(pair for word in words for pair in pairwise(word)):
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        for word in words:
            k = 0
            while k + 1 < len(word):
                if (word[k], word[k + 1]) == best:
                    word[k : k + 2] = ["".join(best)]
                k += 1
    return merges


def build(folder: Path) -> CLIPTokenizer:
    """Write the tokenizer to a folder, and load it from there.

    Example:
        >>> import tempfile
        >>> tokenizer = build(Path(tempfile.mkdtemp()))
        >>> tokenizer.tokenize("a checkered star")
        ['a</w>', 'check', 'ered</w>', 'star</w>']
        >>> len(tokenizer), tokenizer.model_max_length
        (663, 32)
    """
    merges = _merges()
    alphabet = _alphabet()
    pieces = list(dict.fromkeys([*alphabet, *(a + "</w>" for a in alphabet), *("".join(m) for m in merges)]))
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({p: k for k, p in enumerate(pieces)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n")
    made = CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        model_max_length=MAX_LENGTH,
        pad_token="<|endoftext|>",
    )
    made.save_pretrained(folder)
    loaded: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    return loaded
