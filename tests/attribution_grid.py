"""Families × methods of attribution on planted truth: which map is the planted patch, and why others cannot be made."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path

import sdprobe
from sdprobe import attributions
from tests.families import FAMILIES
from tests.planted import latents_for
from tests.planted_families import Marked, planted
from tests.planted_outputs import Placed, let_through, plant_concepts, plant_self_attention, plant_word
from tests.test_planted_families import masks

PROMPT, WORD, OTHER = "a red circle", "circle", "ring"
SETTINGS = {"steps": 2, "guidance_scale": 4.0, "height": 16, "width": 24, "seed": 0, "progress": False}
PACKAGE = str(Path(sdprobe.__file__).parent)
GRADIENTS = ("gradient", "gradient_x_input", "integrated")
ESTIMATES = ("rise",)
"""Of these the map is highest at the patch; of the others, cut in the middle, it is the patch."""


def method_for(name: str, model: sdprobe.Model) -> attributions.Attribution:
    """The method with the arguments that it needs."""
    if name == "heads":
        sites = [own for own, module in model.modules.items() if model.attention_kind(module) in ("cross", "joint")]
        return attributions.Heads([(sites[-1], 0), (sites[-1], 1)])
    config = {"rise": {"masks": 24}, "integrated": {"points": 2}, "ovam": {"context": "a {}"}}.get(name, {})
    if model.network == "unet" and name in GRADIENTS:
        config["modules"] = "up_blocks.*"  # strides leave out every other place of the blocks before
    return attributions.create(name, **config)


def tried(family: str, name: str) -> str | None:
    """Why a method cannot be used in a family; None if the map of the planted word is the planted patch.

    Raises AssertionError if it is not, and any error that is no refusal in words.
    """
    model = planted(FAMILIES[family]())
    position = model.read(PROMPT).positions(WORD)[-1]  # where encoders stand side by side, of the last of them
    if name == "output_space":
        plant_concepts(model, WORD, OTHER)
    elif name == "ovam" or name == "ovam":
        plant_word(model, WORD)
    elif name == "self_refined":
        plant_self_attention(model)
    elif name == "rise" or name in GRADIENTS:
        let_through(model)
    mask = masks()[0]
    placed = [Placed(latents_for([mask])), Marked(position)]
    try:
        method = method_for(name, model)
        words = [WORD, OTHER] if name == "output_space" else [WORD]
        run = sdprobe.sample(model, PROMPT, hooks=[*placed, method.hooks(words)], **SETTINGS)
        heat = method.heat_map(run, WORD)
    except ValueError as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        if not last.startswith(PACKAGE):
            raise
        return str(error)
    fitted = heat.resize((8, 12), "nearest")
    assert fitted.points_into(mask), (family, name)
    assert name in ESTIMATES or fitted.iou(mask, 0.5) == 1, (family, name)
    return None


def attribution_grid(families: tuple[str, ...]) -> Mapping[str, Mapping[str, str | None]]:
    """Every method of the package in every family."""
    ours = [name for name, package in attributions.methods().items() if package == "sdprobe"]
    return {name: {family: tried(family, name) for family in families} for name in ours}
