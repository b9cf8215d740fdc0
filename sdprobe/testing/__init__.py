"""Tests that every hook must pass, for your own hooks.

`check_hook` checks all laws on a toy model, in a few seconds; in a test it is one line. For your own property tests
there are the toy model, synthetic hooks and runs as hypothesis strategies, and the footprint of a model.
"""

from sdprobe.model.toy_model import toy_model
from sdprobe.testing.check import LAWS, check_hook, examine
from sdprobe.testing.check_family import FAMILY_LAWS, check_family, examine_family
from sdprobe.testing.law import Law
from sdprobe.testing.model_footprint import footprint
from sdprobe.testing.report import Finding, LawsBroken, Report
from sdprobe.testing.stock_call import call_stock, stock_arguments
from sdprobe.testing.strategies import hooks, observers, runs, transforms

__all__ = [
    "check_hook",
    "examine",
    "LAWS",
    "check_family",
    "examine_family",
    "FAMILY_LAWS",
    "call_stock",
    "stock_arguments",
    "Law",
    "Report",
    "Finding",
    "LawsBroken",
    "toy_model",
    "footprint",
    "hooks",
    "observers",
    "transforms",
    "runs",
]
