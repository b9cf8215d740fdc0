"""`CutGuidance`: steps without unconditional rows."""

from __future__ import annotations

from torch import Tensor

from sdprobe.core.hook import Transform
from sdprobe.core.run import Run
from sdprobe.core.step import Step


class CutGuidance(Transform):
    """Leave the unconditional rows out of every step, so that the denoiser is not asked for them.

    The conditional output is the noise prediction, as with `Guidance(1.0)`, at half the time. Say which steps with
    `sdprobe.only`. It equals diffusers' own cut-off, a callback that takes the rows away, bit for bit; and
    ``Guidance(1.0)`` up to rounding, as a kernel may round a smaller batch in another way.

    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 6, "guidance_scale": 5.0, "seed": 0, "progress": False}
    >>> cut = sdprobe.only(sdprobe.CutGuidance(), steps=range(3, 6))
    >>> roles = []
    >>> watch = sdprobe.watch("model_output", lambda x, step: roles.append([row.role for row in step.rows]))
    >>> run = sdprobe.sample(model, "a red circle", hooks=[cut, watch], **settings)
    >>> roles[2:4]
    [['uncond', 'cond'], ['cond']]

    Raises:
        ValueError: in a run without guidance, and for a hook that is limited to some of the images; in a step, if the
            denoiser has a cache of diffusers, and in an attached pipeline that calls its denoiser for each role by
            itself, as Flux does.

    Source: Kynkäänniemi et al. 2024, "Applying Guidance in a Limited Interval", section 3.
    """

    def start(self, run: Run) -> None:
        if "uncond" not in run.roles:
            raise ValueError(
                f"there is no guidance to cut: {type(run.model).__name__} at guidance_scale "
                f"{run.settings.guidance_scale:g} is not asked what it says without the prompt"
            )

    def latents(self, x: Tensor, step: Step) -> Tensor:
        if "uncond" in step.roles:
            step.leave_out("uncond")
        return x
