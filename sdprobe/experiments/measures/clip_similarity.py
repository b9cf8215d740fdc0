"""`TextSimilarity` and `PictureSimilarity`: how near a picture is to a text, or to the untouched picture, by CLIP."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from sdprobe import clip as of_clip
from sdprobe.core.run import Run
from sdprobe.core.short_repr import short_repr
from sdprobe.experiments.case import Case
from sdprobe.experiments.measures.frames_of import frames_of
from sdprobe.model.clip_model import Clip, given_or_embedded


@dataclass(frozen=True)
class TextSimilarity:
    """The cosine between a picture and a text in CLIP's space; of a video, the mean over its frames.

    >>> import sdprobe
    >>> case = Case("a red circle", words={"shape": "circle"})
    >>> run = sdprobe.sample(sdprobe.load(), case.prompt, steps=4, seed=0, progress=False)
    >>> TextSimilarity()(run, run, case) > TextSimilarity("a blue {shape}")(run, run, case)
    True

    Args:
        text: the text, in which ``"{...}"`` is a word of the case; None for the case's prompt.
        clip: a folder or a hub id, as `sdprobe.clip.load` takes it; None for the embedded model's CLIP.

    Raises TypeError for a CLIP that is loaded already: a measure names it, so that it can be sent to other processes.

    Source: Radford et al. 2021, section 2; as a measure of pictures Hessel et al. 2021, "CLIPScore", eq. 1, of which
    this is the cosine alone.
    """

    text: str | None = None
    clip: str | Path | None = None

    def __post_init__(self) -> None:
        _refuse_loaded(self.clip)

    @property
    def name(self) -> str:
        return _named("text similarity", self.text, self.clip)

    def __call__(self, run: Run, untouched: Run, case: Case) -> float:
        text = case.prompt if self.text is None else case.fill(self.text)
        with torch.inference_mode():
            return float(of_clip.similarity(list(frames_of(run)), text, clip=_loaded(self.clip)).cosine.mean())


@dataclass(frozen=True)
class PictureSimilarity:
    """The cosine between a picture and the untouched picture in CLIP's space; 1 for the same picture.

    Of a video it is the mean over its frames, each with the untouched frame of the same time.

    >>> import sdprobe
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", steps=2, seed=0, progress=False)
    >>> round(PictureSimilarity()(run, run), 4)
    1.0

    Args:
        clip: as for `TextSimilarity`.

    Source: Radford et al. 2021, section 2.
    """

    clip: str | Path | None = None

    def __post_init__(self) -> None:
        _refuse_loaded(self.clip)

    @property
    def name(self) -> str:
        return _named("picture similarity", None, self.clip)

    def __call__(self, run: Run, untouched: Run) -> float:
        with torch.inference_mode():
            ones, others = (_loaded(self.clip).image_features(list(frames_of(own))) for own in (run, untouched))
        return float((ones * others).sum(-1).mean())


def _named(what: str, text: str | None, clip: str | Path | None) -> str:
    details = [repr(text)] * (text is not None) + [str(clip)] * (clip is not None)
    return f"{what} ({', '.join(details)})" if details else what


def _refuse_loaded(clip: Any) -> None:
    if not isinstance(clip, (str, Path, type(None))):
        raise TypeError(
            f"a measure names its CLIP, so that it can be sent to other processes: a folder, a hub id, or None for "
            f"the embedded model's, not {short_repr(clip)}"
        )


@lru_cache(maxsize=2)
def _loaded(clip: str | Path | None) -> Clip:
    return given_or_embedded(clip)
