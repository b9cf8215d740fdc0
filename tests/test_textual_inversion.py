"""`learn_concept`: the loss of training, its gradient into the new vectors alone, and what they then stand for."""

from __future__ import annotations

import copy
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import sdprobe
from sdprobe.shapes import BACKGROUNDS, SHAPES, Object, render
from sdprobe.testing import footprint
from sdprobe.text.textual_inversion import learn_concept
from tests.laws.strategies import run, same_run
from tests.tiny import stable_diffusion

TOKEN = "<hue>"


def pictures(count=3, size=(16, 16)):
    drawn = np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    return [Image.fromarray(picture) for picture in drawn]


def learn(model, images=None, token=TOKEN, **changed):
    """A short learning with everything fixed that is not asked for."""
    settings = {"init_word": "red", "steps": 3, "batch": 2, "progress": False} | changed
    return learn_concept(model, pictures() if images is None else images, token, **settings)


def same(a, b):
    return (
        a.token == b.token
        and a.losses == b.losses
        and torch.equal(a.vectors["text_encoder"], b.vectors["text_encoder"])
    )


def row_of(model, word):
    """The word's rows in the encoder's table."""
    ids = model.tokenizer(word, add_special_tokens=False).input_ids
    return model.pipe.text_encoder.get_input_embeddings().weight.detach()[ids]


@pytest.fixture
def checkpoint():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "learning.pt"


# What is learned from.


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_step_is_the_step_of_the_usual_training_script(kind):
    """One picture, one caption, one row: against diffusers, whose table is enlarged and has the gradient."""
    model = sdprobe.load(stable_diffusion(prediction_type=kind))
    lr, (picture,) = 0.1, pictures(1)
    learned = learn(model, picture, steps=1, batch=1, lr=lr, seed=5, templates=["a {} star"])

    pipe = copy.deepcopy(model.pipe)
    pipe.load_textual_inversion({TOKEN: row_of(model, "red")[0]})
    table = pipe.text_encoder.get_input_embeddings().weight
    schedule = DDPMScheduler.from_config(pipe.scheduler.config)
    drawn = torch.Generator().manual_seed(5)
    for _ in range(2):  # which picture, which caption
        torch.randint(1, (1,), generator=drawn)
    timestep = (torch.rand(1, generator=drawn) * schedule.config.num_train_timesteps).long()
    with torch.no_grad():
        x0 = pipe.vae.encode(pipe.image_processor.preprocess(picture)).latent_dist.mean * pipe.vae.config.scaling_factor
    noise = torch.randn(x0.shape, generator=drawn)
    target = {"epsilon": noise, "v_prediction": schedule.get_velocity(x0, noise, timestep), "sample": x0}[kind]
    embeds, _ = pipe.encode_prompt(f"a {TOKEN} star", "cpu", 1, False)
    predicted = pipe.unet(schedule.add_noise(x0, noise, timestep), timestep, embeds, return_dict=False)[0]
    loss = (predicted - target).square().mean()
    (gradient,) = torch.autograd.grad(loss, table)

    torch.testing.assert_close(torch.tensor(learned.losses), loss.detach()[None])
    first = table.detach()[-1].clone().requires_grad_()
    length, rms = first.norm(), first.square().mean().sqrt()
    first.grad = gradient[-1]
    torch.optim.Adam([first], lr=lr * rms.item()).step()
    torch.testing.assert_close(learned.vectors["text_encoder"][0], (first * length / first.norm()).detach())


def test_samplers_of_one_noise_schedule_learn_the_same(tiny):
    pipe = copy.copy(tiny.pipe)
    pipe.scheduler = EulerDiscreteScheduler.from_config(tiny.pipe.scheduler.config)
    assert same(learn(sdprobe.load(pipe)), learn(tiny))


def test_arrays_and_pictures_of_any_size_are_brought_to_the_models_own(tiny):
    (square,) = pictures(1)
    wide = Image.new("RGB", (48, 16))
    wide.paste(square, (16, 0))
    assert same(learn(tiny, wide), learn(tiny, square))
    assert same(learn(tiny, np.asarray(square)), learn(tiny, square))
    assert same(learn(tiny, np.stack([np.asarray(p) for p in pictures()])), learn(tiny))


def test_several_pictures_and_captions_are_all_used(tiny):
    assert not same(learn(tiny), learn(tiny, pictures(1)))
    assert not same(learn(tiny, templates=["a {}", "{} star"]), learn(tiny, templates=["a {}"]))
    assert not same(learn(tiny, seed=1), learn(tiny, seed=0))
    assert same(learn(tiny), learn(tiny))


# What is learned.


@given(vectors=st.integers(1, 3), steps=st.integers(1, 3), lr=st.sampled_from([0.01, 0.5, 5.0]))
def test_every_vector_turns_and_keeps_its_length(tiny, vectors, steps, lr):
    concept = learn(tiny, vectors=vectors, steps=steps, lr=lr)
    learned, begun = concept.vectors["text_encoder"], row_of(tiny, "red").expand(vectors, -1)
    assert len(concept.losses) == steps
    torch.testing.assert_close(learned.norm(dim=-1), begun.norm(dim=-1))
    assert (torch.cosine_similarity(learned, begun) < 1 - 1e-7).all()


def test_it_begins_with_the_words_own_vectors(tiny):
    nothing = 1e-12  # of a vector's length, below what float32 holds
    for word, count in (("red", 1), ("red", 2), ("checkered", 2)):
        learned = learn(tiny, init_word=word, vectors=count, lr=nothing, steps=1).vectors["text_encoder"]
        torch.testing.assert_close(learned, row_of(tiny, word).expand(count, -1))


@pytest.mark.parametrize("vectors", [1, 2])
def test_what_is_learned_is_what_diffusers_loads(tiny, tmp_path, vectors):
    concept = learn(tiny, vectors=vectors)
    pipe = copy.deepcopy(tiny.pipe)
    pipe.load_textual_inversion(str(concept.save(tmp_path / "hue.safetensors")))
    prompt = f"a {TOKEN} star"
    assert same_run(run(tiny, sdprobe.UseConcept(concept), prompt=prompt), run(sdprobe.load(pipe), prompt=prompt))


def test_the_loss_falls(tiny):
    """One picture, one caption: the same noise with what was learned and with what it began with."""
    settings = {"images": pictures(1), "templates": ["a {}"], "steps": 20, "batch": 4}
    learned, still = learn(tiny, **settings), learn(tiny, lr=1e-12, **settings)
    assert learned.losses[0] == still.losses[0]
    assert np.mean(learned.losses[10:]) < np.mean(still.losses[10:])


def test_half_precision(tiny):
    model = sdprobe.load(stable_diffusion(), dtype=torch.bfloat16)
    concept = learn(model)
    assert concept.vectors["text_encoder"].dtype == torch.float32
    assert np.isfinite(concept.losses).all()
    assert run(model, sdprobe.UseConcept(concept), prompt=f"a {TOKEN}").images


def test_a_bar_tells_the_steps_and_the_loss(tiny, checkpoint, capsys):
    learn(tiny, checkpoint=checkpoint, steps=2)
    assert "|" not in capsys.readouterr().err
    concept = learn(tiny, checkpoint=checkpoint, steps=4, progress=True)
    bar = capsys.readouterr().err.split("\r")
    assert TOKEN in bar[1]
    assert "2/4" in bar[1]
    assert "4/4" in bar[-1]
    assert f"loss={np.mean(concept.losses):.3f}" in bar[-1]


# The model is as it was.


def marked():
    """A tiny model some of whose parameters are frozen, and some of whose modules are in training."""
    pipe = stable_diffusion()
    pipe.unet.train()
    pipe.unet.mid_block.eval()
    pipe.text_encoder.get_input_embeddings().requires_grad_(False)
    return sdprobe.load(pipe)


def interrupting(model, call, error):
    """Make the network raise at a call of it."""
    calls = []

    def count(module, args):
        calls.append(1)
        if len(calls) == call:
            raise error("on purpose")

    return model.pipe.unet.register_forward_pre_hook(count)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, RuntimeError])
def test_the_model_is_as_it_was(error):
    model = marked()
    before, drawn = footprint(model.pipe), torch.get_rng_state()
    if error is None:
        learn(model, vectors=2)
    else:
        handle = interrupting(model, 2, error)
        with pytest.raises(error, match="on purpose"):
            learn(model, vectors=2)
        handle.remove()
    assert footprint(model.pipe) == before
    assert torch.equal(torch.get_rng_state(), drawn)


def test_dropout_is_off_while_it_learns():
    dropping = stable_diffusion()
    dropping.unet.train()
    for module in dropping.unet.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.9
    assert same(learn(sdprobe.load(dropping)), learn(sdprobe.load(stable_diffusion())))


# Interrupted and resumed.


@cache
def uninterrupted(model, steps):
    return learn(model, steps=steps, vectors=2)


@given(call=st.integers(1, 5), every=st.integers(1, 3))
def test_interrupted_and_resumed_is_as_never_interrupted(tiny, call, every):
    whole = uninterrupted(tiny, 4)
    with tempfile.TemporaryDirectory() as folder:
        kept = {"checkpoint": Path(folder) / "learning.pt", "every": every, "vectors": 2, "steps": 4}
        handle = interrupting(tiny, call, KeyboardInterrupt)
        try:
            assert same(learn(tiny, **kept), whole)
            assert call == 5  # four steps have no fifth call
        except KeyboardInterrupt:
            assert kept["checkpoint"].exists() == (call > every)
        finally:
            handle.remove()
        assert same(learn(tiny, **kept), whole)
        assert same(learn(tiny, **kept), whole)  # done already: from the checkpoint alone
        assert [path.name for path in Path(folder).iterdir()] == ["learning.pt"]


@given(first=st.integers(1, 3), last=st.integers(3, 4))
def test_more_steps_go_on_beyond(tiny, first, last):
    with tempfile.TemporaryDirectory() as folder:
        kept = {"checkpoint": Path(folder) / "learning.pt", "vectors": 2}
        assert same(learn(tiny, steps=first, **kept), uninterrupted(tiny, first))
        assert same(learn(tiny, steps=last, **kept), uninterrupted(tiny, last))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"token": "<other>"}, "token='<hue>', not '<other>'"),
        ({"init_word": "blue"}, "init_word='red', not 'blue'"),
        ({"vectors": 2}, "vectors=1, not 2"),
        ({"batch": 3}, "batch=2, not 3"),
        ({"lr": 0.1}, "lr=0.05, not 0.1"),
        ({"templates": ["a {}"]}, r"templates=\['a {}', .*\], not \['a {}'\]"),
        ({"seed": 1}, "seed=0, not 1"),
        ({"images": pictures(2)}, "other images"),
        ({"steps": 2}, "3 steps, more than 2"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_checkpoint_made_otherwise_is_refused(tiny, checkpoint, changed, named):
    learn(tiny, checkpoint=checkpoint)
    kept = checkpoint.read_bytes()
    with pytest.raises(ValueError, match=f"was made with {named}: give what it was made with"):
        learn(tiny, checkpoint=checkpoint, **changed)
    assert checkpoint.read_bytes() == kept


def test_a_checkpoint_of_another_model_is_refused(tiny, tiny_v, checkpoint):
    learn(tiny, checkpoint=checkpoint)
    for other in (tiny_v, sdprobe.load(stable_diffusion(seed=1))):
        with pytest.raises(ValueError, match="was made with other model"):
            learn(other, checkpoint=checkpoint)


class RunsCode:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint", {"settings": {}}, [1], torch.ones(2), RunsCode()])
def test_a_file_that_is_no_checkpoint_is_refused_and_kept(tiny, checkpoint, content, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)
    if isinstance(content, bytes):
        checkpoint.write_bytes(content)
    else:
        torch.save(content, checkpoint)
    kept = checkpoint.read_bytes()
    with pytest.raises(ValueError, match=r"learning\.pt holds no checkpoint of learn_concept"):
        learn(tiny, checkpoint=checkpoint)
    assert checkpoint.read_bytes() == kept
    assert not Path("ran").exists()


# What cannot be.


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"images": []}, ValueError, "there are no pictures to learn from"),
        ({"images": [torch.zeros(3, 16, 16)]}, TypeError, "not Tensor"),
        ({"images": ["a.png"]}, TypeError, "a PIL picture or an array"),
        ({"init_word": "checkered"}, ValueError, r"'checkered' is 2 tokens \(check, ered</w>\).*or vectors=2"),
        ({"init_word": "checkered", "vectors": 3}, ValueError, "or vectors=2"),
        ({"init_word": ""}, ValueError, r"'' is 0 tokens \(none\): choose a word that is one token$"),
        ({"token": "red"}, ValueError, "has a token 'red.*' already"),
        ({"token": " "}, ValueError, "a concept's token is a word"),
        ({"steps": 0}, ValueError, "steps must be 1 or more, not 0"),
        ({"vectors": 0}, ValueError, "vectors must be 1 or more, not 0"),
        ({"batch": 0}, ValueError, "batch must be 1 or more, not 0"),
        ({"every": 0}, ValueError, "every must be 1 or more, not 0"),
        ({"lr": 0.0}, ValueError, "lr must be above 0, not 0.0"),
        ({"templates": []}, ValueError, "a template is a caption with one {}"),
        ({"templates": ["a {}", "a star"]}, ValueError, r"one {} where the word is to stand.*'a star'"),
        ({"templates": ["a " * 20 + "{}"]}, sdprobe.WordNotInPrompt, "lies past the 16 tokens"),
        ({"checkpoint": "no/such/folder/a.pt"}, FileNotFoundError, "a file in a folder that exists"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(tiny, given, error, said):
    handle = interrupting(tiny, 1, AssertionError)
    try:
        with pytest.raises(error, match=said):
            learn(tiny, **given)
    finally:
        handle.remove()


def test_a_loss_that_is_no_number_is_said():
    model = sdprobe.load(stable_diffusion())
    with torch.no_grad():
        model.pipe.unet.conv_out.bias.fill_(torch.inf)
    with pytest.raises(FloatingPointError, match="the loss of step 0 is inf"):
        learn(model)


def test_a_network_of_unknown_training_is_refused():
    pipe = stable_diffusion()
    pipe.scheduler.register_to_config(prediction_type="flow_prediction")
    with pytest.raises(ValueError, match="prediction type 'flow_prediction' does not say how its network was trained"):
        learn(sdprobe.load(pipe))


# What it is good for.

MAGENTA = (225, 30, 160)


def scenes_of(rgb, count=16):
    """Shapes of one colour, of every kind and on every background."""
    drawn = np.random.default_rng(0)
    things = []
    for k in range(count):
        radius = drawn.uniform(12, 19)
        x, y = drawn.uniform(radius + 1.5, 62.5 - radius, 2)
        thing = Object(SHAPES[k % len(SHAPES)], None, (x, y), radius, rgb)
        things.append(render([thing], list(BACKGROUNDS)[k % len(BACKGROUNDS)]).image)
    return things


def colour_of(picture):
    """The colour drawn: the median of the pixels that are not grey, as all backgrounds are."""
    pixels = np.asarray(picture, dtype=float)
    tinted = np.ptp(pixels, axis=-1)
    return np.median(pixels[tinted > np.quantile(tinted, 0.99) / 2], axis=0)


@pytest.mark.slow
def test_a_hue_no_word_names_is_learned_from_sixteen_pictures(embedded):
    """In new captions and from new noise, pictures are less than half as far from the hue as with the first word."""
    learned_from = scenes_of(MAGENTA)
    assert max(np.linalg.norm(colour_of(picture) - MAGENTA) for picture in learned_from) < 1
    captions = ("a {} shape", "a photo of a {} shape", "a drawing of a {} shape")
    concept = learn(embedded, learned_from, init_word="pink", templates=captions, steps=200, batch=4)

    grounds = [*BACKGROUNDS] * 2
    held_out = [f"a {{}} {shape} on a {grounds[k]} background" for k, shape in enumerate(SHAPES)]
    settings = {"steps": 15, "guidance_scale": 5.0, "seed": [100 + k for k in range(12)], "images_per_prompt": 2}
    made = {
        "pink": run(embedded, prompt=[text.format("pink") for text in held_out], **settings),
        TOKEN: run(embedded, sdprobe.UseConcept(concept), prompt=[text.format(TOKEN) for text in held_out], **settings),
    }
    away = {word: [np.linalg.norm(colour_of(p) - MAGENTA) for p in own.images] for word, own in made.items()}
    assert np.median(away[TOKEN]) < np.median(away["pink"]) / 2
    assert np.mean(np.array(away[TOKEN]) < np.array(away["pink"])) > 0.9
