"""`resume`: continue a run from one of its steps."""

from __future__ import annotations

from collections.abc import Sequence

from sdprobe.core.registry import Given
from sdprobe.core.run import Run, State
from sdprobe.model.denoiser.cache_states import has_caches
from sdprobe.model.diffusion.scheduler_copies import copied_scheduler
from sdprobe.model.fill_settings import changed
from sdprobe.observe.checkpoints import Checkpoints
from sdprobe.sampling.loop import loop


def resume(
    run: Run,
    step: int,
    *,
    hooks: Given = (),
    prompt: str | Sequence[str] | None = None,
    negative_prompt: str | Sequence[str] | None = None,
    guidance_scale: float | None = None,
    progress: bool = True,
) -> Run:
    """Continue a run that had a `Checkpoints` hook from one of its steps, with other hooks or another prompt.

    With no change, the result equals that of the run, bit for bit, under every scheduler. Steps keep their numbers: the
    first of the new run is ``step``. Hooks start without records of the earlier steps.

    >>> import sdprobe
    >>> run = sdprobe.sample(
    ...     sdprobe.load(), "a red circle", hooks=[sdprobe.Checkpoints()], steps=6, seed=0, progress=False
    ... )
    >>> again = sdprobe.resume(run, step=3, progress=False)
    >>> again, bool((again.latents == run.latents).all())
    (Run('a red circle', 1 image of 64×64, 6 steps of DDIMScheduler, guidance 7.5, seed 0, from step 3), True)
    >>> other = sdprobe.resume(run, step=3, prompt="a blue circle", progress=False)
    >>> bool((other.latents == run.latents).all())
    False

    Args:
        run: the run to continue.
        step: the first step of the new run.
        hooks: the hooks of the new run; those of the earlier run are not used.
        prompt: another text for all prompts of the run, or one each. None, here and below, means no change.
        negative_prompt: another text for all, or one each.
        guidance_scale: another scale.
        progress: show a progress bar.

    Raises:
        ValueError: if the run has no state of this step, for a wrong number of texts, and where a cache acts in the
            denoiser (`enable_cache`), which keeps what it needs of earlier steps to itself.
    """
    kept = [record for _, record in run.records if isinstance(record, Checkpoints)]
    if not kept:
        raise ValueError("this run kept nothing to go on from: give sample hooks=[sdprobe.Checkpoints()]")
    states: dict[int, State] = {index: state for record in kept for index, state in record.states.items()}
    if step not in states:
        raise ValueError(f"step {step} was not kept; kept: {', '.join(map(str, sorted(states))) or 'none'}")
    if step and has_caches(run.model.denoiser):
        raise ValueError(
            f"a cache acts in the denoiser, and what it had kept before step {step} is gone: resume the run from step "
            f"0, or without the cache"
        )
    settings = changed(run.settings, prompt, negative_prompt, guidance_scale)
    # Copied, because the loop changes the scheduler and the state may be used again.
    scheduler = copied_scheduler(states[step].scheduler)
    return loop(run.model, settings, hooks, scheduler, state=states[step], progress=progress)
