"""`evaluate_attributions`: methods of attribution beside each other, held against where things really are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Unpack, cast

from sdprobe.attributions.controls import CONTROLS
from sdprobe.attributions.cost_of_method import Cost, costs_of_methods
from sdprobe.attributions.deletion_by_map import DeletionByMap
from sdprobe.attributions.evaluation import Evaluation
from sdprobe.attributions.joined_hooks import joined_hooks
from sdprobe.attributions.map_scores import MapScores
from sdprobe.attributions.mean import Mean
from sdprobe.attributions.target import TARGETS, Target
from sdprobe.core.attribution import Attribution
from sdprobe.core.attribution_registry import Method, attribution
from sdprobe.core.attribution_registry import methods as registered
from sdprobe.core.compose import Hooks
from sdprobe.experiments.case import Case
from sdprobe.experiments.case import cases as all_cases
from sdprobe.experiments.case_runner import CaseRunner, Sampler, SampleSettings
from sdprobe.experiments.curve_result import CurveResult
from sdprobe.experiments.experiment import Cases, How, experiment
from sdprobe.experiments.measures.picture_change import PictureChange
from sdprobe.experiments.result import Result
from sdprobe.experiments.sampler import sampler_of

FIRST = "mean"
NEED_ARGUMENTS = ("heads",)
Methods = Mapping[str, Method] | Sequence[str]


def evaluate_attributions(
    model: Any,
    cases: Cases,
    methods: Methods | None = None,
    *,
    targets: Sequence[Target] = TARGETS,
    choosing: float = 0.25,
    deletion: int = 24,
    timing: int = 2,
    **how: Unpack[How],
) -> Evaluation:
    """Make the heat map of each word by each method, and hold it against the thing that the word stands for.

    All methods attribute the same pictures, in one run of each, which they do not change. The plain mean is always
    among them, and so are the controls: another word of the prompt, the middle of the picture, and a random field.

    >>> from sdprobe import attributions, experiments, load
    >>> cases = experiments.shape_cases(4, objects=2)
    >>> settings = {"steps": 4, "guidance_scale": 5.0, "progress": False}
    >>> found = attributions.evaluate_attributions(load(), cases, ["self_refined"], deletion=0, timing=0, **settings)
    >>> found.names
    ('mean', 'self_refined', 'random word', 'centre', 'random field')
    >>> found["self_refined", "IoU"].difference.cases <= 3
    True

    Args:
        model: as in `sdprobe.experiments.experiment`, and so is ``how``.
        cases: prompts with their words, such as `sdprobe.experiments.shape_cases`; or those of `mask_cases`.
        methods: names, or methods by names of your own; None for all that are registered and need no arguments. What
            a method cannot do on this model is in `Evaluation.refused`, with the reason.
        targets: the words whose maps are made, each with where its thing is; None of them need fit every case.
        choosing: the share of cases, the first ones, on which each method's threshold is chosen. They are not tested.
        deletion: for how many of the cases that are tested a deletion curve is made, of the first target; it is dear.
        timing: on how many cases the cost is measured.

    Returns:
        The scores of each method, with intervals, as a table and a figure (`Evaluation`).

    Raises:
        ValueError: for fewer than two cases, for two methods of one name, for targets that fit no case for choosing or
            none that is tested, and as `sdprobe.experiments.experiment` does.
        RuntimeError: if a method's hooks changed a picture: what is attributed must be the untouched picture.
    """
    every = all_cases(cases)
    count = round(choosing * len(every))
    if not 0 < count < len(every):
        raise ValueError(f"of {len(every)} cases none is left to choose thresholds, or to test: give more")
    for some, purpose in ((every[:count], "on which thresholds are chosen"), (every[count:], "that are tested")):
        if not any(target.fits(case) for target in targets for case in some):
            words = ", ".join(target.word for target in targets)
            raise ValueError(f"no case has the words of {words}, of the {len(some)} {purpose}")
    sampler = sampler_of(model)
    settings: Any = {name: own for name, own in how.items() if name in SampleSettings.__annotations__}
    wanted, refused = _usable(_named(methods), sampler, every, targets, settings)
    result = experiment(
        model,
        every,
        {"maps": partial(_hooks_of_case, wanted, targets)},
        {f"map {k}": MapScores(method, tuple(targets)) for k, method in enumerate(wanted.values())},
        **_with_batch(how, 1),
    )
    _refuse_changed(result, wanted)
    tested = every[count:]
    curves = None
    if some := [case for case in tested if targets[0].fits(case)][:deletion]:
        design = DeletionByMap(wanted, tuple(CONTROLS), targets[0])
        change = {"change": PictureChange(within=targets[0].region)}
        found = experiment(model, some, design, change, **_with_batch(how, how.get("batch", 3 * len(wanted))))
        assert isinstance(found, CurveResult)
        curves = found
    costs = _costs(wanted, sampler, tested, targets, timing, settings) if timing else {}
    return Evaluation(result, tuple(wanted), tuple(CONTROLS), tuple(targets), count, curves, costs, refused)


def _named(methods: Methods | None) -> dict[str, Attribution]:
    """The methods by name, the plain mean first and the controls last."""
    if methods is None:
        given: dict[str, Method] = {name: name for name in registered() if name not in NEED_ARGUMENTS}
    elif isinstance(methods, Mapping):
        given = dict(methods)
    else:
        names = list(methods)
        if isinstance(methods, str) or not all(isinstance(name, str) for name in names):
            raise TypeError(f"methods are a list of names, or methods by names of your own, not {methods!r:.80}")
        if len({*names}) < len(names):
            raise ValueError(f"one of the methods {', '.join(names)} is there twice")
        given = {name: name for name in names}
    if taken := [name for name in given if name in CONTROLS]:
        raise ValueError(f"{taken[0]!r} is a control that is always there: give your method another name")
    found: dict[str, Attribution] = {FIRST: Mean()}
    if attribution(given.pop(FIRST, FIRST)) != found[FIRST]:
        raise ValueError(f"{FIRST!r} is the plain mean, which is always there: give your method another name")
    return found | {name: attribution(method) for name, method in given.items()} | CONTROLS


def _usable(
    methods: Mapping[str, Attribution],
    sampler: Sampler,
    cases: Sequence[Case],
    targets: Sequence[Target],
    settings: Any,
) -> tuple[dict[str, Attribution], dict[str, str]]:
    """The methods that can do it on this model, and why the others cannot: each is tried once, for two steps."""
    case, target = next((case, target) for case in cases for target in targets if target.fits(case))
    usable, refused, word = dict[str, Attribution](), dict[str, str](), case.fill(target.word)
    for name, method in methods.items():
        runner = CaseRunner(sampler, case, cast(SampleSettings, {**settings, "steps": 2}))
        try:
            method.heat_map(runner.run(joined_hooks([method], [word])), word)
        except ValueError as error:
            if name == FIRST or name in CONTROLS:
                raise
            refused[name] = str(error)
        else:
            usable[name] = method
    return usable, refused


def _hooks_of_case(methods: Mapping[str, Attribution], targets: Sequence[Target], case: Case) -> Hooks:
    return joined_hooks(methods.values(), [case.fill(target.word) for target in targets if target.fits(case)])


def _refuse_changed(result: Result, methods: Mapping[str, Attribution]) -> None:
    """Raise RuntimeError if the hooks of all methods together did not leave a picture as it was."""
    changed = {row["case"] for row in result.rows if row.get("unchanged") is False}
    if changed:
        raise RuntimeError(
            f"the hooks of {', '.join(methods)} changed the pictures of {len(changed)} cases: those of a method of "
            f"attribution are observers"
        )


def _costs(
    methods: Mapping[str, Attribution],
    sampler: Sampler,
    cases: Sequence[Case],
    targets: Sequence[Target],
    count: int,
    settings: Any,
) -> dict[str, Cost]:
    fitting = [(case, fits[0]) for case in cases if (fits := [own for own in targets if own.fits(case)])][:count]
    asked = [(case.fill(target.word), CaseRunner(sampler, case, settings)) for case, target in fitting]
    return costs_of_methods(methods, asked)


def _with_batch(how: How, batch: int) -> How:
    return cast(How, {**how, "batch": batch})
