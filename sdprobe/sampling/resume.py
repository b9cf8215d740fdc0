"""`resume`: continue a run from one of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdprobe.core.given_hooks import Given
from sdprobe.core.run import Run, State
from sdprobe.core.torch_names import dtype_of
from sdprobe.core.written_scheduler import WrittenScheduler
from sdprobe.model.base import Model
from sdprobe.model.denoiser.cache_states import has_caches
from sdprobe.model.diffusion.revived_scheduler import revived
from sdprobe.model.diffusion.scheduler_copies import copied_scheduler
from sdprobe.model.fill_settings import changed
from sdprobe.model.loading import load
from sdprobe.observe.checkpoints import Checkpoints
from sdprobe.runs.saved.open_run import open_run
from sdprobe.sampling.loop import loop

USUAL = "float32"  # what a model is loaded in unless another dtype is given


def resume(
    run: Run | str | Path,
    step: int,
    *,
    model: Model | Any = None,
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

    A saved run is continued in another process, also on another day, with the same result:

    >>> import tempfile
    >>> folder = run.save(tempfile.mkdtemp())
    >>> bool((sdprobe.resume(folder, step=3, progress=False).latents == run.latents).all())
    True

    Args:
        run: the run to continue, or the folder of a saved one.
        step: the first step of the new run.
        model: the model, or its pipeline, for a run that has none, since it was saved or unpickled; None loads it from
            where the run's model was loaded, with the same dtype and to the same device.
        hooks: the hooks of the new run; those of the earlier run are not used.
        prompt: another text for all prompts of the run, or one each. None, here and below, means no change.
        negative_prompt: another text for all, or one each.
        guidance_scale: another scale.
        progress: show a progress bar.

    Raises:
        ValueError: if the run has no state of this step, for a wrong number of texts, and where a cache acts in the
            denoiser (`enable_cache`), which keeps what it needs of earlier steps to itself. For a run without a model:
            if none is given and it was made in memory, and if the weights are others than those of the run.
    """
    run = run if isinstance(run, Run) else open_run(run)
    kept = [record for _, record in run.records if isinstance(record, Checkpoints)]
    if not kept:
        raise ValueError("this run kept nothing to go on from: give sample hooks=[sdprobe.Checkpoints()]")
    states: dict[int, State] = {index: state for record in kept for index, state in record.states.items()}
    if step not in states:
        raise ValueError(f"step {step} was not kept; kept: {', '.join(map(str, sorted(states))) or 'none'}")
    own = _model_of(run, model)
    if step and has_caches(*own.denoisers.values()):
        raise ValueError(
            f"a cache acts in the denoiser, and what it had kept before step {step} is gone: resume the run from step "
            f"0, or without the cache"
        )
    settings = changed(run.settings, prompt, negative_prompt, guidance_scale)
    state = states[step].on(own.device)
    if isinstance(state.scheduler, WrittenScheduler):
        scheduler = revived(state.scheduler, own.device)
    else:
        # Copied, because the loop changes the scheduler and the state may be used again.
        scheduler = copied_scheduler(state.scheduler)
    return loop(own, settings, hooks, scheduler, state=state, progress=progress)


def _model_of(run: Run, given: Model | Any) -> Model:
    """Return the model to continue a run with. Raises ValueError if its weights are known to differ from the run's."""
    if given is None and "model" in vars(run):
        own: Model = run.model
        return own
    made_by = run.provenance
    if given is None and made_by.source is None:
        raise ValueError(f"this run was made by {made_by.model}, a pipeline made in memory: give it as model=")
    if given is None:
        dtype = None if made_by.dtype in (None, USUAL) else dtype_of(made_by.dtype)
        given = load(made_by.source, dtype=dtype, device=None if made_by.device == "cpu" else made_by.device)
    model = load(given)
    weights = (made_by.weights, model.provenance.weights)
    if None not in weights and len(set(weights)) > 1:
        raise ValueError(
            f"the weights of {model!r} are not those of the run, which was made by {made_by.model}: load what made it, "
            f"in its dtype {made_by.dtype}, with its LoRAs"
        )
    return model
