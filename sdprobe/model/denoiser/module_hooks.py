"""`ModuleHooks`: hooks at attention sites and module outputs inside the denoiser, without a change of the model.

Every attention module of diffusers ends in `torch.nn.functional.scaled_dot_product_attention` or another backend's
function. While such a module runs, its calls are received with their final query, key, value and mask
(`attention_calls`). The forward hooks of a module exist only during one call of the denoiser.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor, nn

from sdprobe.core.compose import Hooks
from sdprobe.core.hook import Transform, asks, overrides
from sdprobe.core.limits.expected import expect
from sdprobe.core.limits.limited_hook import LimitedHook
from sdprobe.core.run import Coverage, Run
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.model.activation_listener import ActivationListener
from sdprobe.model.denoiser.aligned_rows import AlignedRows
from sdprobe.model.denoiser.attention_calls import backend_of
from sdprobe.model.denoiser.attention_site import AttentionModule, AttentionSite
from sdprobe.model.denoiser.cache_states import has_caches
from sdprobe.model.denoiser.compiled_parts import CompiledParts, as_written, names_as_written
from sdprobe.model.denoiser.image_prompts import kinds_of
from sdprobe.model.denoiser.missed_attention import LINEAR, NO_IMAGE_PROMPT, is_linear, reason_of, skipped
from sdprobe.model.denoiser.rows_of_pass import rows_by_themselves, rows_of_pass
from sdprobe.model.denoiser.token_layout import Layout
from sdprobe.model.denoiser.token_places import TokenPlaces, heads_of, heads_of_queries
from sdprobe.model.denoiser.unmatched_hooks import refuse_unmatched

FIRST, NO_STEP = "the first denoiser", "ran in no step"


class Listened(NamedTuple):
    """What hooks ask for in one denoiser."""

    attention: Sequence[AttentionModule]
    activations: ActivationListener
    compiled: CompiledParts

    @property
    def names(self) -> list[str]:
        """The names of its sites in the coverage."""
        return [*(of.name for of in self.attention), *(asked.label for asked in self.activations.asked)]


class ModuleHooks:
    """The sites in the denoisers that the hooks of one run ask for.

    Args:
        denoisers: the networks as the pipeline holds them, each by the beginning of its modules' names, of the first
            ``""``.
        kind_of: returns ``"cross"``, ``"self"``, ``"joint"`` for an attention module, None for any other.
        hooks: the run's hooks.
        layout: the positions of image and text on the axes of attention.
        coverage: records which sites were seen.
        running: returns the beginning of the names of the modules of the denoiser that runs in a step; None if there is
            one denoiser.
        inlet_of: returns what the text goes through in order, in the denoiser of a module, before every site.
        outside: the names of modules outside the denoisers that hooks may ask for.
        text_lengths: what `Model.text_lengths` says of a call's arguments.

    Raises:
        ValueError: for a hook without any matching module, by its patterns and kinds.
    """

    def __init__(
        self,
        denoisers: Mapping[str, nn.Module],
        kind_of: Callable[[nn.Module], str | None],
        hooks: Hooks,
        layout: Layout,
        coverage: Coverage,
        running: Callable[[Step], str] | None = None,
        inlet_of: Callable[[str], tuple[nn.Module, ...]] = lambda name: (),
        outside: Collection[str] = (),
        text_lengths: Callable[[Mapping[str, Any]], tuple[int, ...]] = lambda arguments: (),
    ) -> None:
        self._denoisers = {prefix: as_written(own) for prefix, own in denoisers.items()}
        self._outside, self._running, self._inlet_of = outside, running, inlet_of
        self._text_lengths = text_lengths
        every = self._denoisers.items()
        self._modules = {
            prefix + name: module for prefix, own in every for name, module in names_as_written(own).items()
        }
        self._sites = {name: kind for name, module in self._modules.items() if (kind := kind_of(module)) is not None}
        self._layout, self._places = layout, TokenPlaces(layout, self._sites)
        self._every_compiled = {prefix: CompiledParts.of(own) for prefix, own in denoisers.items()}
        self.has_caches = has_caches(*self._denoisers.values())
        self._listening: list[ModuleHooks] = []  # shared with the copies for further calls
        self._listen(hooks, coverage)

    @classmethod
    def of_run(cls, run_model: Any, run: Run, hooks: Hooks) -> ModuleHooks:
        """Return the sites that the hooks of a run ask for in its model."""
        called = run_model.denoisers_as_called
        outside = run_model.modules_outside if len(hooks.at("activation")) else ()

        def running(step: Step) -> str:
            return str(run_model.prefix_at(step.timestep))

        of_run = (run_model.attention_kind, hooks, run_model.layout(run.settings), run.coverage)
        lengths = run_model.text_lengths
        return cls(called, *of_run, running if len(called) > 1 else None, run_model.inlet_of, outside, lengths)

    def _prefix_at(self, step: Step) -> str:
        """Return the beginning of the names of the modules of the denoiser that runs in a step."""
        return next(iter(self._denoisers)) if self._running is None else self._running(step)

    def _prefix_of(self, name: str) -> str:
        """Return that of the denoiser of a module."""
        return max((prefix for prefix in self._denoisers if name.startswith(prefix)), key=len)

    @property
    def busy(self) -> bool:
        """Whether the denoiser runs, in the loop's own call or in a further one."""
        return bool(self._listening)

    def refuse_unreachable(self, run_model: Any, run: Run) -> None:
        """Refuse limited hooks that would act in no step of the run, or at no site that they ask for."""
        limited = [hook for hook in self._hooks if isinstance(hook, LimitedHook)]
        steps = run_model.expected_steps(run) if limited else []
        for hook in limited:
            hook.refuse_unreachable(steps, partial(self._sites_of, run_model, hook))

    def _sites_of(self, run_model: Any, hook: Any, step: Step) -> list[Site] | None:
        """Return the sites of a hook in a step; None if they are not known before the denoiser runs."""
        if overrides(hook, "activation"):
            return None
        found = []
        running = self._prefix_at(step)
        for name in (name for name in self._sites if self._prefix_of(name) == running):
            if is_linear(self._modules[name]):
                continue
            grid = run_model.grid_at(name, step.run.settings)
            if grid is None:
                return None
            heads = heads_of_queries(self._modules[name])
            for own in kinds_of(self._modules[name], self._sites[name]):
                if asks(hook, name, own):
                    shown = None if own == "text" else grid
                    found.append(expect(Site(name, own, place_of(name), shown, heads, step)))
        return found

    def with_hooks(self, hooks: Hooks) -> ModuleHooks:
        """Return the sites for the run's transforms and these hooks, for a further call of the denoiser."""
        other = copy.copy(self)
        both = Hooks(self._hooks.transforms, hooks)
        both.run = self._hooks.run
        other._listen(both, Coverage())
        return other

    def _module_of(self, name: str, kind: str, hooks: Hooks) -> AttentionModule:
        module, by_kind = self._modules[name], _by_kind(hooks, name)
        backend = backend_of(module)
        inlet = self._inlet_of(name)
        return AttentionModule(name, kind, place_of(name), module, backend, by_kind, self._layout, inlet)

    def _listen(self, hooks: Hooks, coverage: Coverage) -> None:
        self._hooks, self._coverage = hooks, coverage
        self._skips = Counter[str]()
        refuse_unmatched(
            hooks, "attention", {name: kinds_of(self._modules[name], self._sites[name]) for name in self._sites}
        )
        refuse_unmatched(hooks, "activation", dict.fromkeys((*self._modules, *self._outside), ()))
        attention = [
            self._module_of(name, kind, hooks)
            for name, kind in self._sites.items()
            if any(len(hooks.at("attention", name, own)) for own in kinds_of(self._modules[name], self._sites[name]))
        ]
        coverage.sites.update(self._sites)
        coverage.asked.update({of.name: of.kind for of in attention if len(of.hooks_of(of.kind))})
        seen = [of for of in attention if not is_linear(of.module)]
        for of in (of for of in attention if is_linear(of.module)):
            self._miss(of.name, of.hooks_of(of.kind), LINEAR)
        self._listened = {prefix: self._listened_in(prefix, seen) for prefix in self._denoisers}
        for prefix, own in self._listened.items():
            coverage.uncompiled.update((prefix + part).rstrip(".") for part in own.compiled.parts)
            if len(self._denoisers) > 1:
                coverage.missed.update(dict.fromkeys(own.names, f"{prefix.rstrip('.') or FIRST} {NO_STEP}"))

    def _listened_in(self, prefix: str, attention: Sequence[AttentionModule]) -> Listened:
        """Return what hooks ask for in one denoiser."""
        sites = [of for of in attention if self._prefix_of(of.name) == prefix]
        modules = {name: module for name, module in self._modules.items() if self._prefix_of(name) == prefix}
        activations = ActivationListener(modules, self._hooks, self._coverage)
        within = [name.removeprefix(prefix) for name in (*(of.name for of in sites), *activations.names)]
        return Listened(sites, activations, self._every_compiled[prefix].around(within))

    @contextmanager
    def listen(self, step: Step, arguments: Mapping[str, Any] = MappingProxyType({})) -> Iterator[None]:
        """While this is open, the denoiser's call goes through the points ``attention`` and ``activation``.

        Args:
            step: the step, with the rows of the call.
            arguments: what the denoiser is told in it, by argument name.
        """
        handles: list[Any] = []
        here = self._listened[self._prefix_at(step)]
        aligned = self._aligned(here, arguments)
        sites = [AttentionSite(of, step, self._coverage.passed, aligned) for of in here.attention]
        if len(self._denoisers) > 1:
            for name in (name for name in here.names if self._coverage.missed.get(name, "").endswith(NO_STEP)):
                del self._coverage.missed[name]
        self._listening.append(self)
        try:
            for site in sites:
                handles.append(site.of.module.register_forward_pre_hook(site.enter, with_kwargs=True))
                handles.append(site.of.module.register_forward_hook(site.leave, always_call=True))
            site_of = partial(self._site_of, step)
            with here.activations.listen(site_of, aligned) as not_run, here.compiled.run_as_written():
                yield
                missed = not_run()
            for site in sites:
                self._account(site)
            for asked in missed:
                why = self._reason_of(asked.name, asked.module, entered=False)
                self._miss(asked.label, asked.hooks, why, of_attention=False)
        finally:
            self._listening.clear()
            # torch does not call the closing hook of a module after a KeyboardInterrupt, so the sites are closed here.
            for site in reversed(sites):
                site.abandon()
            for handle in handles:
                handle.remove()

    def _aligned(self, here: Listened, arguments: Mapping[str, Any]) -> AlignedRows | None:
        """Return the order of the rows' tokens in a call, where the image follows texts of different lengths."""
        if not here.names:
            return None
        lengths = self._text_lengths(arguments)
        return AlignedRows(lengths, next(iter(self._layout.grids))) if len(set(lengths)) > 1 else None

    def _account(self, site: AttentionSite) -> None:
        of = site.of
        for kind, attends_to in site.seen:
            if len(of.hooks_of(kind)):
                name = of.name if kind == of.kind else f"{of.name} ({attends_to})"
                self._coverage.asked.setdefault(name, kind)
                self._coverage.seen[name] = self._coverage.seen.get(name, 0) + 1
        for kind in of.kinds:
            if kind in (seen for seen, _ in site.seen) or not len(hooks := of.hooks_of(kind)):
                continue
            name = of.name if kind == of.kind else f"{of.name} ({kind})"
            if site.seen:
                self._coverage.missed[name] = NO_IMAGE_PROMPT
            else:
                self._miss(name, hooks, self._reason_of(of.name, of.module, site.entered))

    def _reason_of(self, name: str, module: nn.Module, entered: bool) -> str:
        prefix = self._prefix_of(name)
        return reason_of(self._denoisers[prefix], name.removeprefix(prefix), module, entered)

    def _site_of(self, step: Step, name: str, side: str, stream: str, call: int, x: Tensor) -> Site:
        """Return the site of a tensor that a module takes or gives."""
        apart = rows_by_themselves(step.rows, len(x), call) if self._places.is_within_attention(name) else None
        if apart is not None:
            step = replace(step, rows=apart)
        elif self.has_caches and 2 * len(x) == len(step.rows):
            step = replace(step, rows=rows_of_pass(step.rows, len(x)))
        placed, heads = self._places.of(name, stream, x), heads_of(self._modules, name, side, x)
        of = (name, "activation", place_of(name), placed.grid, heads, step)
        reference = self._layout.reference_after(placed.image)
        of_tensor = (*of, placed.image, placed.text)
        return Site(*of_tensor, stream=placed.stream, side=side, call=call, reference=reference)

    def _miss(self, name: str, hooks: Hooks, why: str, of_attention: bool = True) -> None:
        """Record a pass in which a site was not seen, and refuse it where a strict hook asked for its attention."""
        self._skips[name] += 1
        times = f" {self._skips[name]} time{'s' * (self._skips[name] != 1)}"
        self._coverage.missed[name] = why + times * skipped(why)
        if skipped(why):  # the caller wishes it: an observer sees the rest, a transform would act in part only
            strict = [repr(hook) for hook in hooks if hook.strict and isinstance(hook, Transform)]
        else:
            strict = [repr(hook) for hook in hooks if hook.strict and of_attention]
        if strict:
            raise RuntimeError(
                f"{', '.join(strict)} asked for {'the attention of ' * of_attention}{name}, which could not be seen: "
                f"{why}. With strict=False it does without, and run.coverage lists what was missed"
            )


def _by_kind(hooks: Hooks, name: str) -> Callable[[str], Hooks]:
    """Return a function that gives the hooks at a module's attention calls of a kind."""
    found: dict[str, Hooks] = {}

    def hooks_of(kind: str) -> Hooks:
        if kind not in found:
            found[kind] = hooks.at("attention", name, kind)
        return found[kind]

    return hooks_of


def place_of(name: str) -> str:
    """Return ``"down"``, ``"mid"`` or ``"up"`` for a U-Net's module, else the first part of its name."""
    first = name.split(".")[0]
    return first.split("_")[0] if first.split("_")[0] in ("down", "mid", "up") else first
