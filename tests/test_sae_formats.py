"""The formats of sparse autoencoders: each written here by hand as its own library writes it, and read again."""

from __future__ import annotations

import json
import os
import pickle

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from safetensors.torch import load_file, save_file

from sdprobe.sae.activation_function import JumpReLU, ReLU, TopK
from sdprobe.sae.sparse_autoencoder import SparseAutoencoder
from tests.test_sparse_autoencoder import FEATURES, WIDTH, activations, made, vectors

PLAIN = ("W_enc", "b_enc", "W_dec", "b_dec")


def plain(sae):
    return {name: getattr(sae, name).contiguous() for name in PLAIN}


def same(one, other):
    assert one.apply_b_dec_to_input == other.apply_b_dec_to_input
    assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in PLAIN)
    assert type(one.activation) is type(other.activation)
    return torch.equal(one(vectors(9)), other(vectors(9)))


def sae_lens(folder, sae, **said):
    """The folder as sae-lens writes it."""
    folder.mkdir(exist_ok=True)
    threshold = {"threshold": sae.activation.threshold} if isinstance(sae.activation, JumpReLU) else {}
    save_file(plain(sae) | threshold, folder / "sae_weights.safetensors")
    usual = {"d_in": WIDTH, "d_sae": FEATURES, "dtype": "float32", "normalize_activations": "none", "metadata": {}}
    (folder / "cfg.json").write_text(json.dumps(usual | said))
    return folder


def sdxl_unbox(folder, sae, k=3):
    """The folder as SDXL-unbox writes it: modules of torch hold their weights the other way round."""
    folder.mkdir(exist_ok=True)
    state = {
        "pre_bias": sae.b_dec,
        "latent_bias": sae.b_enc,
        "stats_last_nonzero": torch.zeros(FEATURES, dtype=torch.long),
        "encoder.weight": sae.W_enc.T.contiguous(),
        "decoder.weight": sae.W_dec.T.contiguous(),
    }
    torch.save({"state_dict": state}, folder / "state_dict.pth")
    said = {"n_dirs_local": FEATURES, "d_model": WIDTH, "k": k, "auxk": 256, "dead_steps_threshold": 2441}
    (folder / "config.json").write_text(json.dumps(said))
    return folder, state


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(activation=activations)
@pytest.mark.parametrize("name", ["one.safetensors", "folder"])
@pytest.mark.parametrize("centred", [True, False])
def test_what_is_saved_is_loaded(tmp_path, activation, name, centred):
    sae = made(activation, apply_b_dec_to_input=centred)
    sae.save(tmp_path / name)
    assert same(SparseAutoencoder.load(tmp_path / name), sae)


def test_a_folder_is_sae_lens_own(tmp_path):
    made(TopK(4)).save(tmp_path / "sae")
    said = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert (said["architecture"], said["k"], said["d_in"], said["d_sae"]) == ("topk", 4, WIDTH, FEATURES)
    weights = load_file(tmp_path / "sae" / "sae_weights.safetensors")
    assert weights["W_enc"].shape == (WIDTH, FEATURES)


@pytest.mark.parametrize(
    ("activation", "said"),
    [
        (ReLU(), {"architecture": "standard"}),
        (ReLU(), {"activation_fn_str": "relu", "normalize_activations": None}),
        (TopK(4), {"architecture": "topk", "k": 4}),
        (TopK(4), {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}}),
        (JumpReLU(torch.linspace(0, 2, FEATURES)), {"architecture": "jumprelu"}),
    ],
)
@pytest.mark.parametrize("centred", [True, False])
def test_sae_lens(tmp_path, activation, said, centred):
    sae = made(activation, apply_b_dec_to_input=centred)
    folder = sae_lens(tmp_path / "sae", sae, apply_b_dec_to_input=centred, **said)
    assert same(SparseAutoencoder.load(folder), sae)


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ({"normalize_activations": "layer_norm"}, "normalize_activations='layer_norm', which is not computed here"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor=True, which is not computed here"),
        ({"rescale_acts_by_decoder_norm": True}, "rescale_acts_by_decoder_norm=True"),
        ({"architecture": "gated"}, "architecture 'gated'; what can be loaded: standard .*, topk, jumprelu"),
        ({"activation_fn_str": "tanh-relu"}, "activation function 'tanh-relu'"),
        ({"architecture": "topk"}, "k, is not said"),
        ({"architecture": "jumprelu"}, "the weights threshold are missing; there are: W_dec"),
    ],
)
def test_what_sae_lens_can_and_this_cannot_is_refused(tmp_path, said, refused):
    folder = sae_lens(tmp_path / "sae", made(ReLU()), **said)
    with pytest.raises(ValueError, match=refused):
        SparseAutoencoder.load(folder)


def test_sdxl_unbox(tmp_path):
    sae = made(TopK(3))
    folder, state = sdxl_unbox(tmp_path / "sae", sae)
    assert same(SparseAutoencoder.load(folder), sae)
    (folder / "state_dict.pth").unlink()
    save_file(state, folder / "state_dict.safetensors")
    assert same(SparseAutoencoder.load(folder), sae)
    assert same(SparseAutoencoder.load(folder / "state_dict.safetensors", activation=TopK(3)), sae)
    with pytest.raises(ValueError, match="k, is not said"):
        SparseAutoencoder.load(folder / "state_dict.safetensors")


def test_sparsify(tmp_path):
    sae = made(TopK(3))
    weights = {"encoder.weight": sae.W_enc.T.contiguous(), "encoder.bias": sae.b_enc}
    save_file(weights | {"W_dec": sae.W_dec, "b_dec": sae.b_dec}, tmp_path / "sae.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps({"k": 3, "d_in": WIDTH, "activation": "topk"}))
    assert same(SparseAutoencoder.load(tmp_path), sae)
    for said, refused in (({"transcode": True}, "transcoder"), ({"activation": "groupmax"}, "'groupmax'")):
        (tmp_path / "cfg.json").write_text(json.dumps({"k": 3} | said))
        with pytest.raises(ValueError, match=refused):
            SparseAutoencoder.load(tmp_path)


def test_a_plain_file_of_others(tmp_path):
    sae, path = made(TopK(3)), tmp_path / "other.safetensors"
    save_file(plain(sae), path)
    with pytest.raises(ValueError, match="does not say its activation function"):
        SparseAutoencoder.load(path)
    assert same(SparseAutoencoder.load(path, activation=TopK(3)), sae)
    threshold = torch.linspace(0, 2, FEATURES)
    save_file(plain(sae) | {"threshold": threshold}, path)
    assert same(SparseAutoencoder.load(path), made(JumpReLU(threshold)))


def test_nothing_is_unpickled(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    folder, _ = sdxl_unbox(tmp_path / "sae", made())
    for content in (pickle.dumps(Hostile(), protocol=2), b"nothing"):
        (folder / "state_dict.pth").write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read without unpickling"):
            SparseAutoencoder.load(folder)
    assert not (tmp_path / "ran").exists()
    torch.save({"state_dict": {"pre_bias": "text"}}, folder / "state_dict.pth")
    with pytest.raises(ValueError, match="not weights by name"):
        SparseAutoencoder.load(folder)


def test_what_is_no_autoencoder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        SparseAutoencoder.load(tmp_path / "none")
    (tmp_path / "readme.txt").write_text("")
    with pytest.raises(ValueError, match=r"holds readme.txt, and none of the known pairs: cfg.json and sae_weights"):
        SparseAutoencoder.load(tmp_path)
    with pytest.raises(ValueError, match="is not a file of safetensors"):
        SparseAutoencoder.load(tmp_path / "readme.txt")
    save_file({"W_enc": torch.zeros(2, 3)}, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match="the weights b_enc, W_dec, b_dec are missing; there are: W_enc"):
        SparseAutoencoder.load(tmp_path / "part.safetensors", activation=ReLU())
    folder = sae_lens(tmp_path / "sae", made(), architecture="topk", k=3)
    (folder / "cfg.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"cfg.json holds no settings by name: a JSON object is needed, not list"):
        SparseAutoencoder.load(folder)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("{", "not JSON"),
        ("[1]", "a JSON object is needed, not list"),
        ("[" * 100000, "not JSON"),
        ('{"architecture": "topk", "k": [1]}', r"k is a whole number from 1 on, not \[1\]"),
        ('{"architecture": "topk", "k": "abc"}', "k is a whole number from 1 on, not 'abc'"),
        ('{"architecture": "topk", "k": 1.9}', "k is a whole number from 1 on, not 1.9"),
        ('{"architecture": "topk", "k": Infinity}', "k is a whole number from 1 on, not inf"),
        ('{"architecture": "topk", "activation_fn_kwargs": [1]}', r"activation_fn_kwargs=\[1\] are no settings"),
    ],
)
def test_settings_that_say_nothing_are_refused(tmp_path, text, refused):
    folder, file = sae_lens(tmp_path / "sae", made(ReLU())), tmp_path / "one.safetensors"
    (folder / "cfg.json").write_text(text)
    save_file(plain(made()), file, {"sae": text})
    for path in (folder, file):
        with pytest.raises(ValueError, match=f"^{path}: .*{refused}"):
            SparseAutoencoder.load(path)


def test_a_whole_number_may_be_written_with_a_point(tmp_path):
    folder = sae_lens(tmp_path / "sae", made(), architecture="topk", k=3.0)
    assert same(SparseAutoencoder.load(folder), made(TopK(3)))


@pytest.mark.parametrize("name", [*PLAIN, "threshold"])
@pytest.mark.parametrize("number", [torch.nan, -torch.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, name, number):
    weights = plain(made()) | {"threshold": torch.zeros(FEATURES)}
    weights[name].view(-1)[0] = number
    save_file(weights, tmp_path / "one.safetensors")
    with pytest.raises(ValueError, match=f"one.safetensors: {name} must be finite: 1 of its"):
        SparseAutoencoder.load(tmp_path / "one.safetensors")


def test_weights_that_do_not_fit_are_refused_with_their_file(tmp_path):
    save_file(plain(made()) | {"b_dec": torch.zeros(WIDTH + 1)}, tmp_path / "one.safetensors")
    with pytest.raises(ValueError, match=r"one.safetensors: W_enc is .* so b_dec must be"):
        SparseAutoencoder.load(tmp_path / "one.safetensors", ReLU())
