"""Causal experiments: conditions × cases × measures, with controls and intervals."""

from sdprobe.experiments import measures
from sdprobe.experiments.case import Case, cases
from sdprobe.experiments.condition import Condition, Design
from sdprobe.experiments.experiment import experiment
from sdprobe.experiments.result import Result
from sdprobe.experiments.sampler import attached
from sdprobe.experiments.shape_cases import shape_cases
from sdprobe.experiments.summary import Summary

__all__ = [
    "Case",
    "Condition",
    "Design",
    "Result",
    "Summary",
    "attached",
    "cases",
    "experiment",
    "measures",
    "shape_cases",
]
