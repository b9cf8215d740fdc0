"""Every example runs: all of them in this process, since importing torch and diffusers takes longer than most.

What an example changes of the process is set back after it, so that each runs as it would alone. The slow ones took a
third of all tests, and the build of the documentation runs every example too: they are marked, and tried at night.
"""

import ast
import random
import re
import runpy
import time
from pathlib import Path

import diffusers
import matplotlib
import numpy as np
import pytest
import torch
import transformers
from matplotlib import pyplot
from transformers.utils import logging as transformers_logging

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("plot_*.py"))
SLOW = {
    "plot_02_clip",
    "plot_04_schedulers",
    "plot_07_film",
    "plot_08_guidance",
    "plot_09_inpainting",
    "plot_11_every_layer",
    "plot_12_self_attention",
    "plot_13_truth",
    "plot_14_inversion",
    "plot_15_token_swap",
    "plot_16_mixtures",
    "plot_17_diffusion_lens",
    "plot_18_textual_inversion",
    "plot_19_restart",
    "plot_20_blue_loss",
    "plot_21_clip_guidance",
    "plot_22_layout_box",
    "plot_23_attend_and_excite",
    "plot_24_guidance_family",
    "plot_25_patching",
    "plot_26_steering",
    "plot_27_probes",
    "plot_28_sae",
    "plot_29_keep_and_reopen",
    "plot_30_where_runs_part",
    "plot_31_is_the_map_causal",
    "plot_32_where_is_colour_kept",
    "plot_33_which_heads",
    "plot_34_which_method",
    "plot_35_prompt_to_prompt",
    "plot_36_edit_a_given_picture",
    "plot_37_regional_prompts",
    "plot_38_guidances_side_by_side",
    "plot_40_five_hooks",
    "plot_41_own_hook",
    "plot_42_own_checkpoint",
}
"""More than some seven seconds of one core each."""
RUNS = [pytest.param(path, id=path.stem, marks=[pytest.mark.gallery] if path.stem in SLOW else []) for path in EXAMPLES]
LIMIT = 60  # seconds of one core, so that a busy machine changes nothing: what the gallery promises of each


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A folder to run in; the process is afterwards as it was."""
    bars = [log for log in (diffusers.utils.logging, transformers_logging) if log.is_progress_bar_enabled()]
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    settings = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    style, hub = matplotlib.rcParams.copy(), (diffusers.logging.get_verbosity(), transformers.logging.get_verbosity())
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    yield tmp_path
    pyplot.close("all")
    matplotlib.rcParams.update(style)
    for log in bars:
        log.enable_progress_bar()
    diffusers.logging.set_verbosity(hub[0])
    transformers.logging.set_verbosity(hub[1])
    torch.set_num_threads(settings[0])
    torch.set_default_dtype(settings[1])
    torch.set_grad_enabled(settings[2])
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@pytest.fixture(scope="module")
def seconds(pytestconfig):
    """How long each example took; shown when the last has run."""
    spent = {}
    yield spent
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\ngallery: {len(spent)} examples in {sum(spent.values()):.0f} s of one core")
        for name, own in sorted(spent.items(), key=lambda item: -item[1]):
            print(f"  {own:5.1f} s  {name}")


def test_there_are_twenty_examples():
    assert len(EXAMPLES) >= 20


def test_slow_examples_are_examples():
    assert {path.stem for path in EXAMPLES} >= SLOW


@pytest.mark.parametrize("example", RUNS)
def test_example_runs(example, alone, seconds):
    begun = time.process_time()
    runpy.run_path(str(example), run_name="__main__")
    seconds[example.stem] = time.process_time() - begun
    assert seconds[example.stem] < LIMIT
    assert not list(alone.iterdir()), "an example leaves no files behind"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_a_story_with_a_picture(example):
    """A title, a line on what it is about, and cells: what the page in the gallery is made of."""
    text = example.read_text(encoding="utf-8")
    head, *cells = text.split("\n# %%\n")
    title, said = head.strip().strip('"').strip().split("\n", 1)
    assert title.startswith("# ")
    assert said.strip()
    assert len(cells) >= 3
    assert ".sheet(" in text or "figure" in text


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_names_one_panel_for_its_thumbnail(example):
    marked = [cell for cell in example.read_text("utf-8").split("\n# %%\n") if "thumbnail_panel" in cell]
    assert len(marked) == 1
    assert len(re.findall(r"^# mkdocs_gallery_thumbnail_panel = \d+$", marked[0], re.MULTILINE)) == 1
    assert isinstance(ast.parse(marked[0]).body[-1], ast.Expr), "the cell ends with the figure"
