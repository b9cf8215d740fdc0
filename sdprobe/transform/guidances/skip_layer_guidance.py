"""`SkipLayerGuidance`: guidance away from a prediction with some blocks skipped."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sdprobe.core.hook import Transform, patterns
from sdprobe.core.run import Run
from sdprobe.core.step import Step
from sdprobe.transform.guidances.guidance import Guidance, Scale
from sdprobe.transform.guidances.skip_blocks import SkipBlocks, blocks_of


class SkipLayerGuidance(Transform):
    """SLG: guide away from the denoiser's output with some blocks skipped: x + scale · (cond − skipped).

    A skipped block gives what it was given, in the streams of image and text. This needs no unconditional rows, and
    adds to classifier-free guidance if there is any. In every guided step, the denoiser is called once more, for the
    conditional rows; the run's other transforms act in this call too, but not on what a skipped block gives, and its
    observers do not see it.

    With classifier-free guidance it equals the guider of diffusers, `SkipLayerGuidance`, bit for bit. Without, that
    adds scale − 1 times the difference, unless it has ``use_original_formulation=True``. By default that guider acts
    from 1% to 20% of the steps; here `sdprobe.only` limits the steps:

    >>> import sdprobe
    >>> model, settings = sdprobe.load(), {"steps": 4, "guidance_scale": 3.0, "seed": 0, "progress": False}
    >>> early = sdprobe.only(sdprobe.SkipLayerGuidance(2.8, modules="up_blocks.1.*"), steps=range(2))
    >>> run = sdprobe.sample(model, "a red circle", hooks=[early], **settings)
    >>> off = sdprobe.sample(model, "a red circle", hooks=[sdprobe.SkipLayerGuidance(0)], **settings)
    >>> plain = sdprobe.sample(model, "a red circle", **settings)
    >>> bool((run.latents == plain.latents).all()), bool((off.latents == plain.latents).all())
    (False, True)

    Args:
        scale: 0 changes nothing, exactly, and makes no call. One number, one for each call of the denoiser, or a
            function of the `Step`. Usual for Stable Diffusion 3.5 medium is 2.8, in steps from 1% to 20%.
        modules: which transformer blocks are skipped: patterns on their dotted names, such as
            ``["transformer_blocks.7", "transformer_blocks.8", "transformer_blocks.9"]``, as for Stable Diffusion 3.5
            medium. None is the middle: those in the middle block of a U-Net, the middle one of a transformer.

    Raises:
        ValueError: for a pattern that matches no transformer block, and if the number of scales is not the number of
            steps.

    Source: Hyung et al. 2024, "Spatiotemporal Skip Guidance for Enhanced Video Diffusion Sampling", section 4;
    Stability AI's reference code of Stable Diffusion 3.5.
    """

    def __init__(self, scale: Scale = 2.8, modules: str | Sequence[str] | None = None) -> None:
        self.scale = Guidance(scale).scale
        self.modules = patterns(modules)

    def start(self, run: Run) -> None:
        self._blocks = blocks_of(run, self.modules)

    def noise_pred(self, x: Tensor, step: Step) -> Tensor:
        scale = Guidance(self.scale).at(step)
        if not scale:
            return x
        assert step.model_output is not None  # at noise_pred there is one
        skipped = step.predict(step.latents, SkipBlocks(self._blocks), role="cond")
        return x + scale * (step.model_output[step.rows_of("cond")] - skipped)
