"""`mask_cases`: pictures with masks of what words stand for, from a folder in the layout of COCO-Gen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from sdprobe.attributions.target import Target
from sdprobe.core.run import Run
from sdprobe.experiments.case import Case
from sdprobe.experiments.measures.mask_on_grid import mask_on_grid

ENDING = ".gt.png"


@dataclass(frozen=True)
class DrawnMask:
    """The mask of a word that lies as ``WORD.gt.png`` beside the picture of the case.

    A picture with transparency is a mask where it is not transparent, as COCO-Gen's are; any other, where it is not
    black.

    Args:
        word: the word; ``"{...}"`` is a word of the case.
        files: a hash of the files, so that scores kept in a folder are not taken for those of other masks.
    """

    word: str
    files: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        return f"the mask of {self.word}"

    def mask(self, run: Run, untouched: Run, case: Case) -> Bool[Tensor, "h w"] | None:
        """Return the mask at the size of the run's picture; None if there is no file of this word."""
        path = Path(case.image).parent / f"{case.fill(self.word)}{ENDING}"
        if not path.is_file():
            return None
        with Image.open(path) as drawn:
            transparent = "A" in drawn.getbands() or "transparency" in drawn.info
            shown = np.array(drawn.convert("RGBA").getchannel("A") if transparent else drawn.convert("L")) > 0
        picture = untouched.images[0]
        return mask_on_grid(torch.tensor(shown), (picture.height, picture.width))


def mask_cases(folder: str | Path) -> tuple[list[Case], list[Target]]:
    """Return the pictures of a folder as cases, with the targets that fit them.

    Each picture is a folder with ``prompt.txt``, ``output.png``, and a mask ``WORD.gt.png`` for each of some words of
    the prompt, as in COCO-Gen (Tang et al. 2023). Give `evaluate_attributions` the model as
    `sdprobe.experiments.given_pictures`, which inverts the pictures.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> home = Path(tempfile.mkdtemp()) / "452"
    >>> home.mkdir()
    >>> _ = (home / "prompt.txt").write_text("a kitchen with a sink")
    >>> Image.new("RGB", (64, 64)).save(home / "output.png")
    >>> Image.new("RGBA", (64, 64), "white").save(home / "sink.gt.png")
    >>> cases, targets = mask_cases(home.parent)
    >>> cases, targets[0].fits(cases[0])
    ([Case(prompt='a kitchen with a sink', ... words=mappingproxy({'word 1': 'sink'}))], True)

    Raises:
        FileNotFoundError: if there is no picture in such a folder.
        ValueError: for a picture without a prompt, or without a mask.
    """
    home, files = Path(folder), hashlib.sha256()
    found = []
    for picture in sorted(home.glob("*/output.png")):
        own = picture.parent
        words = sorted(path.name.removesuffix(ENDING) for path in own.glob(f"*{ENDING}"))
        told = own / "prompt.txt"
        prompt = told.read_text(encoding="utf-8-sig", errors="replace").strip() if told.is_file() else ""
        if not words or not prompt or "\ufffd" in prompt:
            raise ValueError(f"{str(picture)!r} has no mask WORD{ENDING} and prompt.txt, a text in UTF-8, beside it")
        for word in words:
            files.update(hashlib.sha256((own / f"{word}{ENDING}").read_bytes()).digest())
        named = {f"word {k}": word for k, word in enumerate(words, 1)}
        found.append(Case(prompt, image=picture, words=named))
    if not found:
        raise FileNotFoundError(f"there is no folder with an output.png in {str(home)!r}")
    most = max(len(case.words) for case in found)
    words = [f"{{word {k}}}" for k in range(1, most + 1)]
    return found, [Target(word, DrawnMask(word, files.hexdigest())) for word in words]
