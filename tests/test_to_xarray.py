"""A run as a dataset: each variable is what the hook itself answers, with the coordinates that are asked for."""

from __future__ import annotations

import itertools
import math
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import sdprobe
from sdprobe import AttentionMaps, LatentRecorder, Preview, SelfAttentionMaps, Statistics, only
from tests.configured import darkness, made
from tests.families import ALL, ASKED, FAMILIES
from tests.laws.strategies import run
from tests.stock_pipelines import attached, text_to_image
from tests.test_attach_callbacks import switching

xarray = pytest.importorskip("xarray")
PROMPTS = ["a red circle", "a blue star and a red ring"]


def same(found, expected):
    """Whether an array is this tensor, bit for bit."""
    return found.shape == tuple(expected.shape) and np.array_equal(found.values, expected.numpy(), equal_nan=True)


def grids(dataset):
    """The variables of attention, by grid."""
    names = [name for name in dataset if name.startswith("attention_")]
    return {tuple(map(int, name.split("_")[1].split("x"))): dataset[name] for name in names}


# Attention


@pytest.mark.parametrize("name", ALL)
def test_attention_of_every_family_is_what_the_hook_answers(name):
    model = sdprobe.load(FAMILIES[name]())
    # Texts of different lengths, as prompt and negative prompt are, would be arrays by themselves.
    alike = not model.ragged and name not in ("Lumina 2", "Z-Image")
    rows = "both" if "uncond" in model.roles(3.0) and alike else "cond"
    maps = AttentionMaps(rows=rows, keep=("step", "layer", "head"))
    result = run(model, maps, prompt=PROMPTS[0], **{"height": 16, "width": 16} | ASKED.get(name, {}))
    variables, checked = grids(result.to_xarray()), 0
    for grid, array in variables.items():
        scope = "" if grid == max(variables) else f"_{'x'.join(map(str, grid))}"
        layers, heads = array[f"layer{scope}"].values, array[f"head{scope}"].values
        chosen = itertools.product(layers, heads[::2], (1, 3), result[maps].roles)
        for layer, head, token, role in chosen:
            # Of two denoisers the first runs in the first step, the second in the second.
            step = 0 if len(model.networks) > 1 and not layer.startswith("transformer_2.") else 1
            at = {"image": 0, "step": step, f"layer{scope}": layer, f"head{scope}": head, "token": token}
            found = array.sel(at | ({"role": role} if rows == "both" else {}))
            asked = {"step": step, "layer": layer, "head": int(head), "role": role}
            heat = result[maps].heat_map(token, method="mean", **asked)
            checked += same(found, heat.values)
            assert found.token_text.item() == heat.word
            assert same(found, heat.values), (layer, head, token, role)
    assert set(variables) == {key.grid for key in result[maps].sums}
    assert checked > 3


@pytest.mark.parametrize("keep", [k for n in range(4) for k in itertools.combinations(("step", "layer", "head"), n)])
def test_what_was_not_kept_apart_is_averaged(tiny, keep):
    maps = AttentionMaps(keep=keep, grids=[(4, 4)])
    result = run(tiny, maps, prompt=PROMPTS, images_per_prompt=2)
    array = result.to_xarray().attention_4x4
    dims = {"step": "step", "layer": "layer", "head": "head"}
    assert array.dims == ("image", *(dims[own] for own in keep), "token", "y", "x")
    assert array.attrs["averaged_over"] == [name for name in dims if name not in keep]
    assert array.attrs["role"] == ["cond"]
    for image, word in ((0, "red circle"), (3, "star"), (3, "red")):
        tokens = list(result.prompt_of(image).positions(word))
        own = array.sel(image=image, token=tokens).mean("token")
        assert np.allclose(own.mean([dims[k] for k in keep]), result[maps].heat_map(word, image=image).values)
        for places in itertools.product(*(array[dims[k]].values.tolist() for k in keep)):
            asked = dict(zip(keep, places, strict=True))
            found = own.sel({dims[k]: place for k, place in asked.items()})
            assert np.allclose(found, result[maps].heat_map(word, image=image, **asked).values, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sums_in_half_precision_are_exported_in_single_precision(tiny, dtype):
    maps = AttentionMaps(["circle", "red"], keep=("step", "layer", "head"), dtype=dtype)
    result = run(tiny, maps)
    array = result.to_xarray().attention_8x8
    assert (array.dtype, array.attrs["kept_as"]) == (np.float32, dtype)
    assert array.token.values.tolist() == [2, 3]
    layer = array.layer.values[-1]
    heat = result[maps].heat_map("circle", step=1, layer=layer, head=1)
    assert same(array.sel(image=0, step=1, layer=layer, head=1, token=3), heat.values)


def test_prompts_that_a_callback_changed_are_variables_of_their_own():
    stock, maps = text_to_image(), AttentionMaps(keep=("step",), grids=[(8, 8)], rows="both")
    result = attached(stock, maps, **switching(stock, "a blue star"))
    dataset = result.to_xarray()
    first, second = dataset.attention_8x8_cond, dataset.attention_8x8_cond_prompt_2
    rest = dataset.attention_8x8_uncond
    assert [own[own.dims[1]].values.tolist() for own in (first, second, rest)] == [[0], [1, 2], [0, 1, 2]]
    assert first.dims[2:] == ("token", "y", "x")
    assert [dataset[f"token_text{k}"][0, 3].item() for k in ("", "_3")] == ["circle", "star"]
    assert [own.dims[2] for own in (rest, second)] == ["token_2", "token_3"]
    assert set(second.coords) == {"image", "step_3", "token_3", "token_text_3", "y", "x"}
    for step, array, word in ((0, first, "circle"), (2, second, "star")):
        found = array[0].sel({array.dims[1]: step}).isel({array.dims[2]: 3})
        assert np.allclose(found, result[maps].heat_map(word, step=step, role="cond").values)
    assert np.allclose(rest[0, 1, 4], result[maps].heat_map(4, step=1, role="uncond").values)


def test_a_layer_that_was_not_seen_in_a_step_is_nan(tiny):
    apart = AttentionMaps(keep=("layer",))
    names = [key.layer for key in run(tiny, apart)[apart].sums if key.grid == (4, 4)][:2]

    def by_turns(site):
        return site.name == names[site.index % 2]

    maps = AttentionMaps(keep=("step", "layer"), strict=False)
    result = run(tiny, only(maps, sites=by_turns))
    array = result.to_xarray().attention_4x4
    assert array.attrs["missing"] == "2 pairs of a step and a layer were not recorded, and are NaN"
    for step, name in enumerate(names):
        seen, unseen = (array.sel(image=0, step=step, layer=own, token=3) for own in (name, names[1 - step]))
        assert same(seen, result[maps].heat_map(3, step=step, layer=name).values)
        assert unseen.isnull().all()


# Everything else


def test_other_records_are_what_the_hooks_answer(tiny):
    own, latents = SelfAttentionMaps(), LatentRecorder(keep=("latents", "noise_pred", "denoised"), every=2)
    halves, statistics, preview = LatentRecorder(dtype="bfloat16"), Statistics(), Preview()
    loss, excite = sdprobe.LossGuidance(darkness, 1.0, start=1), sdprobe.AttendAndExcite(["red"])
    hooks = (own, latents, halves, statistics, preview, loss, excite)
    result = run(tiny, *hooks, prompt=PROMPTS, steps=3)
    dataset = result.to_xarray()
    for (h, w), image in itertools.product(result[own].sums, range(2)):
        assert same(dataset[f"self_attention_{h}x{w}"].sel(image=image), result[own].matrix(image, (h, w)))
    for name in ("latents", "noise_pred", "denoised"):
        assert same(dataset[name], result[latents][name])
        assert dataset[name].step.values.tolist() == [0, 2]
        for moment, values in result[statistics][name]._asdict().items():
            assert same(dataset[f"{name}_{moment}"], values)
    assert same(dataset.latents_2, result[halves]["latents"].float())
    assert (dataset.latents_2.attrs["kept_as"], dataset.latents_2.attrs["hook"]) == ("bfloat16", repr(halves))
    assert same(dataset.cosine, result[statistics].cosine)
    for name in ("losses", "norms", "changes"):
        assert same(dataset[f"loss_guidance_{name}"], getattr(result[loss], name))
    for name in ("losses", "pushes", "changes"):
        assert same(dataset[f"attend_and_excite_{name}"], getattr(result[excite], name))
    for step, image in itertools.product(range(3), range(2)):
        for name in ("latents", "denoised"):
            found = dataset[f"preview_{name}"][step, image]
            assert np.array_equal(found, np.asarray(result[preview][name][step][image]))
        assert np.array_equal(dataset.preview_final[image], np.asarray(result[preview].final[image]))
        assert np.array_equal(dataset.picture[image], np.asarray(result.images[image]))
    assert same(dataset.final_latents, result.latents)
    assert dataset.picture.dtype == np.uint8
    assert dataset.attrs["left_out"] == []


def test_activations_and_features(tiny):
    keep = sdprobe.Activations(["mid_block", "*attn2"], sides=("output", "input"), rows="cond")
    text = sdprobe.Activations("text_encoder.encoder.layers.0")
    features = made("features", tiny)
    result = run(tiny, keep, text, features, prompt=PROMPTS)
    dataset = result.to_xarray()
    for hook in (keep, text):
        for key in result[hook].record.keys:
            (found,) = (own for own in dataset.values() if own.attrs.get("module") == key.name
                        and (own.attrs["side"], own.attrs["stream"]) == key[1:3])  # fmt: skip
            expected = result[hook][key]
            assert same(found, expected if hook is keep else expected[0])
    labels = [dataset[f"row_{name}"].values.tolist() for name in ("image", "role", "prompt")]
    assert labels == [[0, 1], ["cond", "cond"], PROMPTS]
    record = result[features].record
    for key in record.keys:
        values, numbers = (dataset[f"feature_{what}_{key.name}"] for what in ("values", "indices"))
        dense = np.zeros((*values.shape[:-1], record.features), np.float32)
        np.put_along_axis(dense, numbers.values.astype(int), values.values, -1)
        assert np.array_equal(dense[1], record.at(1, key.name, stream=key.stream).numpy())


def test_activations_that_differ_between_steps_are_left_out(tiny):
    keep = sdprobe.Activations("mid_block", reduce=lambda x, site: x.flatten(2)[..., : 1 + site.index])
    result = run(tiny, keep)
    (said,) = result.to_xarray().attrs["left_out"]
    assert "has not the same shape in all steps" in said


def test_images_keep_their_numbers_under_limits(tiny):
    maps, latents, every = AttentionMaps(grids=[(8, 8)]), LatentRecorder(), LatentRecorder()
    result = run(tiny, only(maps, rows=[1, 2]), only(latents, rows=[2]), every, prompt=[*PROMPTS, "a ring"])
    dataset = result.to_xarray()
    assert [dataset[n][dataset[n].dims[k]].values.tolist() for n, k in (("attention_8x8", 0), ("latents", 1))] == [
        [1, 2],
        [2],
    ]
    assert same(dataset.latents[:, 0], result[every]["latents"][:, 2])
    assert same(dataset.attention_8x8.sel(image=2, token=2), result[maps].heat_map("ring", image=1).values)
    assert "only(" in dataset.latents.attrs["hook"]
    result.records = [pair for pair in result.records if pair[1] in (result[latents], result[every])]
    alone = result.to_xarray()  # nothing says any more that the hook was limited
    assert alone.latents.dims[1] not in alone.latents.coords
    assert "not known" in alone.latents.attrs["image_numbers"]


def test_what_is_exported_says_what_it_is_of(tiny):
    class Mine(sdprobe.Observer):
        def noise_pred(self, x, step): ...

    hooks = (sdprobe.Checkpoints(), Mine(), AttentionMaps(modules=("mid*",)), AttentionMaps(grids=[(8, 8)]))
    result = run(tiny, *hooks, prompt=PROMPTS, negative_prompt="a star", seed=[3, 4])
    dataset = result.to_xarray()
    said = dataset.attrs
    assert (said["prompts"], said["negative_prompts"], said["seed"]) == (PROMPTS, ["a star"] * 2, [3, 4])
    assert (said["steps"], said["guidance_scale"], said["scheduler"]) == (2, 3.0, result.settings.scheduler)
    assert said["model"] == result.model_name
    assert [entry.split()[0] for entry in said["versions"]][:3] == ["python", "sdprobe", "torch"]
    assert said["hooks"] == [repr(hook) for hook, _ in result.records]
    assert [entry.split(":")[0] for entry in said["left_out"]] == ["Checkpoints()", "Mine()"]
    assert "attention_8x8_2" in dataset
    assert "attention_8x8" not in dataset
    assert dataset.attention_8x8_2.attrs["hook"] == repr(hooks[-1])


def test_an_unpickled_run_gives_the_same_dataset(tiny):
    hooks = (AttentionMaps(keep=("step",)), only(LatentRecorder(), rows=[1]), Statistics(), Preview())
    result = run(tiny, *hooks, prompt=PROMPTS)
    assert pickle.loads(pickle.dumps(result)).to_xarray().identical(result.to_xarray())


def test_a_run_that_was_not_made_is_refused(tiny):
    with sdprobe.attach(tiny.pipe) as result, pytest.raises(ValueError, match="call the pipeline inside the `with`"):
        result.to_xarray()


def test_a_dataset_is_apart_from_the_run(tiny):
    latents = LatentRecorder()
    result = run(tiny, latents)
    before = result.latents.clone(), result[latents]["latents"]
    dataset = result.to_xarray()
    dataset.final_latents[:], dataset.latents[:] = 0, 0
    assert torch.equal(result.latents, before[0])
    assert torch.equal(result[latents]["latents"], before[1])


# zarr


@pytest.mark.filterwarnings("error")
def test_a_folder_in_zarr_s_format_is_the_dataset(tiny, tmp_path):
    pytest.importorskip("zarr")
    hooks = (AttentionMaps(keep=("step", "layer"), rows="both"), Preview(), LatentRecorder(dtype="float16"))
    result = run(tiny, *hooks, sdprobe.Activations("mid_block"), prompt=PROMPTS)
    path = result.to_zarr(tmp_path / "run.zarr")
    (tmp_path / "empty").mkdir()
    for again in (path, result.to_zarr(str(tmp_path / "empty"))):
        with xarray.open_zarr(again) as opened:
            assert opened.equals(result.to_xarray())
            assert opened.attrs == result.to_xarray().attrs
            assert opened.attention_8x8.attrs == result.to_xarray().attention_8x8.attrs
    assert {own.name for own in tmp_path.iterdir()} == {"run.zarr", "empty"}


def test_a_folder_with_something_in_it_is_left_alone(tiny, tmp_path):
    result = run(tiny)
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"has something in it.*give another path"):
        result.to_zarr(tmp_path)
    with pytest.raises(FileExistsError, match="is a file"):
        result.to_zarr(tmp_path / "note.txt")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        result.to_zarr(tmp_path / "none" / "run.zarr")
    assert [own.name for own in tmp_path.iterdir()] == ["note.txt"]


def test_a_folder_that_could_not_be_written_whole_is_none(tiny, tmp_path, monkeypatch):
    def interrupted(dataset, path, **settings):
        Path(path).mkdir()
        (Path(path) / "zarr.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(xarray.Dataset, "to_zarr", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tiny).to_zarr(tmp_path / "run.zarr")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["xarray", "zarr"])
def test_what_is_missing_is_named(tiny, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"needs {missing}: pip install 'sdprobe\[xarray\]'"):
        run(tiny).to_zarr(tmp_path / "run.zarr")
    assert math.prod(run(tiny).numpy()["picture"].shape) == 3 * 16 * 16
