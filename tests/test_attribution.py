"""Methods of attribution: by name, by object; what they need of a run, and what they are told where it is not there."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import pytest
import torch

import sdprobe
from sdprobe import AttentionMaps, SelfAttentionMaps, attributions
from sdprobe.core import attribution_registry
from tests.laws.strategies import run

REFINED = attributions.SelfRefined()


class Constant(attributions.Attribution):
    """The same everywhere."""

    def __init__(self, value=1.0):
        self.value = value

    def hooks(self, words=None):
        return sdprobe.Hooks()

    def attribute(self, run, asked):
        return torch.full((4, 4), self.value)


class NoMap(Constant):
    def attribute(self, run, asked):
        return "no map"


@pytest.fixture
def session(monkeypatch):
    monkeypatch.setattr(attribution_registry, "_session", {})


def test_every_method_of_the_package_is_registered():
    public = (getattr(attributions, name) for name in attributions.__all__)
    ours = {c for c in public if isinstance(c, type) and issubclass(c, attributions.Attribution)}
    registered = {e.load() for e in entry_points(group="sdprobe.attributions") if e.value.startswith("sdprobe.")}
    controls = {attributions.RandomWord, attributions.Centre, attributions.RandomField}
    assert ours - {attributions.Attribution} - controls == registered


def test_a_method_is_given_by_name_by_pair_or_as_itself(tiny):
    maps = AttentionMaps()
    own = run(tiny, maps, SelfAttentionMaps())[maps]
    asked = [own.heat_map("red", method=given).values for given in ("self_refined", ("self_refined", {}), REFINED)]
    assert all(torch.equal(asked[0], other) for other in asked)
    twice = own.heat_map("red", method=("self_refined", {"power": 2})).values
    assert torch.equal(twice, own.heat_map("red", method=attributions.SelfRefined(2)).values)
    assert not torch.equal(twice, asked[0])
    with pytest.raises(ValueError, match="did you mean 'self_refined'"):
        own.heat_map("red", method="self-refined")
    with pytest.raises(ValueError, match=r"'self_refined' cannot be built with .*its arguments: power, grid"):
        own.heat_map("red", method=("self_refined", {"powers": 2}))
    with pytest.raises(TypeError, match="a name, a pair"):
        own.heat_map("red", method=3)


@pytest.mark.usefixtures("session")
def test_one_s_own_method_by_name(tiny, monkeypatch):
    attributions.register("constant")(Constant)
    maps = AttentionMaps()
    own = run(tiny, maps)[maps]
    heat = own.heat_map(2, method=("constant", {"value": 2.0}))
    assert heat.values.eq(2).all()
    assert heat.word == own.heat_map(2).word
    assert [*own.heat_maps(method="constant")] == [*own.heat_maps()]
    assert attributions.methods()["constant"] == "this session"
    with pytest.raises(ValueError, match="the name 'daam' is taken by sdprobe"):
        attributions.register("daam")(Constant)
    with pytest.raises(TypeError, match="neither a class of attributions"):
        attributions.register("text")(str)
    broken = EntryPoint("broken", "no_such_module_anywhere:Method", attribution_registry.GROUP)
    plugin = EntryPoint("flat", f"{__name__}:Constant", attribution_registry.GROUP)
    monkeypatch.setattr(attribution_registry, "entry_points", lambda group: [broken, plugin])
    assert own.heat_map(2, method=("flat", {"value": 3.0})).values.eq(3).all()
    with pytest.raises(ModuleNotFoundError) as raised:
        attributions.create("broken")
    assert any("'broken' from no_such_module_anywhere:Method" in note for note in raised.value.__notes__)


def test_a_part_that_a_method_does_not_tell_apart_is_refused(tiny):
    maps = AttentionMaps(keep="step")
    own = run(tiny, maps)[maps]
    with pytest.raises(ValueError, match=r"cannot be limited to step; to no part of a run"):
        own.heat_map("red", method=Constant(), step=0)
    site = next(iter(own.run.coverage.sites))
    with pytest.raises(ValueError, match=r"cannot be limited to head; only to occurrence, role, step, encoder"):
        own.heat_map("red", method=attributions.Heads([(site, 0)]), head=0)


def test_a_record_that_a_run_does_not_have_is_asked_for(tiny):
    maps = AttentionMaps()
    own = run(tiny, maps)
    with pytest.raises(ValueError, match=r"SelfRefined\(power=1, grid=None\) needs the records of SelfAttentionMaps"):
        own[maps].heat_map("red", method="self_refined")
    with pytest.raises(ValueError, match=r"Mean\(\) needs the records of AttentionMaps"):
        attributions.Mean().heat_map(run(tiny, "latents"), "red")


def test_of_several_records_the_one_asked_is_used(tiny):
    """A map asked of one record is of that record; a method asked of a run takes the record of its own hook."""
    up, every = AttentionMaps(places=["up"]), AttentionMaps()
    own = run(tiny, up, every, SelfAttentionMaps())
    assert not torch.equal(own[up].heat_map("red").values, own[every].heat_map("red").values)
    assert torch.equal(attributions.Mean().heat_map(own, "red").values, own[every].heat_map("red").values)
    with pytest.raises(ValueError, match="this run has 2"):
        attributions.Mean().heat_map(run(tiny, up, AttentionMaps(places=["down"])), "red")


def test_records_of_other_images_are_not_mixed(tiny):
    """Image 0 of a hook that was limited to the second image is another one than image 0 of the run."""
    maps = AttentionMaps()
    both = {"prompt": ["a red circle", "a blue star"], "seed": [0, 1]}
    limited = sdprobe.only(maps, rows=[1])
    own = run(tiny, limited, SelfAttentionMaps(), **both)
    with pytest.raises(ValueError, match="records of the same images"):
        own[limited].heat_map("blue", method="self_refined")
    looks = sdprobe.only(SelfAttentionMaps(), rows=[1])
    found = run(tiny, limited, looks, **both)[limited].heat_map("blue", method="self_refined").values
    expected = (
        run(tiny, maps, SelfAttentionMaps(), **both)[maps].heat_map("blue", image=1, method="self_refined").values
    )
    assert torch.equal(found, expected)
    first = [sdprobe.only(hook, rows=[0]) for hook in (AttentionMaps(), SelfAttentionMaps())]
    again = run(tiny, *first, limited, looks, **both)[limited].heat_map("blue", method="self_refined").values
    assert torch.equal(again, expected)


def test_what_is_no_map_is_refused_and_a_position_is_spelt_by_the_prompt_that_was_recorded(tiny):
    maps = AttentionMaps(rows="uncond")
    own = run(tiny, maps, negative_prompt="blue star", guidance_scale=2.0)[maps]
    assert own.heat_map(1).word == own.heat_map(1, role="uncond").word == "blue"
    assert [*own.segment([1]).maps] == ["blue at 1"]
    with pytest.raises(ValueError, match=r"must be finite: 16 of its 16"):
        own.heat_map(1, method=Constant(float("nan")))
    with pytest.raises(ValueError, match=r"is a tensor \[h, w\], not 'no map'"):
        own.heat_map(1, method=NoMap())


def test_methods_answer_the_same_from_a_saved_run(tiny, tmp_path):
    maps = AttentionMaps(keep=("layer", "head"))
    own = run(tiny, maps, SelfAttentionMaps())
    again = sdprobe.open(own.save(tmp_path / "run"))
    sites = [name for name, kind in own.coverage.sites.items() if kind == "cross"]
    for method in ("mean", "daam", "self_refined", attributions.Heads([(sites[0], 1)])):
        there, here = (each[AttentionMaps].heat_map("circle", method=method).values for each in (again, own))
        assert torch.equal(there, here)
