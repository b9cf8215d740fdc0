"""Modules outside the denoiser, those of the text encoders and of the autoencoder, at the point ``activation``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from sdprobe.core.compose import Hooks
from sdprobe.core.coverage import Coverage
from sdprobe.core.hook import asks
from sdprobe.core.rows import Row
from sdprobe.core.run import Run
from sdprobe.core.site import OutsideSite, Site
from sdprobe.core.text import Text
from sdprobe.model.activation_listener import ActivationListener, SiteOf
from sdprobe.model.denoiser.compiled_parts import CompiledParts, names_as_written
from sdprobe.model.denoiser.token_layout import Layout
from sdprobe.model.denoiser.token_places import NOWHERE, Placed, TokenPlaces, heads_of

DECODING = ("decoder", "post_quant_conv")


def modules_outside(encoders: Mapping[str, nn.Module], autoencoder: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of text encoders, and those that decode, by names that begin with their part's."""
    found = {name: module for part, encoder in encoders.items() for name, module in _modules_of(part, encoder).items()}
    decoding = _modules_of("vae", autoencoder).items()
    return found | {name: module for name, module in decoding if name.split(".")[1] in DECODING}


def _modules_of(part: str, network: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of a part of a pipeline, by names that begin with the part's."""
    return {f"{part}.{name}": module for name, module in names_as_written(network).items()}


def hooks_in_encoders(run_model: Any, hooks: Hooks) -> Hooks:
    """Return only the hooks that ask for modules of the text encoders."""
    acting = hooks.at("activation")
    names = [name for name in run_model.modules_outside if not name.startswith("vae.")] if len(acting) else []
    return acting.where(lambda leaf: any(asks(leaf, name, None) for name in names))


def _asked(hooks: Hooks, modules: Mapping[str, nn.Module]) -> bool:
    """Whether hooks ask for any of these modules."""
    return any(asks(leaf, name, None) for leaf in hooks.at("activation") for name in modules)


@contextmanager
def listen_to_encoders(encoders: Mapping[str, nn.Module], hooks: Hooks, text_of: Any) -> Iterator[None]:
    """While this is open, the text encoders' tensors are passed.

    Args:
        encoders: the encoders by name.
        hooks: the run's hooks.
        text_of: returns the `Text` of an encoder by its name.
    """
    with ExitStack() as opened:
        for part, encoder in encoders.items() if len(hooks.at("activation")) else ():
            modules = _modules_of(part, encoder)
            if _asked(hooks, modules):
                opened.enter_context(_listen(encoder, part, modules, hooks, _site_of_text(modules, text_of(part))))
        yield


@contextmanager
def listen_to_decoder(run_model: Any, run: Run, hooks: Hooks) -> Iterator[None]:
    """While this is open, the tensors of the autoencoder's decoder are passed."""
    modules = modules_outside({}, run_model.pipe.vae) if len(hooks.at("activation")) else {}
    if not _asked(hooks, modules):
        yield
        return
    h, w = run_model.latent_size(run.settings)
    _refuse_parts(run_model.pipe.vae, (h, w), run.settings.images)
    places = TokenPlaces(Layout({h * w: (h, w)}), {name: "self" for name in modules if hasattr(modules[name], "to_q")})
    rows = tuple(Row(image, run.prompt_of(image), "cond") for image in range(run.settings.images))

    def site_of(name: str, side: str, stream: str, call: int, x: Tensor) -> Site:
        heads = heads_of(modules, name, side, x)
        return _site(name, side, call, places.of(name, stream, x), heads, run, rows if len(x) == len(rows) else ())

    with _listen(run_model.pipe.vae, "vae", modules, hooks, site_of):
        yield


def _site_of_text(modules: Mapping[str, nn.Module], text: Text) -> SiteOf:
    each = text.run.settings.images_per_prompt
    rows = tuple(Row(k * each, prompt, text.role) for k, prompt in enumerate(text.prompts))

    def site_of(name: str, side: str, stream: str, call: int, x: Tensor) -> Site:
        is_tokens = x.ndim == 3 and len(x) == len(rows) and stream.split(" ")[0] in ("hidden", "text", "output")
        placed = Placed(stream, None, NOWHERE, slice(0, x.shape[1]) if is_tokens else None)
        entries = rows if len(x) == len(rows) else ()
        return _site(name, side, call, placed, heads_of(modules, name, side, x), text, entries)

    return site_of


def _site(
    name: str, side: str, call: int, placed: Placed, heads: int, during: Text | Run, entries: tuple[Row, ...]
) -> OutsideSite:
    return OutsideSite(
        *(name, "activation", name.split(".")[0], placed.grid, heads, placed.image, placed.text),
        stream=placed.stream,
        side=side,
        call=call,
        during=during,
        entries=entries,
    )


def _refuse_parts(autoencoder: Any, latents: tuple[int, int], images: int) -> None:
    """Refuse a decoder that is called for a part of the images, or of an image, at a time."""
    tile = getattr(autoencoder, "tile_latent_min_size", 0)
    for method, is_used in (
        ("slicing", getattr(autoencoder, "use_slicing", False) and images > 1),
        ("tiling", getattr(autoencoder, "use_tiling", False) and max(latents) > tile),
    ):
        if is_used:
            raise ValueError(
                f"the autoencoder decodes with {method}, in parts whose rows and places cannot be told from their "
                f"tensors: for hooks in vae.decoder, switch it off by pipe.vae.disable_{method}()"
            )


@contextmanager
def _listen(
    network: nn.Module, part: str, modules: Mapping[str, nn.Module], hooks: Hooks, site_of: SiteOf
) -> Iterator[None]:
    coverage = Coverage() if hooks.run is None else hooks.run.coverage
    listener = ActivationListener(modules, hooks, coverage)
    compiled = CompiledParts.of(network).around(name.removeprefix(f"{part}.") for name in listener.names)
    with listener.listen(site_of) as not_run, compiled.run_as_written():
        yield
        for asked in not_run():
            coverage.missed[asked.label] = "it did not run"
