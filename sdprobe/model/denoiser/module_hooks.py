"""Where hooks reach into the denoiser: attention sites and module outputs, without touching the model.

Every attention module of diffusers ends in `torch.nn.functional.scaled_dot_product_attention`. While a module asked
for runs, a torch-function mode sees that call with its final query, key, value and mask. Nothing is replaced; the
forward hooks that bracket a module live only as long as one call of the denoiser.
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

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sdprobe.core.attention import Attention
from sdprobe.core.compose import Hooks
from sdprobe.core.hook import asks
from sdprobe.core.run import Coverage, Row, Run, Site, Step
from sdprobe.model.denoiser.token_layout import Layout

FLASH = int(torch.nn.attention.SDPBackend.FLASH_ATTENTION)  # type: ignore[call-overload]

NOT_RUN = "it did not run in this pass of the denoiser"
NO_SDPA = (
    "it ran without torch's scaled_dot_product_attention (attention slicing, xFormers or another backend): switch "
    "that off, e.g. pipe.disable_attention_slicing() or pipe.unet.set_attn_processor(AttnProcessor2_0())"
)


class ModuleHooks:
    """The places in one denoiser that the hooks of one run asked for.

    Args:
        denoiser: the network.
        kind_of: gives ``"cross"``, ``"self"``, ``"joint"`` for an attention module, None for any other.
        hooks: the run's hooks.
        layout: where picture and text stand on the axes of attention.
        coverage: where to say what was seen.

    Raises:
        ValueError: for a hook none of whose module patterns or kinds fits anything.
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
        self._inlet = getattr(denoiser, "caption_projection", None)  # PixArt's text passes it on the way to every site
        self.busy = False
        self._listen(hooks, coverage)

    @classmethod
    def of_run(cls, run_model: Any, run: Run, hooks: Hooks) -> ModuleHooks:
        """The places that the hooks of a run ask for in its model."""
        layout = run_model.layout(run.settings)
        return cls(run_model.denoiser, run_model.attention_kind, hooks, layout, run.coverage)

    def with_hooks(self, hooks: Hooks) -> ModuleHooks:
        """The places that the run's transforms and these hooks ask for, for a further call of the denoiser."""
        other = copy.copy(self)
        other._listen(Hooks(self._hooks.transforms, hooks), Coverage())
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
        """While this is open, the denoiser's one call passes the points ``attention`` and ``activation``."""
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
            # torch skips the closing hook of a module that a KeyboardInterrupt left, so the modes are closed here.
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
            return
        why = NO_SDPA if bracket.entered else NOT_RUN
        self._coverage.missed[name] = why
        if strict := [repr(hook) for hook in hooks if hook.strict]:
            raise RuntimeError(
                f"{', '.join(strict)} asked for the attention of {name}, which could not be seen: {why}. "
                f"With strict=False it does without, and run.coverage lists what was missed"
            )


class _AttentionInterceptor(TorchFunctionMode):
    """Entered while one attention module runs: sees its first attention call and lets the hooks act on it."""

    def __init__(self, hooks: Hooks, site: Site, module: nn.Module, layout: Layout, inlet: Any) -> None:
        super().__init__()
        self.hooks, self.site, self.module, self.layout, self.inlet = hooks, site, module, layout, inlet
        self.entered = self.saw = self.open = False

    def enter(self, module: nn.Module, args: Any) -> None:
        self.entered = self.open = True
        self.__enter__()

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.abandon()

    def abandon(self) -> None:
        if self.open:
            self.open = False
            self.__exit__(None, None, None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention or self.saw:
            return func(*args, **(kwargs or {}))
        self.saw = True
        project = partial(_projected, self.module, self.site.kind, self.inlet)
        given = read_sdpa_call(*args, **(kwargs or {}), rows=self.site.step.rows, project=project)
        grid, image, text = self.layout.of(self.site.kind, given.query.shape[-2], given.key.shape[-2])
        site = replace(self.site, grid=grid, heads=given.query.shape[1], image=image, text=text)
        return self.hooks.attention(given, site).output()


def read_sdpa_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    rows: tuple[Row, ...] = (),
    project: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
) -> Attention:
    """An `Attention` for the arguments of `torch.nn.functional.scaled_dot_product_attention`."""
    if is_causal or enable_gqa or dropout_p:
        raise NotImplementedError("causal, grouped-query and dropout attention have no place in a denoiser known here")

    def kernel(attn: Attention) -> Tensor:
        return F.scaled_dot_product_attention(attn.query, attn.key, attn.value, attn_mask=attn_mask, scale=scale)

    def fused(attn: Attention) -> tuple[Tensor, Tensor] | None:
        q, k, v = attn.query, attn.key, attn.value
        if not _is_flash_on_cpu(q, k, v, attn_mask, scale):
            return None
        # The kernel that SDPA itself would choose here; called by its own name it also returns log Σ exp.
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        output, logsumexp = flash(q, k, v, 0.0, False, attn_mask=attn_mask, scale=scale)
        return output, logsumexp

    usual = query.shape[-1] ** -0.5
    return Attention(
        query, key, value, attn_mask, usual if scale is None else scale, rows, kernel, fused, project or _no_module
    )


def _no_module(context: Tensor) -> tuple[Tensor, Tensor]:
    raise ValueError("this attention call belongs to no module that could make key and value of a conditioning")


def _projected(module: Any, kind: str, inlet: Any, context: Tensor) -> tuple[Tensor, Tensor]:
    """Key and value ``[rows, heads, tokens, width]`` of a conditioning, as a cross-attention module makes them."""
    if kind != "cross":
        raise ValueError(f"only cross-attention makes key and value of a conditioning; this site is {kind!r}")
    context = context if inlet is None else inlet.forward(context)
    if module.norm_cross:
        context = module.norm_encoder_hidden_states(context)
    # By `forward`: the hooks that other observers have on these layers are for what the model itself sends through.
    if getattr(module, "fused_projections", False):
        key, value = module.to_kv.forward(context).chunk(2, dim=-1)
    else:
        key, value = module.to_k.forward(context), module.to_v.forward(context)
    key, value = (x.unflatten(-1, (module.heads, -1)).transpose(1, 2) for x in (key, value))
    return (key if module.norm_k is None else module.norm_k.forward(key)), value


def _is_flash_on_cpu(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> bool:
    if q.device.type != "cpu" or not hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"):
        return False
    if mask is not None and mask.dtype == torch.bool:
        return False  # SDPA turns it into numbers first
    if any(x is not None and x.requires_grad for x in (q, k, v, mask)):
        return False  # its logsumexp has no gradient
    return bool(torch._fused_sdp_choice(q, k, v, attn_mask=mask, scale=scale) == FLASH)


def output_of(name: str) -> str:
    """What `Coverage` calls a module's output."""
    return f"{name} (output)"


def place_of(name: str) -> str:
    """``"down"``, ``"mid"`` or ``"up"`` for a U-Net's module, else the first part of its name."""
    first = name.split(".")[0]
    return first.split("_")[0] if first.split("_")[0] in ("down", "mid", "up") else first


def _passing(hooks: Hooks, name: str, step: Step, layout: Layout) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        x = output[0] if isinstance(output, tuple) else output
        if not isinstance(x, Tensor):
            raise TypeError(f"the module {name} returns {type(x).__name__}: there is no activation to pass to a hook")
        new = hooks.activation(x, Site(name, "activation", place_of(name), layout.grid_of(x), 0, step))
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return hook


def _refuse_idle(hooks: Hooks, point: str, modules: Mapping[str, str | None]) -> None:
    """Refuse a hook that would never be called, or one of whose patterns matches nothing."""
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
