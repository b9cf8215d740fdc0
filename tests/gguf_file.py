"""Weights as a GGUF file: matrices whose rows divide into blocks are packed in 8 bits, all else stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
from torch import Tensor

PACKED = gguf.GGMLQuantizationType.Q8_0
BLOCK = 32


def save_gguf(weights: Mapping[str, Tensor], path: Path, architecture: str) -> int:
    """Write weights to a file. Returns how many of them are packed."""
    writer, packed = gguf.GGUFWriter(str(path), architecture), 0
    for name, own in weights.items():
        x = own.detach().float().contiguous().numpy()
        if x.ndim == 2 and x.shape[1] % BLOCK == 0:
            writer.add_tensor(name, gguf.quants.quantize(x, PACKED), raw_dtype=PACKED)
            packed += 1
        else:
            writer.add_tensor(name, x)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return packed
