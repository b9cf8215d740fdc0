"""Laws of settings: batches, other sizes, schedulers, images to start from, dtypes and devices."""

from __future__ import annotations

import torch

from sdprobe.model.toy_model import other_levels
from sdprobe.testing.cleanup_laws import untouched
from sdprobe.testing.flat_records import numbers, same_run
from sdprobe.testing.law import Broken, law
from sdprobe.testing.trial import SIDE, DoesNotApply, Setting, Trial, Variant

ENDINGS = ("", " left of a star", " above a ring")
PROMPTS = Setting(endings=ENDINGS)
IMAGES = Setting({"images_per_prompt": 3}, endings=ENDINGS)
UNGUIDED = Setting({"guidance_scale": 1.0})
WIDE = Setting({"width": 2 * SIDE})
EULER = Setting({"scheduler": "EulerDiscrete"}, {"scheduler": other_levels()})
DDPM = Setting({"scheduler": "DDPM"}, {"scheduler": "FlowMatchLCM"})
PICTURE = Setting({"image": torch.full((1, 3, SIDE, SIDE), 0.5), "strength": 0.5, "steps": 4})
BFLOAT16 = Setting(variant=Variant(dtype=torch.bfloat16))
FLOAT16 = Setting(variant=Variant(dtype=torch.float16))
GPU = Setting(variant=Variant(device="cuda"))
TURNED = Setting(variant=Variant(with_roles_reversed=True))


@law()
def several_prompts(trial: Trial) -> None:
    """A run of three prompts."""
    _holds_in(trial, PROMPTS)


@law()
def several_images_of_each_prompt(trial: Trial) -> None:
    """A run of three images of each of three prompts."""
    _holds_in(trial, IMAGES)


@law()
def without_guidance(trial: Trial) -> None:
    """A run at guidance 1, which has no unconditional rows."""
    _holds_in(trial, UNGUIDED)


@law()
def not_square(trial: Trial) -> None:
    """An image that is wider than high."""
    _holds_in(trial, WIDE)


@law()
def another_scheduler(trial: Trial) -> None:
    """Euler's scheduler, whose latents grow with the noise; for a flow, other noise levels."""
    _holds_in(trial, EULER)


@law()
def a_scheduler_that_draws_noise(trial: Trial) -> None:
    """A scheduler that adds noise at every step: DDPM's, or for a flow that of latent consistency models."""
    _holds_in(trial, DDPM)


@law()
def from_a_picture(trial: Trial) -> None:
    """A run that starts from an image and takes only the last two of its four steps."""
    _holds_in(trial, PICTURE)


@law()
def in_bfloat16(trial: Trial) -> None:
    """A model in bfloat16."""
    _holds_in(trial, BFLOAT16)


@law()
def in_float16(trial: Trial) -> None:
    """A model in float16."""
    _holds_in(trial, FLOAT16)


@law()
def on_a_gpu(trial: Trial) -> None:
    """A model on a GPU."""
    if not torch.cuda.is_available():
        raise DoesNotApply("torch sees no GPU here")
    _holds_in(trial, GPU)


@law()
def goes_by_the_labels_of_rows(trial: Trial) -> None:
    """The hook finds conditional rows by step.rows: with the rows in reverse order its results are the same."""
    hook = trial.hook()
    if len(trial.alone.run.roles) == 1:
        raise DoesNotApply("all rows of this model are of one role, whichever way they stand")
    turned = trial.run(hook, setting=TURNED)
    if not _close(trial.alone.run.latents, turned.latents):
        raise Broken("with conditional rows before the unconditional ones, the run comes to other values")
    a, b = numbers(trial.alone.records), numbers(trial.records(turned, hook))
    if a.shape != b.shape or not _close(a, b):
        raise Broken("with conditional rows before the unconditional ones, it records other numbers")


@law()
def each_picture_as_if_alone(trial: Trial) -> None:
    """In a batch each image is what it is alone, from its own prompt and seed."""
    trial.transforms_only()
    if not isinstance(trial.prompt, str):
        raise DoesNotApply("it is given several prompts, one for the sake of another")
    hook = trial.hook()
    batch = trial.run(hook, setting=PROMPTS, seed=[0, 1, 2])
    for i, ending in enumerate(ENDINGS):
        alone = trial.run(hook, setting=Setting(endings=(ending,)), seed=[i])
        assert batch.latents is not None  # they have ended
        assert alone.latents is not None
        if not _close(batch.latents[i], alone.latents[0]):
            raise Broken(f"picture {i} of a batch is not what it is alone: what it does to one depends on the others")


def _holds_in(trial: Trial, setting: Setting) -> None:
    """The run ends, its latents are finite, an observer changes nothing, and the model is unchanged."""
    run = trial.run(trial.hook(), setting=setting)
    assert run.latents is not None  # it has ended
    if not run.latents.isfinite().all():
        raise Broken("the run ends in latents that are no numbers (infinite, or NaN)")
    if trial.observes and not same_run(run, trial.plain(setting)):
        raise Broken("with this observer the run comes to other values than without")
    untouched(trial, setting)


def _close(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    """Equal except for the last digits: kernels may round differently for another row of the batch."""
    assert a is not None
    assert b is not None
    return torch.allclose(a, b, rtol=1e-3, atol=1e-3, equal_nan=True)


LAWS = (
    several_prompts,
    several_images_of_each_prompt,
    without_guidance,
    not_square,
    another_scheduler,
    a_scheduler_that_draws_noise,
    from_a_picture,
    in_bfloat16,
    in_float16,
    on_a_gpu,
    goes_by_the_labels_of_rows,
    each_picture_as_if_alone,
)
