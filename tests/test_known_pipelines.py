"""Which of diffusers' text-to-image and text-to-video pipelines neither `load` nor a family of `attach` knows.

They are listed in ``text_pipelines_without_family.txt``. A new release of diffusers that brings one, and a new family
that knows one, make the list another; until it is, a test fails and says what to do.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import diffusers
import pytest
from packaging.version import Version

from sdprobe.model.loading import FAMILIES
from sdprobe.stock_pipelines.pipeline_listener import attached_names

LIST = Path(__file__).with_name("text_pipelines_without_family.txt")
SOURCE = Path(diffusers.__file__).parent / "pipelines"
FROM_MORE = re.compile(
    r"Img2Img|ImageToImage|I2I|I2V|Inpaint|Edit|Upscal|Control|Adapter|Depth|Pix2Pix|Variation|ImageToVideo|Image2Video|"
    r"VideoToVideo|SuperRes|Prior|Fill|Kontext|Decode|Refine|Onnx"
)
"""How classes are named that begin with more than a text, though their signature does not require it."""

FILES_FROM_MORE = re.compile(r"img2img|inpaint|edit|upscale|control|adapter|image2video|i2v|superres|onnx")
"""How their files are named, which need not be read."""

MADE = {"images": "picture", "image": "picture", "frames": "video", "video": "video"}
"""What a pipeline makes, by the names of what it returns."""


@cache
def text_pipelines() -> dict[str, str]:
    """What each text-to-image and text-to-video pipeline makes, by the class's name: read from its source, which is
    faster than to import all. Those that diffusers has put among its deprecated ones are left out."""
    classes = dict(_classes())
    automatic = _automatic()
    exported = set(dir(diffusers))
    found = {}
    for name, own in classes.items():
        if name not in exported or FROM_MORE.search(name) or (call := _call(own, classes)) is None:
            continue
        made = _made(call) or ("picture" if name in automatic else None)
        if made is not None and "prompt" in _arguments(call) and not _required(call) - {"prompt"}:
            found[name] = made
    return found


def _classes() -> Iterator[tuple[str, ast.ClassDef]]:
    for path in sorted(SOURCE.rglob("pipeline_*.py")):
        if "deprecated" not in path.parts and not FILES_FROM_MORE.search(path.stem):
            for own in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(own, ast.ClassDef) and own.name.endswith("Pipeline"):
                    yield own.name, own


def _automatic() -> set[str]:
    """The classes among which ``AutoPipelineForText2Image`` chooses."""
    tree = ast.parse((SOURCE / "auto_pipeline.py").read_text(encoding="utf-8"))
    tables = [
        own.value
        for own in tree.body
        if isinstance(own, ast.Assign) and getattr(own.targets[0], "id", "") == "AUTO_TEXT2IMAGE_PIPELINES_MAPPING"
    ]
    return {own.id for table in tables for own in ast.walk(table) if isinstance(own, ast.Name)}


def _call(own: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> ast.FunctionDef | None:
    for part in own.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__call__":
            return part
    bases = (classes.get(getattr(base, "id", "")) for base in own.bases)
    return next((call for base in bases if base is not None and (call := _call(base, classes)) is not None), None)


def _arguments(call: ast.FunctionDef) -> set[str]:
    return {own.arg for own in (*call.args.args, *call.args.kwonlyargs)}


def _required(call: ast.FunctionDef) -> set[str]:
    given = call.args.args[1 : len(call.args.args) - len(call.args.defaults)]
    return {own.arg for own in given}


def _made(call: ast.FunctionDef) -> str | None:
    returned = [own.value for own in ast.walk(call) if isinstance(own, ast.Return) and isinstance(own.value, ast.Call)]
    names = [key.arg for own in returned for key in own.keywords]
    return next((MADE[name] for name in ("frames", "video", "images", "image") if name in names), None)


def without_family() -> dict[str, str]:
    known = {*attached_names(), *(name for family in FAMILIES for name in family.pipelines)}
    return {name: made for name, made in text_pipelines().items() if name not in known}


def listed() -> tuple[Version, dict[str, str]]:
    """The version of diffusers that the list is of, and what is on it."""
    first, *lines = LIST.read_text(encoding="utf-8").splitlines()
    return Version(first.split()[-1]), dict(reversed(line.split(": ")) for line in lines)


def written(found: dict[str, str]) -> str:
    lines = sorted(f"{made}: {name}" for name, made in found.items())
    return "\n".join([f"# diffusers {diffusers.__version__}", *lines]) + "\n"


def test_pipelines_that_a_family_knows_are_found_by_what_they_are():
    found = text_pipelines()
    assert {"StableDiffusionPipeline", "FluxPipeline", "StableDiffusion3Pipeline", "PixArtAlphaPipeline"} <= {*found}
    assert found["WanPipeline"] == found["CogVideoXPipeline"] == "video"
    assert not {"StableDiffusionImg2ImgPipeline", "WanImageToVideoPipeline", "StableAudioPipeline"} & {*found}


def test_the_list_of_pipelines_without_a_family_is_that_of_the_installed_diffusers():
    version, known = listed()
    if Version(diffusers.__version__) < version:
        pytest.skip(f"the list is of diffusers {version}")
    now = without_family()
    new, gone = sorted(now.keys() - known.keys()), sorted(known.keys() - now.keys())
    assert not [*new, *gone], (
        f"{LIST.name} is not that of diffusers {diffusers.__version__}. New, and known to no family: "
        f"{', '.join(new) or 'none'}: write a family (docs/concepts/adding_a_family.md), or leave them to "
        f"attach, which takes any pipeline. No longer without one, since a family knows them or diffusers has them no "
        f"more: "
        f"{', '.join(gone) or 'none'}. Then write the list again: python -m tests.test_known_pipelines"
    )


if __name__ == "__main__":
    LIST.write_text(written(without_family()), encoding="utf-8")
