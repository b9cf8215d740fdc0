"""`NetworkSites`: what hooks ask for in one network of a pipeline that no family knows, during each call of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import Any

from torch import Tensor, nn

from sdprobe.core.compose import Hooks
from sdprobe.core.coverage import Coverage
from sdprobe.core.hook import Transform
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.model.activation_listener import ActivationListener
from sdprobe.model.denoiser.compiled_parts import CompiledParts
from sdprobe.model.denoiser.missed_attention import reason_of, skipped
from sdprobe.model.denoiser.module_hooks import place_of
from sdprobe.model.denoiser.token_places import heads_of
from sdprobe.model.unknown.attention_kinds import possible_kinds
from sdprobe.model.unknown.unknown_attention_site import AskedAttention, RowsOf, UnknownAttentionSite
from sdprobe.model.unknown.unplaced import unplaced


class NetworkSites:
    """The sites in one network that the hooks of a run ask for.

    Args:
        network: the network.
        before: what its modules' names have before them: nothing, or the name of its part.
        modules: its modules, by the names that hooks ask for.
        kinds: the kind of each attention module, as far as it is known before it runs.
        hooks: the run's hooks.
        coverage: records which were seen.
        rows_of: what the entries of a tensor are.
    """

    def __init__(
        self,
        network: nn.Module,
        before: str,
        modules: Mapping[str, nn.Module],
        kinds: Mapping[str, str],
        hooks: Hooks,
        coverage: Coverage,
        rows_of: RowsOf,
    ) -> None:
        self._network, self._before, self._modules, self._kinds = network, before, modules, kinds
        self._rows_of, self._coverage = rows_of, coverage
        self._skips = Counter[str]()
        self._attention = [
            AskedAttention(
                name, kind, place_of(name), modules[name], cache(partial(hooks.at, "attention", name)), rows_of
            )
            for name, kind in kinds.items()
            if any(len(hooks.at("attention", name, own)) for own in possible_kinds(kind))
        ]
        self._activations = ActivationListener(modules, hooks, coverage)
        names = [*(of.name for of in self._attention), *self._activations.names]
        self._compiled = CompiledParts.of(network).around(map(self._own_name, names))
        coverage.uncompiled.update(self._compiled.parts)
        coverage.sites.update(kinds)
        coverage.asked.update({of.name: of.kind for of in self._attention})

    @contextmanager
    def listen(self, step: Step) -> Iterator[None]:
        """While this is open, a call of the network goes through the points ``attention`` and ``activation``."""
        handles: list[Any] = []
        sites = [UnknownAttentionSite(of, step, self._coverage.passed) for of in self._attention]
        try:
            for site in sites:
                handles += site.register()
            with self._activations.listen(partial(self._site_of, step)) as not_run, self._compiled.run_as_written():
                yield
                missed = not_run()
            for site in sites:
                self._account(site)
            for asked in missed:
                self._miss(asked.label, asked.hooks, self._reason(asked.name, asked.module, False), sure=False)
        finally:
            for site in reversed(sites):
                site.abandon()
            for handle in handles:
                handle.remove()

    def _account(self, site: UnknownAttentionSite) -> None:
        of = site.of
        for kind, times in site.seen.items():
            self._coverage.asked[of.name] = kind
            self._coverage.seen[of.name] = self._coverage.seen.get(of.name, 0) + times
        if site.unseen is not None:
            self._miss(of.name, of.hooks_of(of.kind), site.unseen, of.is_sure)
        elif not site.seen and len(hooks := of.hooks_of(of.kind)):
            self._miss(of.name, hooks, self._reason(of.name, of.module, site.entered), of.is_sure)

    def _reason(self, name: str, module: nn.Module, entered: bool) -> str:
        return reason_of(self._network, self._own_name(name), module, entered)

    def _own_name(self, name: str) -> str:
        return name.removeprefix(self._before)

    def _miss(self, name: str, hooks: Hooks, why: str, sure: bool) -> None:
        """Record a pass in which a site was not seen, and refuse it where a strict hook surely needs it."""
        self._skips[name] += 1
        times = f" {self._skips[name]} time{'s' * (self._skips[name] != 1)}"
        self._coverage.missed[name] = why + times * skipped(why)
        strict = [repr(own) for own in hooks if own.strict and (not skipped(why) or isinstance(own, Transform))]
        if strict and (sure or skipped(why)):
            raise RuntimeError(
                f"{', '.join(strict)} asked for {name}, which could not be seen: {why}. With strict=False it does "
                f"without, and run.coverage lists what was missed"
            )

    def _site_of(self, step: Step, name: str, side: str, stream: str, call: int, x: Tensor) -> Site:
        rows = self._rows_of(step.rows, len(x) if x.ndim else 0)
        step = step if rows is step.rows else replace(step, rows=rows)
        grid, image = unplaced(name, stream, x, self._kinds)
        of = (name, "activation", place_of(name), grid, heads_of(self._modules, name, side, x), step)
        return Site(*of, image=image, stream=stream, side=side, call=call)
