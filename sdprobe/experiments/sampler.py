"""`sampler_of`, `attached`: what makes the pictures of an experiment: a model's loop, or a stock pipeline's own."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from sdprobe.core.compose import Hook
from sdprobe.core.prompt import Prompt
from sdprobe.core.run import Run
from sdprobe.experiments.case import Case
from sdprobe.experiments.case_runner import SampleSettings
from sdprobe.experiments.description import describe, fingerprint
from sdprobe.model.base import Model
from sdprobe.model.loading import FAMILIES, load
from sdprobe.model.weights_hash import source_of
from sdprobe.sampling.loop import sample
from sdprobe.stock_pipelines.attach import attach
from sdprobe.stock_pipelines.call_arguments import CallArguments
from sdprobe.stock_pipelines.pipeline_listener import attachable
from sdprobe.stock_pipelines.prompts_read import read_prompts


@dataclass(frozen=True, eq=False)
class OwnLoop:
    """Pictures by `sdprobe.sample`."""

    model: Model

    @property
    def identity(self) -> str:
        """What tells the model from another: its class, and a hash of its weights."""
        return identity_of(self.model)

    def read(self, case: Case) -> Prompt:
        return self.model.read(case.prompt)

    def sample(self, cases: Sequence[Case], hooks: Sequence[Hook], settings: SampleSettings) -> Run:
        return sample(
            self.model,
            [own.prompt for own in cases],
            negative_prompt=_negative(cases),
            seed=[own.seed for own in cases],
            image=None if cases[0].image is None else [opened(own.image) for own in cases],
            strength=cases[0].strength,
            hooks=list(hooks),
            progress=False,
            **settings,
        )


@dataclass(frozen=True, eq=False)
class AttachedPipeline:
    """A stock pipeline, whose own loop makes the pictures (`attached`).

    Attributes:
        alone: whether each condition must be a call of its own. The pictures of one call may share what each would draw
            from its own generator, such as the noise of a masked picture, in pipelines for more than texts; of those
            for texts it is known that they do not.
    """

    pipe: Any
    arguments: Mapping[str, Any] = field(default_factory=dict)
    model: Model = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", attachable(self.pipe))

    @property
    def alone(self) -> bool:
        of_texts = {name for family in FAMILIES for name in family.pipelines}
        return not any(kind.__name__ in of_texts for kind in type(self.pipe).__mro__)

    @property
    def identity(self) -> str:
        """What tells the pipeline from another: its class and arguments, and a hash of its weights."""
        return f"{type(self.pipe).__name__}({describe(self.arguments)}) {identity_of(self.model)}"

    def read(self, case: Case) -> Prompt:
        """Return the prompt as the call reads it: beside its pictures, in as many tokens as it asks for."""
        call = CallArguments.of(self.pipe, (), self._call([case], {})).bound.arguments
        reader = copy.copy(self.model)
        reader.asked = reader.asked_of(call)
        return read_prompts(reader, call, "prompt")[0]

    def sample(self, cases: Sequence[Case], hooks: Sequence[Hook], settings: SampleSettings) -> Run:
        call = self._call(cases, settings)
        shown = getattr(self.pipe, "_progress_bar_config", {})
        self.pipe.set_progress_bar_config(**shown | {"disable": True})  # the sweep has a bar of its own
        try:
            with seeded(cases[0].seed), attach(self.pipe, list(hooks)) as run:
                self.pipe(**call)
        finally:
            self.pipe.set_progress_bar_config(**shown)
        return run

    def _call(self, cases: Sequence[Case], settings: SampleSettings) -> dict[str, Any]:
        """Return the arguments of the call that makes one image of each case."""
        said: dict[str, Any] = dict(settings)
        if said.pop("scheduler", None) is not None:
            raise ValueError("an attached pipeline has its own scheduler: set pipe.scheduler instead")
        if "steps" in said:
            said["num_inference_steps"] = said.pop("steps")
        if "frames" in said:
            said["num_frames"] = said.pop("frames")
        if "guidance_scale" in said and self.model.guidance_argument != "guidance_scale":
            said[self.model.guidance_argument] = scale = said.pop("guidance_scale")
            if scale > 1 and "negative_prompt" not in self.arguments:
                said["negative_prompt"] = [""] * len(cases)  # without one such a pipeline does not guide
        if cases[0].image is not None:
            said["image"] = [opened(own.image) for own in cases]
        if cases[0].strength is not None:
            said["strength"] = cases[0].strength
        if (negative := _negative(cases)) is not None:
            said["negative_prompt"] = negative
        # A pipeline wants as many texts as prompts.
        texts = {
            name: [own] * len(cases)
            for name, own in self.arguments.items()
            if isinstance(own, str) and "prompt" in name
        }
        if twice := sorted(said.keys() & self.arguments.keys()):
            raise ValueError(
                f"{twice[0]} was given to `attached`, and again by the settings or the cases of the experiment: give "
                f"it once"
            )
        generators = [torch.Generator().manual_seed(own.seed) for own in cases]
        prompts = [own.prompt for own in cases]
        return {"prompt": prompts, "generator": generators, **said, **self.arguments, **texts}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """While this is open, what is drawn without a generator is that of a seed.

    Later draws, on the CPU and on CUDA devices, are as if it had not been.

    A pipeline may draw so, as that of Stable Diffusion 3 with a ControlNet, whose picture is a draw of its autoencoder.
    """
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def attached(pipe: Any, **arguments: Any) -> AttachedPipeline:
    """Return a stock pipeline as the model of an experiment: its own loop runs, with `sdprobe.attach`.

    >>> import sdprobe
    >>> from sdprobe import experiments
    >>> model = experiments.attached(sdprobe.load().pipe)
    >>> blank = {"no text": [("scale-prompt", {"factor": 0.0})]}
    >>> measures = {"mean": lambda run: run.latents.mean()}
    >>> experiments.experiment(model, ["a red circle"], blank, measures, steps=2, progress=False).rows[0]["condition"]
    'untouched'

    Args:
        pipe: a pipeline that `sdprobe.attach` takes and whose family is known. Of those for more than a text, such as
            inpainting and ControlNets, each condition is a call of its own, as with ``batch=1``.
        arguments: further arguments of its call, such as ``eta=1.0`` or ``prompt_2="..."``, a text for every case.
    """
    return AttachedPipeline(pipe, arguments)


def sampler_of(model: Any) -> OwnLoop | AttachedPipeline:
    """Return what makes the pictures, of a model, a live pipeline, an `attached` one, or a function that makes one."""
    given = model() if is_function(model) else model
    if isinstance(given, (OwnLoop, AttachedPipeline)):
        return given
    return OwnLoop(given if isinstance(given, Model) else load(given))


def is_function(model: Any) -> bool:
    """Whether a model is given as a function that makes it. A pipeline can be called too, and is none."""
    return (
        callable(model) and not isinstance(model, (Model, OwnLoop, AttachedPipeline)) and not hasattr(model, "config")
    )


def identity_of(model: Model) -> str:
    """Return what tells a model from another: its weights, its scheduler, and the settings of its pipeline and parts.

    Among these are FreeU's, and not the names that anything was loaded by, nor the versions that it was saved with.
    Of weights that cannot be read it is the name of what was loaded.
    """
    pipe = model.pipe
    if (weights := model.provenance.weights or source_of(pipe)) is None:
        raise ValueError(
            "the weights of this model cannot be read, as where they are offloaded, and it was not loaded by name: it "
            "cannot be told from another. Load it by name, or do without a folder and an executor"
        )
    # The parts are in the weights, and the name is no matter.
    plain = {name: own for name, own in pipe.config.items() if not isinstance(own, (tuple, list)) and name[0] != "_"}
    parts = {}
    for part, own in sorted(pipe.components.items()):
        if hasattr(own, "config") and part != "scheduler":
            blocks = getattr(own, "up_blocks", None) or ()
            free = [[getattr(block, name, None) for name in ("s1", "s2", "b1", "b2")] for block in blocks]
            parts[part] = {"config": _lasting(own.config), "FreeU": free}
    rest = fingerprint(describe({"scheduler": pipe.scheduler, "pipeline": plain, "parts": parts}))[:16]
    return f"{type(model).__name__} {weights} {rest}"


def _lasting(config: Any) -> Any:
    """A configuration without what another load, or another version that loads it, may write otherwise."""
    if hasattr(config, "to_dict"):
        config = config.to_dict()
    if isinstance(config, Mapping):  # the dtype is in the weights
        passing = ("transformers_version", "architectures", "dtype", "torch_dtype")
        kept = {str(key): own for key, own in config.items() if key not in passing and str(key)[:1] != "_"}
        return {key: _lasting(own) for key, own in kept.items()}
    return [_lasting(own) for own in config] if isinstance(config, (list, tuple)) else config


def _negative(cases: Sequence[Case]) -> list[str] | None:
    given = [own.negative_prompt for own in cases]
    return None if None in given else given  # type: ignore[return-value]


def opened(image: Any) -> Any:
    """Return a picture in RGB, of a picture or a path."""
    return (image if isinstance(image, Image.Image) else Image.open(image)).convert("RGB")
