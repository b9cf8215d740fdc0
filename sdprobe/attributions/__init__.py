"""Methods of attribution: which places of a picture a word stands for, each after its paper, under one interface."""

from sdprobe.attributions.daam import Daam
from sdprobe.attributions.heads import Heads
from sdprobe.attributions.mean import Mean
from sdprobe.attributions.ovam import Ovam
from sdprobe.attributions.self_refined import SelfRefined
from sdprobe.core.attribution import Attribution, WordAsked, record_of
from sdprobe.core.attribution_registry import create, methods, register

__all__ = [
    "methods",
    "create",
    "register",
    "Attribution",
    "WordAsked",
    "record_of",
    "Mean",
    "Daam",
    "Heads",
    "SelfRefined",
    "Ovam",
]
