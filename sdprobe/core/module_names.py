"""Dotted names of modules, whatever the version of transformers, and patterns on them."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase


def plain(name: str) -> str:
    """Return a name, or a pattern, without the ``text_model`` within which some versions have CLIP's layers.

    >>> plain("text_encoder.text_model.encoder.layers.0")
    'text_encoder.encoder.layers.0'
    """
    return re.sub(r"\.text_model\b", "", name) if name.startswith("text_encoder") else name


def fits(name: str, pattern: str) -> bool:
    """Whether a module's name fits a pattern (fnmatch)."""
    return fnmatchcase(plain(name), plain(pattern))


def short_name(name: str, most: int = 2) -> str:
    """Return a module's name by its part of the network and its first numbers; a name without numbers as it is.

    >>> short_name("up_blocks.2.attentions.1.transformer_blocks.0.attn2")
    'up 2.1'
    """
    place, *rest = name.split(" ")[0].split(".")
    numbers = ".".join([part for part in rest if part.isdigit()][:most])
    return f"{place.split('_')[0]} {numbers}" if numbers else name
