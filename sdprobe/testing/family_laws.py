"""What a family of models promises: each a law, checked on a small pipeline."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sdprobe.core.hook import POINTS, Observer
from sdprobe.core.run import Run
from sdprobe.observe.attention_maps import AttentionMaps
from sdprobe.observe.latents import LatentRecorder
from sdprobe.observe.statistics import Statistics
from sdprobe.testing.family_looks import AsksAgain, AttentionSeen, FirstKeys, OtherEmbedding, StreamsSeen
from sdprobe.testing.family_trial import FamilyTrial
from sdprobe.testing.flat_records import same_run
from sdprobe.testing.law import Law, law
from sdprobe.testing.model_footprint import footprint
from sdprobe.testing.synthetic_hooks import affine, seen

CASES: tuple[dict[str, Any], ...] = (
    {},
    {"guidance_scale": 1.0},
    {"prompt": ["a red circle", "a star of blue"]},
    {"images_per_prompt": 2},
    {"width": 24, "negative_prompt": "a green square"},
)
"""Guidance; none; two prompts of different lengths; two images; a picture that is not square, a negative prompt."""

INSIDE = ("*to_q",)
"""Modules that attention has in every family."""


@law(0)
def is_loaded(trial: FamilyTrial) -> None:
    """`load` knows the pipeline."""
    assert trial.model.pipelines, "the family does not say its pipelines"


@law(1)
def reads_what_encoders_are_given(trial: FamilyTrial) -> None:
    """The tokens of `read` are those that each text encoder is given."""
    model, shown = trial.model, list[Any]()
    for encoder in model.text_encoders:
        shown.clear()
        handle = getattr(model.pipe, encoder).register_forward_pre_hook(
            lambda module, args, kwargs: shown.append(args[0] if args else kwargs["input_ids"]), with_kwargs=True
        )
        try:
            model.encoded([trial.prompt])
        finally:
            handle.remove()
        given, read = shown[0][0].tolist(), list(model.read(trial.prompt, encoder).ids)
        assert given == read, f"{encoder} is given the tokens {given}, and read gives {read}"


@law(1)
def finds_words(trial: FamilyTrial) -> None:
    """Every word of the prompt has token positions, whose tokens cover it, within those that the denoiser is shown."""
    prompt = trial.model.read(trial.prompt)
    for word in trial.prompt.split():
        positions = prompt.positions(word)
        assert positions, f"{word!r} has no token"
        first, last = prompt.spans[positions[0]][0], prompt.spans[positions[-1]][1]
        covered = prompt.text[first:last].strip().lower()
        assert covered == word.lower(), f"the tokens of {word!r} cover {covered!r}"


@law(1)
def is_the_stock_pipeline(trial: FamilyTrial) -> None:
    """`sample` makes the latents and pictures of the stock pipeline, bit for bit."""
    for case in CASES:
        look = seen("image")
        run = trial.run(look, **case)
        own, stock = trial.model.latents_returned(_latents(run)), trial.stock("latent", **case)
        assert torch.equal(own, stock), f"the latents differ with {case or 'guidance'}"
        assert torch.equal(run[look].values[0], trial.stock(**case)), f"the pictures differ with {case or 'guidance'}"


@law(2)
def looking_changes_nothing(trial: FamilyTrial) -> None:
    """With observers of every kind, a run is the same, and the model is as it was."""
    before, plain = footprint(trial.model.pipe), trial.run()
    looked = trial.run(AttentionMaps(keep=("step", "layer", "head")), LatentRecorder(), Statistics())
    assert same_run(looked, plain), "the run is another one"
    assert footprint(trial.model.pipe) == before, "the model is not as it was"


@law(2)
def passes_every_point(trial: FamilyTrial) -> None:
    """Every point is passed; `pooled_embeds` where the denoiser gets a vector of the whole prompt."""
    looks = {point: _at(point) for point in POINTS}
    run = trial.run(*looks.values())
    silent = [point for point, look in looks.items() if not run[look].values]
    expected = [] if trial.model.pooling else ["pooled_embeds"]
    assert silent == expected, f"not passed: {', '.join(silent)}"


@law(2)
def can_be_attached(trial: FamilyTrial) -> None:
    """Attached, the stock pipeline makes the same pictures, and every point is passed as in `sample`."""
    for case in CASES[:1]:
        looks = [_at(point) for point in POINTS]
        run, pictures = trial.attached(*looks, **case)
        assert torch.equal(pictures, trial.stock(**case)), "the pictures are others"
        negative = {} if run.settings.negative_given is False else {"negative_prompt": ""}
        sampled = trial.run(*looks, **{**negative, **case})
        assert same_run(run, sampled), "attached and sampled runs differ"
        for look in looks:
            same = len(run[look].values) == len(sampled[look].values) and all(
                torch.equal(a.nan_to_num(), b.nan_to_num())
                for a, b in zip(run[look].values, sampled[look].values, strict=True)
            )
            assert same, f"{look!r} saw other values, or another number of them, than in sample"


@law(2)
def every_point_changes_the_picture(trial: FamilyTrial) -> None:
    """What a transform does at each point reaches the picture, by `sample` and attached alike."""
    plain = trial.run()
    for point in POINTS:
        if point == "pooled_embeds" and not trial.model.pooling:
            continue
        sampled, (attached, _) = trial.run(_changing(point)), trial.attached(_changing(point))
        assert not same_run(sampled, plain), f"a transform at {point} changed nothing"
        if attached.settings.negative_given == sampled.settings.negative_given:
            assert same_run(sampled, attached), f"a transform at {point} acted otherwise in the stock pipeline"


@law(2)
def can_ask_the_denoiser_again(trial: FamilyTrial) -> None:
    """A further call for the same latents says what the loop's own did."""
    again = AsksAgain()
    run = trial.run(again)
    assert run[again].same == [True] * len(run[again].same), "a further call gave something else"
    assert len(run[again].same) == run.settings.steps, "it was not asked in every step"


@law(2)
def ends_where_it_predicts(trial: FamilyTrial) -> None:
    """The last predicted x0 is where a deterministic scheduler ends."""
    keep = LatentRecorder(keep=("denoised",))
    run = trial.run(keep)
    ends = type(trial.model.pipe.scheduler).__name__ != "DDIMScheduler"  # which ends a little above no noise
    last = run[keep]["denoised"][-1].to(_latents(run))
    assert torch.allclose(last, _latents(run), atol=1e-4 if ends else 0.5), "it ends elsewhere"


@law(2)
def sees_its_attention(trial: FamilyTrial) -> None:
    """Every attention site is seen, or the coverage says why not; its probabilities give its own output."""
    look = AttentionSeen()
    run = trial.run(look)
    unseen = {*run.coverage.sites} - {*run.coverage.seen} - {*run.coverage.missed}
    assert not unseen, f"neither seen nor said to be missed: {sorted(unseen)[:3]}"
    assert run[look].seen, "no attention was seen"


@law(2)
def finds_words_at_their_keys(trial: FamilyTrial) -> None:
    """Another embedding of one token changes its own key where the text is first attended to, and none of the image."""
    position = trial.model.read(trial.prompt).positions(trial.prompt.split()[-1])[0]
    looks = [FirstKeys(), FirstKeys()]
    plain, other = trial.run(looks[0]), trial.run(OtherEmbedding(position), looks[1])
    before, after = plain[looks[0]], other[looks[1]]
    assert before.site is not None, "no site has text"
    changed = {k for k, same in enumerate((before.key == after.key).flatten(1).all(1).tolist()) if not same}
    own, text = set(before.site.tokens([position])), set(before.site.tokens())
    assert own <= changed, f"at {before.site.name} the key of token {position} is not at {own}, but among {changed}"
    assert changed <= text, f"at {before.site.name} the text is said to be at {before.site.text}, and is at {changed}"


@law(2)
def knows_its_places(trial: FamilyTrial) -> None:
    """At cross- and joint attention the image's places form a grid, and the text's are those of the prompt's tokens."""
    look = AttentionSeen(width=24)
    run = trial.run(look, width=24)
    grids = set(trial.model.grids(run.settings).values())
    told = [own for kind, *own in run[look].seen if kind in ("cross", "joint")]
    assert told, "the text is nowhere attended to"
    for grid, image, text, prompts in told:
        tokens = max(map(trial.model.text_tokens, prompts))
        assert grid in grids, f"a site has the grid {grid}, which is none of {sorted(grids)}"
        assert image == math.prod(grid), f"{image} places are said to be a grid of {grid}"
        assert text == tokens, f"a site has {text} tokens of the text, and its prompts have {tokens}"


@law(2)
def knows_its_activations(trial: FamilyTrial) -> None:
    """Activations of the image have its places, and in joint transformers those of the text have the text's."""
    look = StreamsSeen()
    run = trial.run(look)
    assert run[look].places == {math.prod(grid) for grid in trial.model.grids(run.settings).values()} & run[look].places
    assert run[look].places, "no activation has the image's places"
    if "joint" in run.coverage.sites.values():
        assert run[look].texts, "no activation has the text's places"


def _at(point: str) -> Observer:
    look = seen(point)
    look.modules = INSIDE if point == "activation" else None
    return look


def _changing(point: str) -> Any:
    hook = affine(point, 1.1, 0.25)
    hook.modules = INSIDE if point == "activation" else None
    return hook


def _latents(run: Run) -> Tensor:
    assert run.latents is not None  # it has ended
    return run.latents


LAWS: tuple[Law, ...] = (
    is_loaded,
    reads_what_encoders_are_given,
    finds_words,
    is_the_stock_pipeline,
    looking_changes_nothing,
    passes_every_point,
    can_be_attached,
    every_point_changes_the_picture,
    can_ask_the_denoiser_again,
    ends_where_it_predicts,
    sees_its_attention,
    finds_words_at_their_keys,
    knows_its_places,
    knows_its_activations,
)
"""What a family promises, in the order of the checks."""

assert all(a.stage <= b.stage for a, b in pairwise(LAWS))
