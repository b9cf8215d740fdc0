"""A hundred pictures the model made, and what a person saw in them.

`data/made.png` holds them in rows of ten, `data/made.json` the caption of each, whether the weights of before or after
the last training made it, and each thing in it by colour and shape; `null` is a thing that is none of the six shapes,
or where one cannot tell. Half have one object, half two; the captions are held out, 25 steps, guidance 5. They were
looked at enlarged, without captions and before any detector had seen them. Shapes that touch count one by one; a sliver
at the edge does not count. Nothing in `detect` was chosen by them.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from sdprobe.shapes import drawing

DATA = Path(__file__).parent / "data"


def cut(name: str) -> list[drawing.Image]:
    """The pictures of a sheet, row by row."""
    sheet = np.asarray(Image.open(DATA / name).convert("RGB"))
    size = drawing.SIZE
    return [
        sheet[y : y + size, x : x + size] for y in range(0, len(sheet), size) for x in range(0, sheet.shape[1], size)
    ]


def looked_at() -> tuple[list[drawing.Image], list[list[tuple[str, str | None]]]]:
    """The hundred pictures, and what is in each."""
    notes = json.loads((DATA / "made.json").read_text())
    return cut("made.png"), [[(colour, shape) for colour, shape in own["seen"]] for own in notes]
