"""How far `detect` agrees with a person about a hundred pictures the model made, at rising scores.

python tests/benchmarks/judge.py            prints the table
python tests/benchmarks/judge.py --write    and writes it into the model card
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rendered_truth import CARD, write

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sdprobe.shapes.detect import detect
from sdprobe.shapes.evaluate import agreement
from tests.shapes.made import looked_at

MARKS = ("<!-- judge: begin -->", "<!-- judge: end -->")
SCORES = (0.0, 0.6, 0.8, 0.9, 0.95)


def table() -> str:
    """Precision and recall as a Markdown table."""
    pictures, there = looked_at()
    found = [detect(picture) for picture in pictures]
    lines = ["| | score from | precision | recall |", "|---|---|---|---|"]
    own = agreement(found, there, shapes=False)
    lines.append(f"| colour | any | {own.precision:.3f} | {own.recall:.3f} |")
    for score in SCORES:
        own = agreement(found, there, least=score)
        lines.append(f"| colour and shape | {score or 'any'} | {own.precision:.3f} | {own.recall:.3f} |")
    own = agreement(found, there)
    counts = f"{own.there} things with a shape there, {own.found} found, {own.right} of them rightly."
    return f"{len(pictures)} pictures looked at by hand: {counts}\n\n" + "\n".join(lines)


def main() -> None:
    """Print the table, and write it into the model card if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    printed = table()
    print(printed)
    if given.write:
        write(CARD, printed, MARKS)


if __name__ == "__main__":
    main()
