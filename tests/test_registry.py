"""Hooks by name."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest
import torch

import sdprobe
from sdprobe.core import registry
from sdprobe.core.compose import Hooks


def test_every_hook_class_of_the_package_is_registered():
    public = {value for value in vars(sdprobe).values() if isinstance(value, type)}
    ours = {c for c in public if issubclass(c, (sdprobe.Observer, sdprobe.Transform))}
    registered = {entry.load() for entry in registry.names().values() if entry.value.startswith("sdprobe.")}
    derived_from = {sdprobe.Observer, sdprobe.Transform, sdprobe.AttentionGuidance}
    assert ours - derived_from == registered


def test_create_builds_with_a_configuration():
    assert repr(registry.create("latents", every=3)) == "LatentRecorder(every=3)"
    with pytest.raises(ValueError, match=r"'latents' cannot be built with \{'each': 3\}"):
        registry.create("latents", each=3)
    with pytest.raises(ValueError, match="did you mean 'replace-token'"):
        registry.create("replace_token")


def test_names_and_hooks_resolve_in_their_order():
    maps = sdprobe.AttentionMaps()
    stack, named = registry.resolve(["latents", maps, Hooks(sdprobe.Progress())])
    assert [type(hook).__name__ for hook in stack] == ["LatentRecorder", "AttentionMaps", "Progress"]
    assert list(named) == ["latents"]
    assert registry.resolve(maps)[0] == Hooks(maps)
    assert list(registry.resolve("progress")[1]) == ["progress"]


def test_a_broken_plugin_hurts_only_who_asks_for_it(monkeypatch, tiny):
    good = registry.names()["latents"]
    broken = EntryPoint("broken", "no_such_module_anywhere:Hook", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [good, broken])
    assert sdprobe.sample(tiny, "a star", hooks=["latents"], steps=1, progress=False)["latents"].indices == [0]
    with pytest.raises(ModuleNotFoundError) as raised:
        registry.create("broken")
    assert any("'broken' from no_such_module_anywhere:Hook" in note for note in raised.value.__notes__)


class Other(sdprobe.Transform):
    """Halves the latents."""

    def latents(self, x, step):
        return x / 2


def not_a_hook():
    return 3


def installed(tmp_path, monkeypatch, distribution, **entries):
    """A distribution of one's own, as pip leaves it on the path."""
    info = tmp_path / f"{distribution.replace('-', '_')}-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 2.1\n")
    lines = "".join(f"{name.replace('_', '-')} = {value}\n" for name, value in entries.items())
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{lines}")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("session")
def test_what_is_listed(tmp_path, monkeypatch):
    installed(tmp_path, monkeypatch, "a-plugin", halve=f"{__name__}:Other", made=f"{__name__}:not_a_hook")
    listing = registry.hooks()
    assert set(listing.names) == set(registry.names())
    swap = listing["replace-token"]
    assert (swap.kind, swap.points, swap.distribution) == ("transform", ("token_embeds",), "sdprobe")
    assert swap.version == sdprobe.__version__
    assert swap.summary == sdprobe.ReplaceToken.__doc__.split("\n")[0]
    halve = listing["halve"]
    assert halve.row() == ("halve", "transform", "latents", "a-plugin 2.1", "Halves the latents.")
    assert listing["made"].kind == "function"
    assert "halve" in listing
    assert "none" not in listing
    lines = repr(listing).splitlines()
    assert len(lines) == 1 + len(listing)
    assert len({line.index(each) for line, each in zip(lines, ["kind", *(h.kind for h in listing)], strict=True)}) == 1


def test_a_listing_shows_what_stands_in_it_and_runs_none_of_it(tmp_path, monkeypatch):
    installed(tmp_path, monkeypatch, "a-plugin", halve=f"{__name__}:Other")
    monkeypatch.setattr(Other, "__doc__", "<script>alert()</script>")
    assert "&lt;script&gt;" in registry.hooks()._repr_html_()
    assert "<script>" not in registry.hooks()._repr_html_()


@pytest.mark.parametrize(
    "code", ["raise RuntimeError('out of\\norder')", "1 +", "import sys; sys.exit(3)", "import no_such_module"]
)
def test_a_broken_plugin_has_a_line_that_says_why(tmp_path, monkeypatch, code):
    (tmp_path / "breaks_at_once.py").write_text(code.replace("\\n", "\\\\n"))
    monkeypatch.delitem(sys.modules, "breaks_at_once", raising=False)
    installed(tmp_path, monkeypatch, "sad-plugin", sad="breaks_at_once:Hook", less=f"{__name__}:Missing")
    listing = registry.hooks()
    assert {hook.name for hook in listing if not hook.usable} == {"sad", "less"}
    assert listing["sad"].kind == "broken"
    assert "sad-plugin 2.1 (breaks_at_once:Hook)" in listing["sad"].summary
    assert len(repr(listing).splitlines()) == 1 + len(listing)
    with pytest.raises((Exception, SystemExit)) as raised:
        registry.create("sad")
    assert any("'sad' from sad-plugin 2.1" in note for note in raised.value.__notes__)
    assert repr(registry.create("latents")) == "LatentRecorder()"


def test_a_name_claimed_twice_hurts_only_who_asks_for_it(tmp_path, monkeypatch, tiny):
    installed(tmp_path, monkeypatch, "mine", same=f"{__name__}:Other")
    installed(tmp_path, monkeypatch, "yours", same="no_such_module:Hook")
    assert registry.hooks()["same"].kind == "conflict"
    assert registry.hooks()["latents"].usable
    sdprobe.sample(tiny, "a star", hooks=["latents"], steps=1, progress=False)
    for name in ("same", "latents"):
        found = registry.hooks()[name]
        assert (("mine" in found.summary) and ("yours" in found.summary)) == (name == "same")
    with pytest.raises(ValueError, match=r"'same': .*mine 2.1 \(.*yours 2.1 \(|'same': .*yours 2.1 \(.*mine 2.1 \("):
        registry.create("same")


def test_two_that_are_no_distributions(monkeypatch):
    rivals = [EntryPoint("same", f"{who}:Hook", registry.GROUP) for who in ("mine", "yours")]
    monkeypatch.setattr(registry, "entry_points", lambda group: rivals)
    with pytest.raises(ValueError, match="'same': mine:Hook and yours:Hook"):
        registry.create("same")


def test_what_is_no_hook_is_named(tmp_path, monkeypatch):
    installed(tmp_path, monkeypatch, "odd-plugin", number=f"{__name__}:not_a_hook", constant=f"{__name__}:__doc__")
    assert registry.hooks()["constant"].kind == "broken"
    with pytest.raises(TypeError, match=r"odd-plugin 2\.1 .* under the name 'number' is no hook but int"):
        registry.create("number")


@pytest.fixture
def session(monkeypatch):
    monkeypatch.setattr(registry, "_session", {})


@pytest.mark.usefixtures("session")
def test_registering_in_a_notebook(tiny):
    @sdprobe.register("halve")
    class First(sdprobe.Transform):
        def latents(self, x, step):
            return x / 2

    assert isinstance(registry.create("halve"), First)

    @sdprobe.register("halve")
    def again(by=2):
        return sdprobe.on("latents", lambda x: x / by)

    assert repr(registry.create("halve")).startswith("on('latents', lambda of line")
    assert registry.hooks()["halve"].distribution == "this session"
    halved = sdprobe.sample(tiny, "a star", hooks=[("halve", {"by": 4})], steps=1, seed=0, progress=False)
    other = sdprobe.sample(tiny, "a star", hooks=["halve"], steps=1, seed=0, progress=False)
    assert not torch.equal(halved.latents, other.latents)


@pytest.mark.usefixtures("session")
def test_an_installed_name_is_not_shadowed(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"'latents' is taken by sdprobe .*LatentRecorder"):
        sdprobe.register("latents")(Other)
    with pytest.raises(ValueError, match="'only' is taken by sdprobe"):
        sdprobe.register("only")
    sdprobe.register("halve")(Other)
    elsewhere = type("Elsewhere", (Other,), {"__module__": "elsewhere"})
    with pytest.raises(ValueError, match=r"'halve' is taken by this session \(.*Other"):
        sdprobe.register("halve")(elsewhere)
    installed(tmp_path, monkeypatch, "late-plugin", halve="elsewhere:Hook")
    with pytest.raises(ValueError, match=r"late-plugin 2\.1") as raised:
        registry.create("halve")
    assert "this session" in str(raised.value)


def test_what_cannot_be_registered():
    with pytest.raises(TypeError, match=r"register\(\"my-hook\"\)"):
        sdprobe.register(Other)
    with pytest.raises(TypeError, match="neither a class of hooks nor a function"):
        sdprobe.register("int")(int)


def test_pairs(tiny):
    stack, named = registry.resolve([("latents", {"every": 2}), ["progress", {}]])
    assert repr(stack) == "Hooks(LatentRecorder(every=2), Progress())"
    assert list(named) == ["latents", "progress"]
    assert repr(registry.resolve(("latents", {"every": 2}))[0]) == "Hooks(LatentRecorder(every=2))"
    swaps = [("replace-token", {"word": word, "with_": "star"}) for word in ("red", "circle")]
    run = sdprobe.sample(tiny, "a red circle", hooks=[*swaps, ("latents", {})], steps=1, progress=False)
    assert run["latents"].indices == [0]
    with pytest.raises(KeyError):
        run["replace-token"]
    with pytest.raises(ValueError, match=r"its arguments: every, steps, keep"):
        registry.resolve([("latents", {"each": 2})])


@pytest.mark.parametrize(
    ("hooks", "said"),
    [
        ({"latents": {"every": 2}}, r"hooks\['latents'\] is a configuration alone: give a pair"),
        ({1: "latents"}, r"hooks\[1\] is named with no text"),
    ],
)
def test_a_dictionary_that_names_no_hooks(tiny, hooks, said):
    with pytest.raises(TypeError, match=said):
        sdprobe.sample(tiny, "a red circle", hooks=hooks, steps=1, progress=False)
