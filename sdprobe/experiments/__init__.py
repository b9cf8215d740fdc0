"""Causal experiments: conditions × cases × measures, with controls and intervals."""

from sdprobe.experiments import measures as measures
from sdprobe.experiments.case import Case, cases
from sdprobe.experiments.condition import Condition, Design, NotInThisCase
from sdprobe.experiments.context_sweep import ContextSweep, context_sweep
from sdprobe.experiments.curve_result import CurveResult
from sdprobe.experiments.deletion import Deletion, deletion
from sdprobe.experiments.effect_matrix import EffectMatrix
from sdprobe.experiments.effects import Effects
from sdprobe.experiments.experiment import experiment
from sdprobe.experiments.given_pictures import given_pictures
from sdprobe.experiments.head_ablation import HeadAblation, head_ablation
from sdprobe.experiments.head_relevance import HeadVotes, head_relevance
from sdprobe.experiments.insertion import Insertion, insertion
from sdprobe.experiments.knock_out import KnockOut, knock_out
from sdprobe.experiments.patch_sweep import PatchSweep, patch_sweep
from sdprobe.experiments.plan import Plan, plan
from sdprobe.experiments.result import Result
from sdprobe.experiments.sampler import attached
from sdprobe.experiments.shape_cases import shape_cases
from sdprobe.experiments.summary import Summary
from sdprobe.experiments.token_sweep import TokenSweep, token_sweep

__all__ = [
    # any experiment
    "experiment",
    "plan",
    "Plan",
    "Case",
    "cases",
    "shape_cases",
    "Condition",
    "Design",
    "NotInThisCase",
    "attached",
    "given_pictures",
    "Result",
    "Summary",
    # words
    "knock_out",
    "token_sweep",
    "deletion",
    "insertion",
    "CurveResult",
    "KnockOut",
    "TokenSweep",
    "Deletion",
    "Insertion",
    # modules, steps and heads
    "patch_sweep",
    "context_sweep",
    "head_ablation",
    "head_relevance",
    "EffectMatrix",
    "Effects",
    "HeadVotes",
    "PatchSweep",
    "ContextSweep",
    "HeadAblation",
]
