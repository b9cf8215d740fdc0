"""The tensors that a module takes and gives, each with the name of its stream."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from torch import Tensor, nn

Through = Callable[[str, Tensor], Tensor]
Path = tuple[Any, ...]

HIDDEN = ("hidden_states", "hidden_state", "input", "input_tensor", "x", "z", "sample", "inputs_embeds")
ARGUMENTS: Mapping[str, str] = {
    **dict.fromkeys(HIDDEN, "hidden"),
    **dict.fromkeys(("temb", "emb"), "time"),
    "encoder_hidden_states": "text",
    "encoder_hidden_states_image": "image prompt",
    "res_hidden_states_tuple": "skip",
}
"""Streams by the names that arguments have in diffusers and transformers; of any other, its own name."""

RETURNED: Mapping[str, Sequence[str]] = {
    "AdaLayerNormZero": ("hidden", "gate", "mlp shift", "mlp scale", "mlp gate"),
    "AdaLayerNormZeroSingle": ("hidden", "gate"),
    **dict.fromkeys(
        ("CogVideoXBlock", "HunyuanVideoTransformerBlock", "HunyuanVideoSingleTransformerBlock"), ("hidden", "text")
    ),
    "CogVideoXLayerNormZero": ("hidden", "text", "gate", "text gate"),
    "SD35AdaLayerNormZeroX": ("hidden", "gate", "mlp shift", "mlp scale", "mlp gate", "hidden 2", "gate 2"),
    "AdaLayerNormSingle": ("modulation", "time"),
    "LuminaRMSNormZero": ("hidden", "gate", "mlp scale", "mlp gate"),
    "Lumina2CombinedTimestepCaptionEmbedding": ("time", "text"),
    "Lumina2RotaryPosEmbed": ("hidden", "text rotary", "image rotary", "rotary"),
    "WanTimeTextImageEmbedding": ("time", "modulation", "text", "image prompt"),
    "WanRotaryPosEmbed": ("cosine", "sine"),
    "T5Attention": ("hidden", "position bias"),
    "T5LayerSelfAttention": ("hidden", "position bias"),
    "T5Block": ("hidden", "position bias", "cross position bias"),
}
"""Streams of what a module returns in a tuple, by the name of its class."""


def pass_inputs(
    module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], through: Through
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Pass every tensor of a call's arguments through a function; None if it changed none of them."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    named = [own.name for own in parameters if own.kind not in (own.VAR_POSITIONAL, own.VAR_KEYWORD)]

    def stream_of(path: Path) -> tuple[str, Path]:
        of, argument, *rest = path
        if of == 0:
            argument = named[argument] if argument < len(named) else f"input {argument}"
        stream = ARGUMENTS.get(str(argument), str(argument))
        if stream == "text" and rest:  # with an IP-Adapter, the prompt and the tokens of each image prompt
            return ("text", ()) if rest[0] == 0 else ("image prompt", tuple(rest[1:]))
        return stream, tuple(rest)

    given = (args, kwargs)
    found: Any = _pass((f"the module {name}", "takes"), given, stream_of, through)
    return None if found is given else found


def pass_output(module: nn.Module, name: str, output: Any, through: Through) -> Any:
    """Pass every tensor of what a module returned through a function."""
    names = RETURNED.get(type(module).__name__) or _of_joint(module, output) or ()

    def stream_of(path: Path) -> tuple[str, Path]:
        if not path:
            return "hidden", ()
        first, *rest = path
        if not isinstance(first, int):  # a dataclass of outputs
            return ("hidden" if first in ("sample", "last_hidden_state") else first), tuple(rest)
        if rest:  # a U-Net's block gives, beside its output, the tuple of what its layers gave
            return "skip", tuple(rest)
        return (names[first] if first < len(names) else f"output {first}" if first else "hidden"), ()

    return _pass((f"the module {name}", "gives"), output, stream_of, through)


def _of_joint(module: nn.Module, output: Any) -> Sequence[str] | None:
    """Return the streams of a joint transformer's block or attention, which give image and text, in another order."""
    own = type(module).__module__.startswith("diffusers.") and isinstance(output, tuple) and len(output) > 1
    if not own or not all(x is None or isinstance(x, Tensor) for x in output):
        return None
    if "encoder_hidden_states" not in inspect.signature(module.forward).parameters:
        return None
    return ("hidden", "text", "image prompt") if hasattr(module, "to_q") else ("text", "hidden")


def _pass(said: tuple[str, str], value: Any, stream_of: Callable[[Path], tuple[str, Path]], through: Through) -> Any:
    found = [(stream_of(path), leaf) for path, leaf in _leaves(value)]
    named = [stream for (stream, _), leaf in found if isinstance(leaf, Tensor)]

    def passed(path: Path, leaf: Any) -> Any:
        stream, rest = stream_of(path)
        if not isinstance(leaf, Tensor):
            _refuse(said, stream, leaf, through)
            return leaf
        if stream == "skip" or named.count(stream) > 1:
            return through(" ".join([stream, *map(str, rest)]), leaf)
        return through("hidden" if len(named) == 1 else stream, leaf)

    return _rebuilt(value, (), passed)


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if (parts := _parts(value)) is None:
        yield path, value
        return
    for key, own in parts:
        yield from _leaves(own, (*path, key))


def _rebuilt(value: Any, path: Path, passed: Callable[[Path, Any], Any]) -> Any:
    """Return a structure with its leaves passed through a function; the same object if none of them changed."""
    if (parts := _parts(value)) is None:
        return passed(path, value)
    new = {key: _rebuilt(own, (*path, key), passed) for key, own in parts}
    if all(new[key] is own for key, own in parts):
        return value
    kind: Any = type(value)
    if isinstance(value, Mapping):
        return kind(**new) if is_dataclass(value) else kind(new)
    return kind(*new.values()) if hasattr(value, "_fields") else kind(new.values())


def _parts(value: Any) -> list[tuple[Any, Any]] | None:
    """Return the parts of a tuple, a list, a dictionary or a dataclass of outputs; None for a leaf."""
    if isinstance(value, Mapping):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, (tuple, list)) else None


def _refuse(said: tuple[str, str], stream: str, leaf: Any, through: Through) -> None:
    """Refuse an object with tensors in it that nothing can be passed of."""
    asked = getattr(through, "asks_for", None)
    if isinstance(leaf, nn.Module) or not hasattr(leaf, "__dict__") or (asked is not None and not asked(stream)):
        return
    if any(isinstance(own, Tensor) for own in vars(leaf).values()):
        who, does = said
        raise TypeError(
            f"{who} {does} a {type(leaf).__name__} as {stream!r}, whose tensors cannot be passed: ask for its other "
            f"streams by name (streams=...), or for a module within it"
        )
