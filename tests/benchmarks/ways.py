"""A pipeline, and the ways to run it that are measured on a GPU, with what each gives."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from full_size import FACTOR, TINY_SIZE, TINY_STEPS, FullSize
from models import PROMPT
from torch import Tensor

import sdprobe

PEER = "attention_map_diffusers"
WORDS = ["circle", "square"]
SEED = 3
UNHOOKED = 1.02
"""The ratio to the stock pipeline that a run without hooks should stay under."""


class Outcome(NamedTuple):
    """What a run gave: its pictures, and where they are known its final latents and the bytes that a hook holds."""

    pictures: Sequence[Any]
    latents: Tensor | None = None
    held: int | None = None


@dataclass(frozen=True)
class Way:
    """A way to run, with the ratio to the stock pipeline that it should stay under."""

    name: str
    run: Callable[[], Outcome]
    target: float | None = None


class Subject:
    """A pipeline, run by itself, by `sample`, with `attach` and with attention-map-diffusers, always the same run."""

    def __init__(self, model: FullSize, device: torch.device, tiny: bool) -> None:
        dtype = torch.float32 if tiny else model.dtype
        self.device, self.guidance_scale, self.name = device, model.guidance_scale, model.name
        self.target, self.self_attention = model.target, model.self_attention
        self.size, self.steps = (TINY_SIZE, TINY_STEPS) if tiny else (model.size, model.steps)
        self.pipe = model.make(device, dtype, tiny)
        self.pipe.set_progress_bar_config(disable=True)
        self.model = sdprobe.load(self.pipe)
        count = sum(parameter.numel() for parameter in self.model.denoiser.parameters())
        kind = str(dtype).removeprefix("torch.")
        self.title = (
            f"{model.name}: {count / 1e6:.0f} M parameters, {kind}, {self.size}², {self.steps} steps, "
            f"guidance {model.guidance_scale}"
        )
        self.latents = self._latents()
        self.pictures = self.stock().pictures

    def call(self, output_type: str = "pil") -> Any:
        """What the stock pipeline returns."""
        return self.pipe(
            [PROMPT],
            num_inference_steps=self.steps,
            guidance_scale=self.guidance_scale,
            height=self.size,
            width=self.size,
            generator=torch.Generator().manual_seed(SEED),
            output_type=output_type,
        ).images

    def stock(self) -> Outcome:
        """The stock pipeline."""
        return Outcome(self.call())

    def sample(self, *hooks: sdprobe.Observer) -> sdprobe.Run:
        """The same run by `sample`."""
        return sdprobe.sample(
            self.model,
            PROMPT,
            hooks=hooks,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            height=self.size,
            width=self.size,
            seed=SEED,
            progress=False,
        )

    def sampled(self, *hooks: sdprobe.Observer) -> Outcome:
        """What `sample` gives."""
        return _outcome(self.sample(*hooks), hooks)

    def attached(self, *hooks: sdprobe.Observer) -> Outcome:
        """What the stock pipeline gives with hooks attached."""
        with sdprobe.attach(self.pipe, hooks) as run:
            pictures = self.call()
        return _outcome(run, hooks)._replace(pictures=pictures)

    def captured(self, **asked: Any) -> Outcome:
        """What the stock pipeline gives while attention-map-diffusers records attention to the text on the device."""
        from attention_map_diffusers import AttentionCapture

        if self.device.type == "cuda":  # its own limit is less than all steps take
            asked["max_capture_bytes"] = torch.cuda.mem_get_info()[0]
        given = {"relations": ["image->text"], "offload": self.device.type} | asked
        with AttentionCapture(self.pipe, **given) as capture:
            pictures = self.call()
        capture.compute()
        return Outcome(pictures)

    def equal(self, outcome: Outcome) -> str:
        """Whether an outcome is the stock pipeline's, bit for bit."""
        said = []
        if outcome.latents is not None:
            off = float((outcome.latents.double() - self.latents.double()).abs().max())
            said.append("latents" if torch.equal(outcome.latents, self.latents) else f"latents NOT, off by {off:.1e}")
        pairs = zip(outcome.pictures, self.pictures, strict=True)
        same = all(one.tobytes() == other.tobytes() for one, other in pairs)
        return ", ".join([*said, "picture" if same else "picture NOT"])

    def ways(self) -> list[Way]:
        """Every way that is measured, the stock pipeline first."""
        maps, few = sdprobe.AttentionMaps(), sdprobe.AttentionMaps(WORDS)
        recorded = (sdprobe.LatentRecorder(), sdprobe.Statistics())
        found = [
            Way("the stock pipeline, again", self.stock),
            Way("sample", self.sampled, UNHOOKED),
            Way("sample, maps of 2 words", lambda: self.sampled(few)),
            Way("sample, maps of all tokens", lambda: self.sampled(maps), self.target),
            Way("sample, latents and statistics", lambda: self.sampled(*recorded)),
            Way("attach", self.attached),
            Way("attach, maps of all tokens", lambda: self.attached(maps), self.target),
        ]
        if self.self_attention:
            found.append(Way("sample, self-attention maps", lambda: self.sampled(sdprobe.SelfAttentionMaps())))
        if importlib.util.find_spec(PEER) is not None:
            found.append(Way("attention-map-diffusers, last step", self.captured))
            found.append(Way("attention-map-diffusers, all steps", lambda: self.captured(timesteps="all")))
        return found

    def _latents(self) -> Tensor:
        """The stock pipeline's final latents, of the shape that a run holds."""
        latents: Tensor = self.call("latent")
        if latents.ndim == 3:  # Flux packs four positions into one
            latents = self.pipe._unpack_latents(latents, self.size, self.size, FACTOR)
        if not latents.isfinite().all():
            raise ValueError(f"{self.title}: the latents are not finite, so that equality would say nothing")
        return latents


def _outcome(run: sdprobe.Run, hooks: Sequence[sdprobe.Observer]) -> Outcome:
    held = [run[hook].held_bytes for hook in hooks if isinstance(hook, sdprobe.AttentionMaps)]
    return Outcome(run.images, run.latents, sum(held) if held else None)
