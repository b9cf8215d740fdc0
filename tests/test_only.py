"""`only`: limits are respected, everywhere is no limit, nowhere is the identity, and limited hooks compose."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdprobe
from sdprobe import AttentionMaps, LatentRecorder, MixPrompts, ReplaceToken, only
from sdprobe.core.hook import POINTS
from sdprobe.model.denoiser.kernel_logsumexp import KERNELS
from tests.laws.strategies import TENSOR_POINTS, affine, run, same_run, same_values, seen

STEPS = 4
text_hooks = st.one_of(
    st.builds(ReplaceToken, st.just("circle"), st.sampled_from(["star", "blue"])),
    st.builds(ReplaceToken, st.just("red"), st.sampled_from(["star", "blue"])),
    st.builds(affine, st.sampled_from(["token_embeds", "prompt_embeds"]), st.just(0.5), st.just(0.25)),
    st.just(MixPrompts({"a star": 0.5, "a ring": 0.5})),
)
any_hooks = st.one_of(text_hooks, st.builds(affine, st.sampled_from(POINTS), st.just(0.9), st.just(0.25)))
chosen_steps = st.sets(st.integers(0, STEPS - 1), min_size=1)
EVERYWHERE = {"steps": range(STEPS)}


def made(tiny, *hooks, **settings):
    return run(tiny, *hooks, steps=STEPS, **settings)


@given(hook=any_hooks, count=st.integers(1, 2), guidance=st.sampled_from([1.0, 3.0]))
def test_everywhere_is_no_limit(tiny, hook, count, guidance):
    settings = {"prompt": ["a red circle", "a red star and a circle"], "images_per_prompt": count}
    settings |= {"guidance_scale": guidance}
    assert same_run(made(tiny, only(hook, **EVERYWHERE), **settings), made(tiny, hook, **settings))


@given(hook=text_hooks, steps=chosen_steps)
def test_steps_before_the_first_are_untouched_and_the_first_is_not(tiny, hook, steps):
    looking = seen("noise_pred")
    plain, limited = made(tiny, looking)[looking].values, made(tiny, only(hook, steps=steps), looking)[looking].values
    first = min(steps)
    assert same_values(plain[:first], limited[:first])
    assert not torch.equal(plain[first], limited[first])


@given(hook=text_hooks, steps=chosen_steps)
def test_a_limited_edit_is_in_each_step_the_whole_edit_or_none(tiny, hook, steps):
    """Each step's prediction equals that of an unlimited run, or a plain one, begun from that step's latents."""
    latents, noise = seen("latents"), seen("noise_pred")
    limited = made(tiny, only(hook, steps=steps), latents, noise)
    for i in range(STEPS):
        start = _Begin(i, limited[latents].values[i])
        alone = made(tiny, start, noise, *([hook] if i in steps else []))
        assert torch.equal(alone[noise].values[i], limited[noise].values[i])


class _Begin(sdprobe.Transform):
    def __init__(self, index, x):
        self.index, self.x = index, x

    def latents(self, x, step):
        return self.x if step.index == self.index else x


@given(a=text_hooks, b=text_hooks, steps=chosen_steps)
def test_limited_hooks_compose_as_unlimited_ones_do(tiny, a, b, steps):
    b = copy.copy(b)
    apart = made(tiny, only(a, steps=steps), only(b, steps=steps))
    together = made(tiny, *only(sdprobe.Hooks(a, b), steps=steps))
    assert same_run(apart, together)
    assert same_run(made(tiny, only(a, **EVERYWHERE), only(b, **EVERYWHERE)), made(tiny, a, b))
    assert same_run(made(tiny, only(a, **EVERYWHERE), b), made(tiny, a, b))


@given(steps=chosen_steps, grid=st.sampled_from([(8, 8), (4, 4)]))
def test_limited_swaps_of_different_words_commute(tiny, steps, grid):
    a = only(ReplaceToken("red", with_="blue"), sites=lambda site: site.grid == grid)
    b = only(ReplaceToken("circle", with_="star"), steps=steps)
    assert same_run(made(tiny, a, b), made(tiny, b, a))


@given(pattern=st.sampled_from(["down_blocks.*", "mid_block.*", "up_blocks.*"]))
def test_sites_that_were_not_asked_for_see_the_prompt_as_it_is(tiny, pattern):
    """In one step the keys differ from the plain run's at the sites asked for; elsewhere only by what flows there."""

    class Keys(sdprobe.Observer):
        kinds = ("cross",)

        def start(self, run):
            self.keys = {}

        def attention(self, attn, site):
            self.keys[site.name] = attn.key

    keys, hook = Keys(), ReplaceToken("circle", with_="star")
    plain, whole, limited = (
        run(tiny, *hooks, keys, steps=1)[keys].keys for hooks in ([], [hook], [only(hook, sites=pattern)])
    )
    inside = [name for name in plain if name.startswith(pattern[:-2])]
    assert inside
    assert set(inside) != set(plain)
    for name in plain:
        assert torch.equal(limited[name], whole[name] if name in inside else plain[name])


@given(point=st.sampled_from(TENSOR_POINTS[2:6]), steps=chosen_steps)
def test_an_observer_sees_its_steps_only(tiny, point, steps):
    whole, part = seen(point), seen(point)
    result = made(tiny, whole, only(part, steps=steps))
    each = len(result[whole].values) // STEPS
    expected = [x for i, x in enumerate(result[whole].values) if i // each in steps]
    assert same_values(result[part].values, expected)


@given(hook=any_hooks)
def test_a_limited_hook_is_a_description_too(tiny, hook):
    limited = only(hook, steps={1})
    assert same_run(made(tiny, limited), made(tiny, limited))
    assert not any(isinstance(value, (torch.Tensor, sdprobe.Run)) for value in vars(limited).values())


def test_records_are_read_from_the_hook_within(tiny):
    maps, latents = AttentionMaps(), LatentRecorder()
    result = made(tiny, only(maps, steps={0}), only(latents, steps={1, 2}))
    assert result[maps].heat_map("circle").values.shape == (8, 8)
    assert list(result[latents].indices) == [1, 2]


def test_it_comes_back_from_a_pickle(tiny):
    limited = only(ReplaceToken("circle", with_="star"), steps={1}, sites=("mid_block.*",))
    again = pickle.loads(pickle.dumps(limited))
    assert repr(again) == repr(limited)
    assert same_run(made(tiny, again), made(tiny, limited))


def test_what_could_never_act_is_refused(tiny):
    with pytest.raises(ValueError, match="acts at noise_pred, final_latents, which no site has"):
        only(LatentRecorder(), sites="mid_block.*")
    with pytest.raises(ValueError, match=r"'middle\.\*' matches no module"):
        run(tiny, only(ReplaceToken("circle", with_="star"), sites="middle.*"))
    with pytest.raises(TypeError, match="is not a hook"):
        only("latents", steps={0})


def test_an_error_in_a_variant_leaves_the_others_off(tiny):
    class Fails(sdprobe.Transform):
        def prompt_embeds(self, x, text):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no") as caught:
        run(tiny, only(ReplaceToken("circle", with_="star"), steps={0}), only(Fails(), steps={0}))
    assert any("prompt_embeds" in note for note in caught.value.__notes__)
    assert same_run(run(tiny), run(tiny))


class Shut(sdprobe.Transform):
    """No position attends to the keys from a number on."""

    kinds = ("cross",)

    def __init__(self, first: int) -> None:
        self.first = first

    def attention(self, attn, site):
        keys = attn.key.shape[2]
        return attn.masked((torch.arange(keys) < self.first).expand(1, 1, attn.query.shape[2], keys))


class Columns(sdprobe.Observer):
    kinds = ("cross",)

    def start(self, run):
        self.most = {"cond": 0.0, "uncond": 0.0}

    def attention(self, attn, site):
        for role in self.most:
            self.most[role] = max(self.most[role], float(attn.probs(role)[..., 3:].max()))


def test_masks_of_some_rows_are_together_the_mask_of_all(tiny):
    by_rows = [only(Shut(3), rows="cond"), only(Shut(3), rows="uncond")]
    whole, half = made(tiny, Shut(3)), made(tiny, by_rows[0])
    assert torch.allclose(made(tiny, *by_rows).latents, whole.latents, atol=1e-5)
    assert not torch.allclose(half.latents, whole.latents, atol=1e-3)
    # A mask after those of some rows acts on what they left, as after that of all.
    assert torch.allclose(made(tiny, *by_rows, Shut(2)).latents, made(tiny, Shut(3), Shut(2)).latents, atol=1e-5)
    assert torch.allclose(made(tiny, *by_rows, Shut(9)).latents, whole.latents, atol=1e-5)


def test_looking_at_a_mask_of_some_rows_leaves_it(tiny):
    masked = made(tiny, only(Shut(3), rows="cond"))
    run_ = made(tiny, only(Shut(3), rows="cond"), columns := Columns())
    assert torch.equal(run_.latents, masked.latents)
    assert run_[columns].most["cond"] == 0
    assert run_[columns].most["uncond"] > 0


def test_observers_of_some_rows_share_one_call_of_the_kernel(tiny, monkeypatch):
    calls = []
    for choice, kernel in KERNELS["cpu"].items():
        monkeypatch.setitem(KERNELS["cpu"], choice, lambda *given, own=kernel: calls.append(1) or own(*given))
    hooks = [only(AttentionMaps(rows=role), rows=role) for role in ("cond", "uncond")]
    seen_ = made(tiny, *hooks, AttentionMaps())
    assert len(calls) == sum(seen_.coverage.seen.values())
