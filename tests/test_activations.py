"""`Activations`: what is kept is what passed, and keeping it changes nothing."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe.core.activations.record import ActivationRecord
from sdprobe.core.limits.row_subset import rows_of_run
from sdprobe.observe.activations import Activations
from tests.families import flux, stable_diffusion_3
from tests.laws.strategies import run, same_run
from tests.stock_pipelines import attached, flux_guided
from tests.tiny import stable_diffusion

NAMES = ("mid_block", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", "time_embedding")
IMAGE, TEXT, VECTOR = NAMES


class ByHand(sdprobe.Observer):
    """What a user would write."""

    def __init__(self, *modules):
        self.modules = modules

    def start(self, run):
        self.found = {}

    def activation(self, x, site):
        self.found.setdefault(site.name, []).append(x.clone())

    def __getitem__(self, name):
        return torch.stack(self.found[name])


class ByStream(ByHand):
    """The same for one of the streams."""

    def __init__(self, module, stream):
        super().__init__(module)
        self.streams = (stream,)


@pytest.mark.parametrize("dtype", [None, "float32", torch.float16])
@pytest.mark.parametrize("on_disk", [False, True])
def test_what_is_kept_is_what_passed(tiny, tmp_path, dtype, on_disk):
    acts, hand = Activations(NAMES, dtype=dtype, to=tmp_path / "record" if on_disk else None), ByHand(*NAMES)
    result = run(tiny, acts, hand, steps=3, images_per_prompt=2)
    records = [result[acts], ActivationRecord.open(tmp_path / "record")] if on_disk else [result[acts]]
    for record in records:
        assert record.indices == [0, 1, 2]
        for name in NAMES:
            expected = result[hand][name].to(torch.float16 if dtype is torch.float16 else torch.float32)
            assert torch.equal(record[name], expected)
            assert record[name].dtype == expected.dtype
            assert torch.equal(record.at(1, name), expected[1])
    assert [tuple(label[:2]) for label in result[acts].record.rows_at(0)] == [
        (row.image, row.role) for row in rows_of_run(result)
    ]
    assert result[acts].axes(IMAGE) == ("steps", "rows", "channels", "h", "w")
    assert result[acts].axes(TEXT) == ("steps", "rows", "positions", "width")
    assert result[acts].axes(VECTOR) == ("steps", "rows", "width")


def test_keeping_changes_no_bit(tiny, tmp_path):
    plain = run(tiny, steps=3)
    assert same_run(plain, run(tiny, Activations("*attn*"), Activations("*conv?", reduce="max", to=tmp_path), steps=3))


@pytest.mark.parametrize(
    ("steps", "kept"), [(1, [1]), ({0, 3}, [0, 3]), (range(1, 3), [1, 2]), (lambda step: step.index > 2, [3])]
)
def test_chosen_steps(tiny, steps, kept):
    acts, hand = Activations(IMAGE, steps=steps), ByHand(IMAGE)
    result = run(tiny, acts, hand, steps=4)
    assert result[acts].indices == kept
    assert torch.equal(result[acts][IMAGE], result[hand][IMAGE][kept])


@pytest.mark.parametrize("rows", ["cond", "uncond", [1], lambda row: row.role == "cond" and row.image == 1])
def test_chosen_rows(tiny, rows):
    acts, hand = Activations(IMAGE, rows=rows), ByHand(IMAGE)
    result = run(tiny, acts, hand, images_per_prompt=2)
    every = rows_of_run(result)
    chosen = [
        i
        for i, row in enumerate(every)
        if (rows(row) if callable(rows) else row.role == rows if isinstance(rows, str) else row.image in rows)
    ]
    assert 0 < len(chosen) < len(every)
    assert torch.equal(result[acts][IMAGE], result[hand][IMAGE][:, chosen])
    assert [(label.image, label.role, label.prompt) for label in result[acts].record.rows_at(0)] == [
        (every[i].image, every[i].role, every[i].prompt.text) for i in chosen
    ]


def test_only_keeps_the_numbers_of_the_whole_run(tiny):
    acts = Activations(IMAGE)
    result = run(tiny, sdprobe.only(acts, rows=[1], steps=[1]), images_per_prompt=2)
    assert result[acts].indices == [1]
    assert [label.image for label in result[acts].record.rows_at(1)] == [1, 1]


def test_reduced_to_one_vector_a_row(tiny):
    own = Activations(NAMES, reduce=lambda x, site: x.flatten(1) * (1 + site.step.index))
    mean, most, hand = Activations(NAMES, reduce="mean"), Activations(NAMES, reduce="max"), ByHand(*NAMES)
    result = run(tiny, mean, most, own, hand)
    image, text, vector = (result[hand][name] for name in NAMES)
    assert torch.allclose(result[mean][IMAGE], image.mean((-1, -2)), atol=1e-6)
    assert torch.equal(result[most][IMAGE], image.amax((-1, -2)))
    assert torch.allclose(result[mean][TEXT], text.mean(2), atol=1e-6)
    assert torch.equal(result[mean][VECTOR], vector)
    assert torch.equal(result[own][IMAGE][1], 2 * image[1].flatten(1))
    assert result[mean].axes(IMAGE) == result[own].axes(IMAGE) == ("steps", "rows", "width")
    assert torch.equal(result[mean].flat(IMAGE).vectors, result[mean][IMAGE].flatten(0, 1))


def test_tokens_of_keys_in_cross_attention(tiny):
    """What attention takes of the prompt has one position for each of its tokens."""
    acts, hand = Activations(TEXT, tokens=["red", 3], rows="cond"), ByHand(TEXT)
    result = run(tiny, acts, hand, prompt=["a red circle", "a big red circle"])
    rows = [[k for k, row in enumerate(rows_of_run(result)) if (row.image, row.role) == (i, "cond")] for i in range(2)]
    kept = result[acts][TEXT]
    assert torch.equal(kept[:, 0], result[hand][TEXT][:, rows[0]].squeeze(1)[:, [2, 3]])
    assert torch.equal(kept[:, 1], result[hand][TEXT][:, rows[1]].squeeze(1)[:, [3, 3]])
    assert result[acts].axes(TEXT) == ("steps", "rows", "tokens", "width")


def test_what_is_wrong_is_said(tiny, tmp_path):
    for wrong, why in {
        "sides": ("outputs", r"sides are 'output' or 'input', or both, not \['outputs'\]"),
        "rows": ("conditional", "no role of a row; the roles: cond, uncond, image"),
        "reduce": ("median", "reduce is 'mean', 'max' or a function"),
        "dtype": ("half", "dtype is one of"),
    }.items():
        value, said = why
        with pytest.raises(ValueError, match=said):
            Activations(IMAGE, **{wrong: value})
    with pytest.raises(TypeError, match="steps are numbers such as"):
        Activations(IMAGE, steps="early")
    with pytest.raises(ValueError, match=r"would keep nothing: its rows are none of this run's 1 images"):
        run(tiny, Activations(IMAGE, rows=[7]))
    with pytest.raises(ValueError, match=r"reduce returned float32 \[\] at mid_block: its first axis has to be the 2"):
        run(tiny, Activations(IMAGE, reduce=lambda x, site: x.mean()))
    nothing = Activations(IMAGE, steps=[9])
    with pytest.warns(UserWarning, match=r"kept nothing: the run had steps 0 to 1, and passed mid_block \(output, hid"):
        result = run(tiny, nothing)
    for read in (lambda: result[nothing][IMAGE], lambda: result[nothing].flat(IMAGE)):
        with pytest.raises(KeyError, match=r"kept nothing: the run had steps 0 to 1"):
            read()
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match="has something in it that is no record of activations"):
        run(tiny, Activations(IMAGE, to=tmp_path))


def test_a_pattern_of_several_modules_is_read_by_name(tiny):
    acts = Activations("mid_block.resnets.*.conv1")
    result = run(tiny, acts)
    with pytest.raises(KeyError, match=r"'mid_block.resnets' was not kept; kept: mid_block.resnets.0.conv1 \(output"):
        result[acts]["mid_block.resnets"]
    assert len(result[acts].record.keys) == 2


@pytest.mark.parametrize("on_disk", [False, True])
def test_outside_of_the_steps(tiny, tmp_path, on_disk):
    """A text encoder runs before the steps, for the negative prompts and for the prompts; the decoder after them."""
    layer, decoder = "text_encoder.encoder.layers.0", "vae.decoder.mid_block"
    acts, hand = Activations((layer, decoder, IMAGE), to=tmp_path if on_disk else None), ByHand(layer, decoder)
    result = run(tiny, acts, hand, negative_prompt="a star")
    assert result[acts].indices == [0, 1, None]
    record = result[acts].record
    assert torch.equal(result[acts][layer][0], torch.cat(result[hand].found[layer]))
    assert {tuple(label) for label in record.rows_at(None, layer)} == {
        (0, "uncond", "a star"),
        (0, "cond", "a red circle"),
    }
    (x,) = result[hand].found[decoder]
    assert torch.equal(record.at(None, decoder), x)
    assert set(result[acts].flat(decoder).table["step"]) == {-1}
    with pytest.raises(KeyError, match="differ in their rows: give one of the keys"):
        record.rows_at(None)
    with pytest.raises(ValueError, match=r"limited to steps asks for text_encoder.*, which runs outside the steps"):
        run(tiny, Activations(layer, steps=[0]))


def test_tokens_that_are_not_equally_many_are_refused_outside_of_the_steps_too(tiny):
    acts = Activations("text_encoder.encoder.layers.0", tokens="circle")
    sizes = r"rows, tokens, width: \[1, 1, 16\] of 'a circle', \[1, 2, 16\] of 'a red circle circle'"
    with pytest.raises(
        ValueError, match=rf"has not the same shape in all rows \({sizes}\): choose rows=.*\n.*noise_pred"
    ):
        run(tiny, acts, prompt="a red circle circle", negative_prompt="a circle")


@pytest.mark.parametrize("make", [stable_diffusion_3, flux])
def test_both_streams_of_joint_blocks(make, tmp_path):
    model = sdprobe.load(make())
    name = "transformer_blocks.0"
    acts = Activations(name, sides=("input", "output"), streams=("image", "text"), to=tmp_path)
    words = Activations(name, streams="text", tokens="circle", rows="cond")
    image, text = (ByStream(name, stream) for stream in ("image", "text"))
    result = run(model, acts, words, image, text, height=32, width=16)
    own, record = result[acts], ActivationRecord.open(tmp_path)
    assert len(record.keys) == 4
    for hand, stream in ((image, "image"), (text, "text")):
        key = record.key_of(name, side="output", stream=stream)
        assert torch.equal(record[key], result[hand][name])
        flat = own.flat(name, side="output", stream=stream)
        width = flat.vectors.shape[1]
        assert torch.equal(flat.vectors, result[hand][name].reshape(-1, width))
        if stream == "image":
            h, w = record.form_of(0, key).grid
            assert h == 2 * w
            assert flat.table["y"][: h * w].tolist() == [y for y in range(h) for _ in range(w)]
            assert set(flat.table["token"]) == {-1}
        else:
            assert set(flat.table["y"]) == {-1}
            assert flat.table["token"].max() == result[hand][name].shape[2] - 1
    positions = list(result.prompts[0].positions("circle"))
    rows = [i for i, row in enumerate(rows_of_run(result)) if row.role == "cond"]
    assert torch.equal(result[words][name], result[text][name][:, rows][:, :, positions])
    with pytest.raises(KeyError, match=r"'transformer_blocks.0' has several tensors: say side= and stream="):
        own[name]


def test_an_attached_pipeline_is_recorded_too(tmp_path):
    pipe = stable_diffusion()
    pipe.set_progress_bar_config(disable=True)
    held, acts = (
        Activations((IMAGE, "vae.decoder.mid_block")),
        Activations((IMAGE, "vae.decoder.mid_block"), to=tmp_path),
    )
    settings = {"guidance_scale": 3.0, "height": 16, "width": 16}
    expected = sdprobe.sample(pipe, "a red circle", hooks=[held], steps=2, seed=0, progress=False, **settings)[held]
    with sdprobe.attach(pipe, [acts]):
        pipe("a red circle", num_inference_steps=2, generator=torch.Generator().manual_seed(0), **settings)
    record = ActivationRecord.open(tmp_path)
    assert record.indices == expected.indices == [0, 1, None]
    for key in record.keys:
        assert torch.equal(record[key], expected[key])
    with pytest.raises(ValueError, match="came from no seed that is known: give it a folder of its own"):  # noqa: SIM117
        with sdprobe.attach(pipe, [acts]):
            pipe("a red circle", num_inference_steps=2, **settings)


def test_of_a_pipeline_that_calls_its_denoiser_twice_a_step_both_rows_are_kept(tmp_path):
    held, on_disk = Activations("transformer_blocks.0", streams="image"), Activations("x_embedder", to=tmp_path)
    found = attached(flux_guided(), held, on_disk)
    for hook, key in ((held, found[held].record.keys[0]), (on_disk, "x_embedder")):
        assert [label.role for label in found[hook].record.rows_at(0)] == ["cond", "uncond"]
        assert found[hook][key].shape[:2] == (3, 2)


def test_each_call_of_a_module_that_runs_several_times_is_kept(tiny, tmp_path):
    name = "down_blocks.0.resnets.0.nonlinearity"
    keep = Activations(name, to=tmp_path / "kept")
    by_hand = []
    handle = tiny.denoiser.get_submodule(name).register_forward_hook(
        lambda module, args, output: by_hand.append(output)
    )
    found = run(tiny, keep)[keep]
    handle.remove()
    calls = [key.call for key in found.record.keys]
    assert calls == [0, 1, 2]  # after each norm, and on the time embedding
    for key in ActivationRecord.open(tmp_path / "kept").keys:
        assert torch.equal(found.record.at(0, key), by_hand[key.call])
    with pytest.raises(KeyError, match=r"has several tensors: say call=, of .*\(output, hidden\), .*call 1"):
        found[name]
    assert torch.equal(found.flat(name, call=1).vectors, found.flat(found.record.keys[1]).vectors)
