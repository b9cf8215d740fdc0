"""Methods of attribution: which places of a picture a word stands for, each after its paper, under one interface."""

from sdprobe.attributions.controls import Centre, RandomField, RandomWord
from sdprobe.attributions.cost_of_method import Cost
from sdprobe.attributions.daam import Daam
from sdprobe.attributions.evaluate_attributions import evaluate_attributions as evaluate_attributions
from sdprobe.attributions.evaluation import Evaluation
from sdprobe.attributions.gradient import Gradient
from sdprobe.attributions.gradient_x_input import GradientTimesInput
from sdprobe.attributions.grammar import Grammar, Pair, grammar
from sdprobe.attributions.head_dependent_overlaps import Overlaps, overlaps
from sdprobe.attributions.heads import Heads
from sdprobe.attributions.integrated import Integrated
from sdprobe.attributions.mask_cases import mask_cases
from sdprobe.attributions.mean import Mean
from sdprobe.attributions.output_space import OutputSpace
from sdprobe.attributions.ovam import Ovam
from sdprobe.attributions.rise import Rise
from sdprobe.attributions.self_refined import SelfRefined
from sdprobe.attributions.target import TARGETS, Target
from sdprobe.core.attribution import Attribution, WordAsked, record_of
from sdprobe.core.attribution_registry import create, methods, register

__all__ = [
    # by name
    "methods",
    "create",
    "register",
    "Attribution",
    "WordAsked",
    "record_of",
    # the methods
    "Mean",
    "Daam",
    "Heads",
    "SelfRefined",
    "Ovam",
    "OutputSpace",
    "Gradient",
    "GradientTimesInput",
    "Integrated",
    "Rise",
    # held against where things are
    "Evaluation",
    "Target",
    "TARGETS",
    "Cost",
    "mask_cases",
    "RandomWord",
    "Centre",
    "RandomField",
    # grammar
    "grammar",
    "Grammar",
    "Pair",
    "overlaps",
    "Overlaps",
]
