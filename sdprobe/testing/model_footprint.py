"""The footprint of a model: everything that a run must not change."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import _get_current_function_mode_stack

HOOK_TABLES = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_always_called",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_state_dict_hooks",
)


def footprint(pipe: Any) -> dict[str, Any]:
    """Forward hooks, processors, parameters, methods, training flags, the scheduler, the tokenizers, torch's modes."""
    print_: dict[str, Any] = {
        "modes": len(_get_current_function_mode_stack()),
        "grad": torch.is_grad_enabled(),
        "pipe": sorted(vars(pipe)),
        "scheduler": (id(pipe.scheduler), repr(sorted(vars(pipe.scheduler).items(), key=lambda kv: kv[0]))),
    }
    for name in sorted(name for name, part in pipe.components.items() if part is not None and "tokenizer" in name):
        tokenizer = getattr(pipe, name)
        print_[name] = (len(tokenizer), repr(sorted(tokenizer.get_added_vocab().items())))
    for part in sorted(name for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)):
        for name, module in getattr(pipe, part).named_modules():
            own: dict[str, Any] = {table: len(getattr(module, table, ())) for table in HOOK_TABLES}
            own |= {"training": module.training, "vars": sorted(vars(module)), "type": type(module)}
            own["processor"] = id(getattr(module, "processor", None))
            print_[f"{part}.{name}"] = own
        for name, tensor in getattr(pipe, part).state_dict(keep_vars=True).items():
            print_[f"{part}.{name} value"] = (
                id(tensor),
                tensor._version,
                tensor.requires_grad,
                tensor.grad is None,
                tensor.double().sum().item(),
            )
    return print_
