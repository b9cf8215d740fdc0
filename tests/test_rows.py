"""`only(hook, rows=...)`: the rows meant are changed and seen, the others are what they would have been."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import sdprobe
from sdprobe import AttentionMaps, Guidance, ReplaceToken, only
from tests.laws.strategies import TENSOR_POINTS, affine, run, same_run, same_values, seen, within

SETTINGS = {"prompt": ["a red circle", "a red star and a circle"], "images_per_prompt": 2}
IMAGES = 4
PER_IMAGE = ("latents", "noise_pred", "sample", "final_latents", "image")
OF_ROWS = ("attention", "activation", "model_output")
IN_STEPS = ("latents", "attention", "activation", "model_output", "noise_pred", "sample")
images = st.sets(st.integers(0, IMAGES - 1), min_size=1)
text_hooks = st.one_of(
    st.builds(ReplaceToken, st.just("circle"), st.sampled_from(["star", "blue"])),
    st.builds(affine, st.sampled_from(["token_embeds", "prompt_embeds"]), st.just(0.5), st.just(0.25)),
)
whole_hooks = st.builds(affine, st.sampled_from(TENSOR_POINTS[2:]), st.just(0.9), st.just(0.25))
every_hook = st.one_of(text_hooks, whole_hooks, st.just(affine("attention", 0.9, 0.25)))


def made(tiny, *hooks, **changed):
    return run(tiny, *hooks, **SETTINGS | changed)


class FirstStep(sdprobe.Observer):
    """What passes one point, without its text, in the first step only."""

    def __init__(self, point):
        self.point, self.modules = point, ("mid_block.resnets.*",) if point == "activation" else None

    def start(self, run):
        self.values = []


def first(point):
    def act(self, x, place):
        if not self.values:
            self.values.append(x.output() if point == "attention" else x)

    return type("FirstStep", (FirstStep,), {point: act})(point)


@given(hook=every_hook, chosen=images)
def test_images_outside_are_what_they_would_have_been_and_inside_what_the_hook_makes(tiny, hook, chosen):
    """Images do not mix, so each comes out of one of two runs: that with the hook, or that without."""
    plain, whole, part = made(tiny), made(tiny, hook), made(tiny, only(hook, rows=chosen))
    for i in range(IMAGES):
        expected = whole if i in chosen else plain
        # The kernels of a smaller batch may differ in the last bits; of rows that were not touched, nothing may.
        if i in chosen:
            torch.testing.assert_close(part.latents[i], expected.latents[i], rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(part.latents[i], expected.latents[i])
            assert part.images[i].tobytes() == expected.images[i].tobytes()


@given(hook=every_hook, steps=st.sets(st.integers(0, 1), min_size=1))
def test_all_rows_are_no_limit(tiny, hook, steps):
    limited = only(hook, rows=lambda row: True)
    assert same_run(made(tiny, limited), made(tiny, hook))
    assert same_run(made(tiny, only(limited, steps=steps)), made(tiny, only(hook, steps=steps)))


@pytest.mark.parametrize("role", ["cond", "uncond"])
@pytest.mark.parametrize("point", OF_ROWS)
def test_rows_of_the_other_role_stay_as_given(tiny, point, role):
    """At the first call in the first step, where nothing before it could have differed."""
    plain, whole, part = first(point), first(point), first(point)
    hook = affine(point, 0.5, 0.25)
    plain_values = made(tiny, plain)[plain].values[0]
    whole_values = made(tiny, hook, whole)[whole].values[0]
    part_values = made(tiny, only(hook, rows=role), part)[part].values[0]
    inside = torch.tensor([role == "uncond"] * IMAGES + [role == "cond"] * IMAGES)
    assert torch.equal(part_values[~inside], plain_values[~inside])
    torch.testing.assert_close(part_values[inside], whole_values[inside])
    assert not torch.equal(part_values[inside], plain_values[inside])


@given(point=st.sampled_from([p for p in IN_STEPS if p != "attention"]), chosen=images)
def test_an_observer_is_shown_its_rows(tiny, point, chosen):
    whole, part = seen(point), seen(point)
    result = made(tiny, whole, only(part, rows=chosen))
    assert same_run(result, made(tiny))
    rows = [i % IMAGES in chosen for i in range(len(result[whole].values[0]))]
    expected = [x[torch.tensor(rows)] for x in result[whole].values]
    assert same_values(result[part].values, expected)


@given(chosen=images, role=st.sampled_from(["cond", "uncond"]))
def test_the_place_is_narrowed_with_the_value(tiny, chosen, role):
    """A hook sees a smaller run, whose images are numbered anew."""
    looked = []

    def looking(point):
        def look(x, place):
            step = getattr(place, "step", place)
            looked.append(step)
            rows = x.rows if point == "attention" else step.rows
            assert rows == step.rows
            assert step.run.settings.images == len(step.latents) == len(chosen)
            assert len(x.query if point == "attention" else x) == len(rows if point in OF_ROWS else chosen)
            assert [row.image for row in rows if row.role == role] == list(range(len(chosen)))
            assert all(row.prompt == step.run.prompt_of(row.image, row.role) for row in rows)
            assert {row.role for row in rows} == ({role} if point in OF_ROWS else {"cond", "uncond"})

        return sdprobe.watch(point, look)

    def rows(row):
        return row.image in chosen and row.role == role

    made(tiny, *(only(looking(point), rows=rows) for point in ("latents", "attention", "model_output", "noise_pred")))
    assert looked


@given(chosen=images)
def test_records_count_the_images_they_were_shown(tiny, chosen):
    """The heat map of an image is that of the whole run's, under its new number and with its own prompt."""
    whole, part = AttentionMaps(), AttentionMaps()
    result = made(tiny, whole, only(part, rows=chosen))
    for k, i in enumerate(sorted(chosen)):
        expected = result[whole].heat_map("circle", image=i)
        found = result[part].heat_map("circle", image=k)
        torch.testing.assert_close(found.values, expected.values)
        assert list(result[part].heat_maps(k)) == list(result[whole].heat_maps(i))
        assert found.picture is expected.picture


@given(chosen=images)
def test_what_looks_at_other_rows_finds_them(tiny, chosen):
    """Guidance of some images: made of what the denoiser said of their rows."""
    part = made(tiny, only(Guidance(1.5), rows=chosen))
    runs = {False: made(tiny), True: made(tiny, guidance_scale=1.5)}
    for i in range(IMAGES):
        assert torch.equal(part.latents[i], runs[i in chosen].latents[i])


@given(chosen=images, role=st.sampled_from(["cond", "uncond", None]))
def test_a_further_call_is_asked_of_the_rows_left(tiny, chosen, role):
    class Asks(sdprobe.Transform):
        def start(self, run):
            self.pairs = []

        def noise_pred(self, x, step):
            own = step.model_output if role is None else step.model_output[step.rows_of(role)]
            self.pairs.append((own, step.predict(step.latents, sdprobe.watch("attention", len_rows), role=role)))
            return x

    def len_rows(attn, site):
        assert len(attn.query) == len(chosen) * (2 if role is None else 1)

    asks = Asks()
    result = made(tiny, only(asks, rows=chosen))
    for own, again in result[asks].pairs:
        torch.testing.assert_close(own, again, rtol=1e-4, atol=1e-5)  # kernels differ with the number of rows
    assert same_run(result, made(tiny))


@given(a=text_hooks, b=text_hooks, chosen=images)
def test_limited_texts_compose_row_by_row(tiny, a, b, chosen):
    others = set(range(IMAGES)) - chosen
    apart = made(tiny, only(a, rows=chosen), within(b, rows=others))
    runs = {True: made(tiny, a), False: made(tiny, b)}
    for i in range(IMAGES):
        torch.testing.assert_close(apart.latents[i], runs[i in chosen].latents[i], rtol=1e-4, atol=1e-4)


@given(hook=every_hook, a=images, b=images)
def test_rows_within_rows_are_both(tiny, hook, a, b):
    assume(a & b)
    both = made(tiny, only(hook, rows=a & b))
    assert same_run(made(tiny, only(only(hook, rows=a), rows=b)), both)
    assert same_run(made(tiny, only(only(hook, rows=b), rows=a)), both)


def test_the_negative_text_is_a_role_too(tiny):
    looked = []
    made(tiny, only(sdprobe.watch("prompt_embeds", lambda x, text: looked.append((text.role, len(x)))), rows="uncond"))
    assert looked == [("uncond", IMAGES)]


def test_an_in_place_write_is_refused_by_name(tiny):
    def scribble(x, step):
        x.mul_(2)
        return x

    for rows in ([0], [0, 2]):
        with pytest.raises(ValueError, match="wrote into its value in place"):
            made(tiny, only(sdprobe.on("latents", scribble), rows=rows))


def test_the_contract_is_held_within(tiny):
    with pytest.raises(TypeError, match=r"on\('latents', nothing\).latents returned None"):
        made(tiny, only(sdprobe.on("latents", nothing), rows=[1]))
    with pytest.raises(ValueError, match="changed the dtype"):
        made(tiny, only(sdprobe.on("latents", lambda x: x.double()), rows=[1]))


def nothing(x):
    pass


def test_what_rows_cannot_limit_is_refused(tiny):
    with pytest.raises(ValueError, match="one entry for each image and no role"):
        only(sdprobe.LatentRecorder(), rows="cond")
    with pytest.raises(ValueError, match="'condition' is no role of a row; the roles: cond, uncond"):
        only(AttentionMaps(), rows="condition")
    with pytest.raises(TypeError, match="rows are a role, numbers of images"):
        only(AttentionMaps(), rows=1)
    with pytest.raises(ValueError, match="needs the gradient of all latents together"):
        only(sdprobe.LossGuidance(lambda x: x.mean((1, 2, 3)), 1, through="model"), rows=[0])
    with pytest.raises(ValueError, match="this run has no rows of role 'uncond'; its roles: cond"):
        made(tiny, only(sdprobe.watch("model_output", nothing), rows="uncond"), guidance_scale=1.0)
