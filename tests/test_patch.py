"""`Patch`: another run's activations in the place of this run's; a run patched into itself stays as it was."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
import torch

import sdprobe
from sdprobe.core.activations.record import ActivationRecord
from sdprobe.core.limits.only import only
from sdprobe.observe.activations import Activations
from sdprobe.transform.patch import Patch
from tests.families import FAMILIES
from tests.laws.strategies import run, same_run, seen

TOKENS = "up_blocks.2.attentions.1.transformer_blocks.0.attn2"
MAP = "up_blocks.1.resnets.0"
ENDS = ("conv_in", "mid_block", MAP, TOKENS, "up_blocks.2.attentions.1", "conv_out")
JOINT = ("Stable Diffusion 3.5", "Flux.1 dev")
SIDES = ("input", "output")
BLUE, RED = {"prompt": "a blue circle"}, {"prompt": "a red circle"}
TWO = {"prompt": ["a blue circle", "a green star"], "seed": [0, 1]}


def at(name, side="output"):
    looking = seen("activation")
    looking.modules, looking.sides = (name,), (side,)
    return looking


def recorded(model, modules, given, **kept):
    return run(model, Activations(modules, **kept), **given)


@pytest.mark.parametrize("name", [*ENDS, "down_blocks.0", "time_embedding"])
@pytest.mark.parametrize("side", ["output", "input"])
def test_a_run_patched_into_itself_stays_the_same(embedded, name, side):
    source = recorded(embedded, name, TWO, sides=(side,))
    assert same_run(source, run(embedded, **TWO))
    assert same_run(run(embedded, Patch(source, name, sides=side), **TWO), source)


class Seen(sdprobe.Observer):
    """Every tensor of every module: whether its first axis is the rows."""

    modules, sides = ("*", "text_encoder*", "vae.*"), ("input", "output")

    def start(self, run):
        self.has_rows = {}

    def activation(self, x, site):
        of = self.has_rows.setdefault((site.name, site.side), {})
        of[site.stream] = of.get(site.stream, True) and len(x) == len(site.rows)


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "Stable Diffusion XL", *JOINT, "PixArt-Σ"])
def test_so_it_does_at_every_tensor_of_every_module(family):
    """But those whose first axis is not the rows, such as rotary embeddings, of which no row can be told."""
    model, size = sdprobe.load(FAMILIES[family]()), {"height": 16, "width": 16}
    all_of = run(model, looking := Seen(), **size)[looking].has_rows
    part = dict.fromkeys(name for (name, _), of in all_of.items() if not all(of.values()))
    whole = [name for name in dict.fromkeys(name for name, _ in all_of) if name not in part]
    blocks = [of for (name, _), of in all_of.items() if fnmatchcase(name, "*transformer_blocks.?")]
    streams = {"streams": sorted({stream for of in blocks for stream, has_rows in of.items() if has_rows})}
    hooks = [Activations(whole, sides=SIDES), Activations("*transformer_blocks.?", sides=SIDES, **streams)]
    source = run(model, *hooks, **size)
    patches = [Patch(source[hooks[0]], whole, sides=SIDES)]
    patches.append(Patch(source[hooks[1]], "*transformer_blocks.?", sides=SIDES, **streams))
    assert same_run(run(model, *patches, **size), source)
    assert len(whole) > 100
    assert len(part) <= 6
    other = {**size, "prompt": "a blue star", "seed": 3}
    assert not same_run(run(model, *patches, **other), run(model, **other))


def test_everything_from_elsewhere_is_the_other_run(embedded):
    """The output of the last module is all that the scheduler gets, so the runs are the same from there on."""
    source = recorded(embedded, "conv_out", BLUE)
    assert torch.equal(run(embedded, Patch(source, "conv_out"), **RED).latents, source.latents)
    assert not torch.equal(run(embedded, **RED).latents, source.latents)


@pytest.mark.parametrize("name", [MAP, TOKENS])
def test_what_follows_gets_the_recorded_tensor(embedded, name):
    source, looking = recorded(embedded, name, TWO), at(name)
    values = run(embedded, Patch(source, name), looking, **TWO | {"prompt": ["a red ring", "a red star"]})
    record = source[Activations]
    assert all(torch.equal(x, record.at(step, name)) for step, x in enumerate(values[looking].values))


def test_sources(embedded, tmp_path):
    acts, other = Activations(TOKENS), Activations(MAP)
    source = run(embedded, acts, other, Activations(TOKENS, to=tmp_path / "record"), **BLUE)
    given = [source[acts], source[acts].record, ActivationRecord.open(tmp_path / "record"), tmp_path / "record"]
    given.append(recorded(embedded, TOKENS, BLUE))
    runs = [run(embedded, Patch(own, TOKENS), **RED) for own in given]
    assert all(same_run(own, runs[0]) for own in runs)
    assert not same_run(runs[0], run(embedded, **RED))
    with pytest.raises(ValueError, match=r"has 3 records of activations: give one of them, run\[activations\]"):
        run(embedded, Patch(source, TOKENS), **RED)
    with pytest.raises(ValueError, match=r"has no records of activations"):
        run(embedded, Patch(runs[0], TOKENS), **RED)
    with pytest.raises(FileNotFoundError, match=r"no record of activations"):
        run(embedded, Patch(tmp_path / "nowhere", TOKENS), **RED)
    with pytest.raises(TypeError, match=r"come from a Run with an Activations hook.*not from Tensor|not from tensor"):
        run(embedded, Patch(torch.ones(2), TOKENS), **RED)


@pytest.mark.parametrize("rows", [[1], "cond", lambda row: row.image == 1 and row.role == "cond"])
def test_rows_are_matched_by_image_and_role(embedded, rows):
    """Limited to the second image, it gets the activations of the second image: here its own, so nothing changes."""
    source = recorded(embedded, TOKENS, TWO)
    assert same_run(run(embedded, only(Patch(source, TOKENS), rows=rows), **TWO), source)
    partly = recorded(embedded, TOKENS, TWO, rows=rows)
    assert same_run(run(embedded, only(Patch(partly, TOKENS), rows=rows), **TWO), source)


def test_a_source_of_one_image_is_used_for_every_image(embedded):
    source, looking = recorded(embedded, TOKENS, BLUE), at(TOKENS)
    values = run(embedded, Patch(source, TOKENS), looking, **TWO)[looking].values
    record = source[Activations]
    for step, x in enumerate(values):
        assert torch.equal(x, record.at(step, TOKENS).repeat_interleave(2, 0))


@pytest.mark.parametrize("name", [MAP, TOKENS])
def test_a_part_and_the_rest_are_the_whole(embedded, name):
    source, mask = recorded(embedded, name, BLUE), torch.zeros(16, 16, dtype=torch.bool)
    mask[:, :8] = True
    width = range(source[Activations][name].shape[2 if name == MAP else -1])
    halves = [({"places": mask}, {"places": ~mask}), ({"channels": width[:5]}, {"channels": width[5:]})]
    whole, none = run(embedded, Patch(source, name), **RED), run(embedded, **RED)
    for one, rest in halves:
        parts = [Patch(source, name, **own) for own in (one, rest)]
        assert same_run(run(embedded, *parts, **RED), whole)
        alone = [run(embedded, own, **RED) for own in parts]
        assert not any(same_run(own, other) for own in alone for other in (whole, none))


def test_heads(embedded):
    name, heads = f"{TOKENS}.to_out.0", embedded.modules[TOKENS].heads
    source, looking = recorded(embedded, name, BLUE, sides="input"), at(name, "input")
    patch = Patch(source, name, sides="input", heads=[1])
    patched, plain = (run(embedded, *own, looking, **RED | {"steps": 1})[looking].values[0] for own in ([patch], []))
    patched, plain, there = (x.unflatten(-1, (heads, -1)) for x in (patched, plain, source[Activations].at(0, name)))
    others = [k for k in range(heads) if k != 1]
    assert torch.equal(patched[:, :, 1], there[:, :, 1])
    assert not torch.equal(plain[:, :, 1], there[:, :, 1])
    assert torch.equal(patched[:, :, others], plain[:, :, others])


def test_steps(embedded):
    source = recorded(embedded, TOKENS, BLUE, steps=[0])
    first = run(embedded, only(Patch(source, TOKENS), steps=[0]), **RED)
    every = recorded(embedded, TOKENS, BLUE)
    assert same_run(first, run(embedded, only(Patch(every, TOKENS), steps=[0]), **RED))
    with pytest.raises(KeyError, match=r"step 1 was not recorded at the output of .*attn2; recorded: 0. Limit the"):
        run(embedded, Patch(source, TOKENS), **RED)


def test_what_is_not_in_the_record_is_an_error(embedded):
    source, two = recorded(embedded, TOKENS, BLUE), recorded(embedded, TOKENS, TWO)
    with pytest.raises(ValueError, match=rf"no module that fits 'mid_block'; its modules: {TOKENS}"):
        run(embedded, Patch(source, ["*attn2", "mid_block"]), **RED)
    with pytest.raises(KeyError, match=r"output of .*attn2 was not recorded in step 0; recorded: .*\(output"):
        run(embedded, Patch(source, "*attn2"), **RED)
    with pytest.raises(KeyError, match=r"the input .*of .*attn2 was not recorded"):
        run(embedded, Patch(source, TOKENS, sides="input"), **RED)
    with pytest.raises(ValueError, match=r"no rows of image 2 in the role 'uncond'.*'uncond' of the images \[0, 1\]"):
        run(embedded, Patch(two, TOKENS), prompt="a star", images_per_prompt=3)
    with pytest.raises(ValueError, match=r"no rows of image 0 in the role 'uncond'"):
        run(embedded, Patch(recorded(embedded, TOKENS, BLUE, rows="cond"), TOKENS), **RED)
    with pytest.raises(ValueError, match=r"is \[2, 256, 32\], and here it is \[2, 144, 32\]: the record must be"):
        run(embedded, Patch(source, TOKENS), **RED, height=48, width=48)
    with pytest.raises(ValueError, match=r"is \[2, 32\], and here it is \[2, 256, 32\]"):
        run(embedded, Patch(recorded(embedded, TOKENS, BLUE, reduce="mean"), TOKENS), **RED)


@pytest.mark.parametrize("role", ["cond", "uncond"])
def test_a_text_encoder_is_patched_too(embedded, role):
    """The prompt is read in its last layer's output, so a patch there is the other prompt."""
    blue, red = ({"prompt" if role == "cond" else "negative_prompt": own["prompt"]} for own in (BLUE, RED))
    source = recorded(embedded, "text_encoder.*final_layer_norm", blue)
    assert torch.equal(run(embedded, Patch(source, "text_encoder.*final_layer_norm"), **red).latents, source.latents)
    assert not torch.equal(run(embedded, **red).latents, source.latents)


@pytest.mark.parametrize("guidance", [sdprobe.PerturbedAttention, sdprobe.SelfAttentionGuidance])
def test_further_calls_which_no_record_holds_are_not_patched(embedded, guidance):
    source = run(embedded, Activations(TOKENS), guidance(), **BLUE)
    assert same_run(run(embedded, Patch(source, TOKENS), guidance(), **BLUE), source)


class Asks(sdprobe.Transform):
    """Replaces the denoiser's output by that of a further call with a hook."""

    def __init__(self, hook=None):
        self.hook = hook

    def model_output(self, x, step):
        return step.predict(step.latents, *([] if self.hook is None else [self.hook]))


def test_a_patch_given_to_a_further_call_acts_in_it(embedded):
    source = recorded(embedded, TOKENS, BLUE)
    patch = Patch(source, TOKENS)
    before = dict(vars(patch))
    asked = run(embedded, Asks(patch), **RED)
    assert torch.equal(asked.latents, run(embedded, patch, **RED).latents)
    assert not torch.equal(asked.latents, run(embedded, Asks(), **RED).latents)
    assert vars(patch) == before


def test_names_of_either_version_of_transformers_are_the_same(embedded):
    long, short = "text_encoder.text_model.encoder.layers.0", "text_encoder.encoder.layers.0"
    source = recorded(embedded, long, BLUE)
    patched = [run(embedded, Patch(source, name), **RED) for name in (long, short)]
    assert same_run(*patched)
    assert not same_run(patched[0], run(embedded, **RED))
    assert torch.equal(source[Activations].at(None, long), source[Activations].at(None, short))
    limited = only(Activations([TOKENS, short]), sites="text_encoder.text_model*")
    assert [key.name for key in run(embedded, limited)[limited].record.keys] == [short]
