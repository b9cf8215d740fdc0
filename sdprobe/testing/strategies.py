"""Hypothesis strategies: random hooks and runs, for your own property tests.

Every synthetic hook acts at one point, so that a failing example is easy to read. They need hypothesis, installed by
``pip install 'sdprobe[test]'``.
"""

from __future__ import annotations

import importlib
from typing import Any

from sdprobe.core.hook import POINTS
from sdprobe.core.limits.only import only
from sdprobe.observe.attention_maps import AttentionMaps
from sdprobe.observe.latents import LatentRecorder
from sdprobe.observe.self_attention_maps import SelfAttentionMaps
from sdprobe.observe.statistics import Statistics
from sdprobe.testing.synthetic_hooks import affine, same, seen
from sdprobe.transform.mix_tokens import MixTokens
from sdprobe.transform.replace_token import ReplaceToken
from sdprobe.transform.scale_prompt import ScalePrompt

PROMPTS = ("a red circle", "a circle and a star", "one red circle above a red ring")
OBSERVERS = (AttentionMaps, SelfAttentionMaps, LatentRecorder, Statistics)
TRANSFORMS = (
    lambda: ReplaceToken("circle", with_="square"),
    lambda: MixTokens({"red": 0.5, "star": 0.5}, at="circle"),
    lambda: ScalePrompt(0.9),
    lambda: only(ReplaceToken("circle", with_="square"), steps={1}),
)


def observers() -> Any:
    """Observers: synthetic ones that record the values of one point, and some of the package's own.

    >>> from sdprobe.testing import observers
    >>> observers().example()  # doctest: +SKIP
    Seen('noise_pred')
    """
    st = _hypothesis()
    return st.one_of(st.builds(seen, st.sampled_from(POINTS)), st.sampled_from(OBSERVERS).map(lambda make: make()))


def transforms() -> Any:
    """Transforms: a x + b, or the identity, at one point; and some of the package's own, for prompts of `runs`."""
    st = _hypothesis()
    points, factors, shifts = st.sampled_from(POINTS), st.sampled_from([0.5, 0.9, 1.1, 2.0]), st.sampled_from([0, 0.25])
    made_up = st.one_of(st.builds(affine, points, factors, shifts), st.builds(same, points))
    return st.one_of(made_up, st.sampled_from(TRANSFORMS).map(lambda make: make()))


def hooks() -> Any:
    """Observers and transforms: ``st.lists(hooks(), max_size=4)`` is a stack of them."""
    return _hypothesis().one_of(observers(), transforms())


def runs() -> Any:
    """Settings of short runs of a `toy_model`, as arguments of `sdprobe.sample`; every prompt holds "circle".

    >>> import sdprobe
    >>> from hypothesis import given
    >>> from sdprobe.testing import hooks, runs, toy_model
    >>> model = toy_model()
    >>> @given(hook=hooks(), settings=runs())
    ... def test_any_run_ends(hook, settings):
    ...     assert sdprobe.sample(model, hooks=[hook], **settings).images
    """
    st = _hypothesis()
    return st.fixed_dictionaries(
        {
            "prompt": st.one_of(st.sampled_from(PROMPTS), st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=2)),
            "steps": st.integers(1, 3),
            "guidance_scale": st.sampled_from([1.0, 3.0]),
            "seed": st.integers(0, 2**31),
            "scheduler": st.sampled_from(["DDIM", "EulerDiscrete", "DDPM"]),
            "height": st.sampled_from([16, 24]),
            "width": st.sampled_from([16, 24]),
            "images_per_prompt": st.integers(1, 2),
            "progress": st.just(False),
        }
    )


def _hypothesis() -> Any:
    try:
        return importlib.import_module("hypothesis.strategies")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the strategies of sdprobe.testing are made of hypothesis, which is not installed: "
            "pip install 'sdprobe[test]'. check_hook does without"
        ) from error
