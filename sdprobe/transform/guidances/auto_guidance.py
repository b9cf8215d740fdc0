"""`AutoGuidance`: guidance away from what a weaker model predicts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sdprobe.core.hook import Transform, patterns
from sdprobe.core.run import Run
from sdprobe.core.step import Step
from sdprobe.transform.guidances.guidance import Guidance, Scale
from sdprobe.transform.guidances.skip_blocks import SkipBlocks, blocks_of

DROPOUT = 0.1

TOLD = (
    "in_channels",
    "cross_attention_dim",
    "joint_attention_dim",
    "caption_channels",
    "pooled_projection_dim",
    "projection_class_embeddings_input_dim",
    "time_cond_proj_dim",
    "guidance_embeds",
)
"""What two networks must have in common to be given the same arguments."""


class AutoGuidance(Transform):
    """Guide away from the prediction of a weaker model for the same prompt: x + (scale − 1) · (cond − weak).

    The weaker model is another one, smaller or trained for a shorter time; or the same one with dropout in some of its
    blocks. It makes the same errors, but larger ones. This needs no unconditional rows: at ``guidance_scale=1`` it is
    the paper's weak + scale · (cond − weak), and it adds to classifier-free guidance if there is any. In every guided
    step, the weaker model is called once, for the conditional rows. With dropout, the run's other transforms act in
    this call too; its observers do not see it.

    The guider of diffusers gives its weak model the negative prompt, in place of the prompt, and drops twice, also in
    the blocks' feed-forward layers. On the same two predictions it gives the same, up to rounding.

    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 4, "guidance_scale": 1.0, "seed": 0, "progress": False}
    >>> away = sdprobe.AutoGuidance(2.0, modules="up_blocks.1.*", dropout=0.2)
    >>> run, again = (sdprobe.sample(model, "a red circle", hooks=[away], **settings) for _ in range(2))
    >>> plain = sdprobe.sample(model, "a red circle", **settings)
    >>> bool((run.latents == plain.latents).all()), bool((run.latents == again.latents).all())
    (False, True)

    Args:
        scale: 1 changes nothing, exactly, and makes no call. One number, one for each call of the denoiser, or a
            function of the `Step`.
        weaker: the weaker model, the result of `sdprobe.load`, of the same family; it gets the run's latents and prompt
            embeddings. None for the model itself, with dropout.
        modules: the transformer blocks with dropout: patterns on their dotted names. None is the middle: those in the
            middle block of a U-Net, the middle one of a transformer.
        dropout: the probability with which each number that these blocks give is dropped; 1 skips the blocks, as
            `SkipLayerGuidance` does. None for 0.1.
        seed: of the dropout. What is dropped is the same for every image, and differs from step to step.

    Raises:
        ValueError: for modules or dropout with a weaker model, a dropout outside (0, 1], a pattern that matches no
            block, a weaker model that cannot be given the same, and if the number of scales is not the number of steps.
        TypeError: for a weaker model that is none.

    Source: Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself", section 4 and eq. 3; dropout
    in the model itself is one of its synthetic degradations.
    """

    def __init__(
        self,
        scale: Scale = 2.0,
        weaker: Any = None,
        *,
        modules: str | Sequence[str] | None = None,
        dropout: float | None = None,
        seed: int = 0,
    ) -> None:
        if weaker is not None and (modules is not None or dropout is not None):
            raise ValueError("with a weaker model there is no dropout: give weaker=, or modules= and dropout=")
        if weaker is not None and not hasattr(weaker, "denoiser"):
            raise TypeError(f"weaker is the result of sdprobe.load, not {weaker!r:.80}")
        if dropout is not None and not 0 < dropout <= 1:
            raise ValueError(f"dropout is above 0 and up to 1, not {dropout}")
        self.scale, self.weaker = Guidance(scale).scale, weaker
        self.modules, self.dropout, self.seed = patterns(modules), dropout, seed

    def start(self, run: Run) -> None:
        if self.weaker is None:
            self._blocks = blocks_of(run, self.modules)
        elif isinstance(self.weaker, str):
            raise ValueError(f"a pickle holds no model: give this hook its weaker model again, {self.weaker}")
        else:
            _refuse_other(self.weaker, run.model)

    def __copy__(self) -> AutoGuidance:
        vars(copied := object.__new__(type(self))).update(vars(self))
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> AutoGuidance:
        memo[id(self.weaker)] = self.weaker  # the same model, as a copy of a run has the same
        memo[id(self)] = copied = object.__new__(type(self))
        vars(copied).update({name: copy.deepcopy(value, memo) for name, value in vars(self).items()})
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a pickle, which holds no model: as a run does, it keeps the weaker model's name."""
        return vars(self) | {"weaker": None if self.weaker is None else repr(self.weaker)}

    def noise_pred(self, x: Tensor, step: Step) -> Tensor:
        scale = Guidance(self.scale).at(step)
        if scale == 1:
            return x
        assert step.model_output is not None  # at noise_pred there is one
        if self.weaker is None:
            dropped = SkipBlocks(self._blocks, DROPOUT if self.dropout is None else self.dropout, self.seed)
            weak = step.predict(step.latents, dropped, role="cond")
        else:
            weak = step.predict(step.latents, role="cond", by=self.weaker)
        return x + (scale - 1) * (step.model_output[step.rows_of("cond")] - weak)


def _refuse_other(weaker: Any, model: Any) -> None:
    """Refuse a weaker model that predicts something else, or that cannot be given the same arguments."""
    if weaker.denoiser is model.denoiser:
        raise ValueError("the weaker model is the run's own: give another, or none, with dropout")
    said = {
        "family": [type(own).__name__ for own in (model, weaker)],
        "prediction type": [own.pipe.scheduler.config.get("prediction_type") for own in (model, weaker)],
        "dtype": [own.denoiser.dtype for own in (model, weaker)],
        "device": [own.device for own in (model, weaker)],
        **{name: [own.denoiser.config.get(name) for own in (model, weaker)] for name in TOLD},
    }
    for name, (own, other) in said.items():
        if own != other:
            raise ValueError(
                f"the weaker model is given the run's own latents and prompt embeddings, but its {name} is {other}, "
                f"and that of the run's model {own}"
            )
