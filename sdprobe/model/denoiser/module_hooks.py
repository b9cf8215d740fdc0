"""`ModuleHooks`: hooks at attention sites and module outputs inside the denoiser, without a change of the model.

Every attention module of diffusers ends in `torch.nn.functional.scaled_dot_product_attention`. While such a module
runs, a torch-function mode intercepts this call with its final query, key, value and mask. Nothing is replaced; the
forward hooks of a module exist only during one call of the denoiser.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sdprobe.core.compose import Hooks
from sdprobe.core.hook import Transform, asks, overrides
from sdprobe.core.limits.expected import expect
from sdprobe.core.limits.limited_hook import LimitedHook
from sdprobe.core.run import Coverage, Run, Site, Step
from sdprobe.model.denoiser.sdpa_call import project_context, read_sdpa_call
from sdprobe.model.denoiser.token_layout import Layout

NOT_RUN = "it did not run in this pass of the denoiser"
NO_SDPA = (
    "it ran without torch's scaled_dot_product_attention (attention slicing, xFormers or another backend): switch "
    "that off, e.g. pipe.disable_attention_slicing() or pipe.unet.set_attn_processor(AttnProcessor2_0())"
)
FURTHER = (
    "it makes several attention calls (IP-Adapter has one for each picture prompt), of which the first alone is seen"
)


class ModuleHooks:
    """The sites in one denoiser that the hooks of one run ask for.

    Args:
        denoiser: the network.
        kind_of: returns ``"cross"``, ``"self"``, ``"joint"`` for an attention module, None for any other.
        hooks: the run's hooks.
        layout: the positions of image and text on the axes of attention.
        coverage: records which sites were seen.

    Raises:
        ValueError: for a hook without any matching module, by its patterns and kinds.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        kind_of: Callable[[nn.Module], str | None],
        hooks: Hooks,
        layout: Layout,
        coverage: Coverage,
    ) -> None:
        self._modules = {name: module for name, module in denoiser.named_modules() if name}
        self._sites = {name: kind for name, module in self._modules.items() if (kind := kind_of(module)) is not None}
        self._layout = layout
        self._inlet = getattr(denoiser, "caption_projection", None)  # PixArt: applied to the text before every site
        self.busy = False
        self._listen(hooks, coverage)

    @classmethod
    def of_run(cls, run_model: Any, run: Run, hooks: Hooks) -> ModuleHooks:
        """Return the sites that the hooks of a run ask for in its model."""
        layout = run_model.layout(run.settings)
        return cls(run_model.denoiser, run_model.attention_kind, hooks, layout, run.coverage)

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
        for name, kind in self._sites.items():
            grid = run_model.grid_at(name, step.run.settings)
            if grid is None:
                return None
            if asks(hook, name, kind):
                heads = int(getattr(self._modules[name], "heads", 0))
                found.append(expect(Site(name, kind, place_of(name), grid, heads, step)))
        return found

    def with_hooks(self, hooks: Hooks) -> ModuleHooks:
        """Return the sites for the run's transforms and these hooks, for a further call of the denoiser."""
        other = copy.copy(self)
        both = Hooks(self._hooks.transforms, hooks)
        both.run = self._hooks.run
        other._listen(both, Coverage())
        return other

    def _listen(self, hooks: Hooks, coverage: Coverage) -> None:
        self._hooks, self._coverage = hooks, coverage
        _refuse_idle(hooks, "attention", self._sites)
        _refuse_idle(hooks, "activation", dict.fromkeys(self._modules))
        self._attention = [
            (name, kind, self._modules[name], own)
            for name, kind in self._sites.items()
            if len(own := hooks.at("attention", name, kind))
        ]
        self._activation = [
            (name, module, own) for name, module in self._modules.items() if len(own := hooks.at("activation", name))
        ]
        coverage.sites.update(self._sites)
        coverage.asked.update({name: kind for name, kind, _, _ in self._attention})
        coverage.asked.update({output_of(name): "activation" for name, _, _ in self._activation})

    @contextmanager
    def listen(self, step: Step) -> Iterator[None]:
        """While this is open, the denoiser's call goes through the points ``attention`` and ``activation``."""
        handles: list[Any] = []
        brackets: list[tuple[_AttentionInterceptor, Hooks]] = []
        self.busy = True
        try:
            for name, kind, module, hooks in self._attention:
                site = Site(name, kind, place_of(name), None, int(getattr(module, "heads", 0)), step)
                bracket = _AttentionInterceptor(hooks, site, module, self._layout, self._inlet)
                brackets.append((bracket, hooks))
                handles.append(module.register_forward_pre_hook(bracket.enter))
                handles.append(module.register_forward_hook(bracket.leave, always_call=True))
            for name, module, hooks in self._activation:
                handles.append(module.register_forward_hook(_passing(hooks, name, step, self._layout)))
                handles.append(module.register_forward_hook(partial(self._counted, output_of(name))))
            yield
            for bracket, hooks in brackets:
                self._account(bracket, hooks)
            for name, _, _ in self._activation:
                if output_of(name) not in self._coverage.seen:
                    self._coverage.missed[output_of(name)] = NOT_RUN
        finally:
            self.busy = False
            # torch does not call the closing hook of a module after a KeyboardInterrupt, so the modes are closed here.
            for bracket, _ in reversed(brackets):
                bracket.abandon()
            for handle in handles:
                handle.remove()

    def _counted(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        self._coverage.seen[name] = self._coverage.seen.get(name, 0) + 1
        self._coverage.missed.pop(name, None)

    def _account(self, bracket: _AttentionInterceptor, hooks: Hooks) -> None:
        name = bracket.site.name
        if bracket.saw:
            self._coverage.seen[name] = self._coverage.seen.get(name, 0) + 1
            if bracket.further:
                self._coverage.missed[name] = FURTHER
            return
        why = NO_SDPA if bracket.entered else NOT_RUN
        self._coverage.missed[name] = why
        if strict := [repr(hook) for hook in hooks if hook.strict]:
            raise RuntimeError(
                f"{', '.join(strict)} asked for the attention of {name}, which could not be seen: {why}. "
                f"With strict=False it does without, and run.coverage lists what was missed"
            )


class _AttentionInterceptor(TorchFunctionMode):
    """Active while one attention module runs: intercepts its first attention call for the hooks."""

    def __init__(self, hooks: Hooks, site: Site, module: nn.Module, layout: Layout, inlet: Any) -> None:
        super().__init__()
        self.hooks, self.site, self.module, self.layout, self.inlet = hooks, site, module, layout, inlet
        self.entered = self.saw = self.open = False
        self.further, self.depth = False, 0

    def enter(self, module: nn.Module, args: Any) -> None:
        self.entered = self.open = True
        self.depth += 1
        if self.depth == 1:  # a hook may have called the denoiser again
            self.__enter__()

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.depth -= 1
        if not self.depth:
            self.abandon()

    def abandon(self) -> None:
        if self.open:
            self.open = False
            self.__exit__(None, None, None)

    def _see_further_call(self) -> None:
        """Refuse strict hooks if a module calls attention again: they would see, or change, the first call only."""
        self.further = True
        if strict := [repr(hook) for hook in self.hooks if isinstance(hook, Transform) or hook.strict]:
            raise RuntimeError(
                f"{', '.join(strict)} asked for the attention of {self.site.name}, but {FURTHER}: a transform cannot "
                f"act there, and an observer only with strict=False"
            )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        if self.saw:
            self._see_further_call()
            return func(*args, **(kwargs or {}))
        self.saw = True
        project = partial(project_context, self.module, self.site.kind, self.inlet)
        given = read_sdpa_call(*args, **(kwargs or {}), rows=self.site.step.rows, project=project)
        grid, image, text = self.layout.of(self.site.kind, given.query.shape[-2], given.key.shape[-2])
        site = replace(self.site, grid=grid, heads=given.query.shape[1], image=image, text=text)
        return self.hooks.attention(given, site).output()


def output_of(name: str) -> str:
    """Return the name of a module's output in `Coverage`."""
    return f"{name} (output)"


def place_of(name: str) -> str:
    """Return ``"down"``, ``"mid"`` or ``"up"`` for a U-Net's module, else the first part of its name."""
    first = name.split(".")[0]
    return first.split("_")[0] if first.split("_")[0] in ("down", "mid", "up") else first


def _passing(hooks: Hooks, name: str, step: Step, layout: Layout) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        x = output[0] if isinstance(output, tuple) and len(output) == 1 else output
        if not isinstance(x, Tensor):
            raise TypeError(
                f"the module {name} returns {_kind_of(output)}, and the point activation passes modules that return "
                f"one tensor: ask for a module within it, such as {_within(module, name)}"
            )
        new = hooks.activation(x, Site(name, "activation", place_of(name), layout.grid_of(x), 0, step))
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return hook


def _kind_of(output: Any) -> str:
    if isinstance(output, tuple):
        return f"{len(output)} values ({', '.join(_kind_of(own) for own in output)})"
    return f"a tensor {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__


def _within(module: nn.Module, name: str) -> str:
    inner = [f"{name}.{own}" for own, part in module.named_modules() if own and not isinstance(part, nn.ModuleList)]
    return ", ".join(inner[:3]) or "none: it has no modules of its own"


def _refuse_idle(hooks: Hooks, point: str, modules: Mapping[str, str | None]) -> None:
    """Refuse a hook that would never be called, or with a pattern that matches nothing."""
    for hook in hooks.at(point):
        for pattern in hook.modules or ():
            if not any(fnmatchcase(name, pattern) for name in modules):
                raise ValueError(
                    f"{hook!r}: the module pattern {pattern!r} matches no {point} site of this model; "
                    f"{_choices(pattern, modules)}"
                )
        if not any(asks(hook, name, kind) for name, kind in modules.items()):
            kinds = sorted({kind for kind in modules.values() if kind})
            raise ValueError(
                f"{hook!r} asks for {point} of kind {', '.join(hook.kinds or ())} at "
                f"{', '.join(hook.modules or ('*',))}, which this model has not; its kinds: {', '.join(kinds)}"
            )


def _choices(pattern: str, modules: Iterable[str]) -> str:
    known = list(modules)
    near = difflib.get_close_matches(pattern.strip("*"), known, n=3, cutoff=0.3)
    listed = ", ".join(near or known[:8])
    return f"nearest of its {len(known)}: {listed}"
