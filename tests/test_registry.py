"""Hooks by name."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

import sdprobe
from sdprobe import registry
from sdprobe.compose import Hooks


def test_every_hook_class_of_the_package_is_registered():
    public = {value for value in vars(sdprobe).values() if isinstance(value, type)}
    ours = {c for c in public if issubclass(c, (sdprobe.Observer, sdprobe.Transform))}
    registered = {entry.load() for entry in registry.names().values() if entry.value.startswith("sdprobe.")}
    assert ours - {sdprobe.Observer, sdprobe.Transform} == registered


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


def test_a_name_claimed_twice_names_both(monkeypatch):
    rivals = [EntryPoint("same", f"{who}:Hook", registry.GROUP) for who in ("mine", "yours")]
    monkeypatch.setattr(registry, "entry_points", lambda group: rivals)
    with pytest.raises(ValueError, match="'same': mine:Hook and yours:Hook"):
        registry.names()
