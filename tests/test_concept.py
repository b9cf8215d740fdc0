"""`Concept` and `load_concept`: every file in circulation is read, and nothing in a file is ever run."""

from __future__ import annotations

import builtins
import os
import pickle
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import sdprobe
from sdprobe.core.concept import Concept, load_concept

TOKEN = "<my-style>"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def numbers(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def web_ui(params, **further):
    """What web UIs write."""
    return {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": params, "name": TOKEN, "step": 3, **further}


def before_torch_1_12(params):
    """A `ParameterDict` as earlier versions of torch pickled it."""
    held = nn.ParameterDict(params)
    for name in set(vars(held)) - {"training", "_parameters", "_buffers", "_modules"}:
        del held.__dict__[name]
    return held


# Each: what is written, and the token and the vectors that are to be read.
ONE, SEVERAL = numbers(8), numbers(3, 8)
CONTENTS = {
    "diffusers": (lambda v: {TOKEN: v}, TOKEN),
    "diffusers, a parameter": (lambda v: {TOKEN: nn.Parameter(v)}, TOKEN),
    "nameless": (lambda v: {"emb_params": v}, None),
    "a tensor": (lambda v: v, None),
    "a parameter": (nn.Parameter, None),
    "web UI": (lambda v: web_ui({"*": v}), TOKEN),
    "web UI, a dictionary of parameters": (lambda v: web_ui(nn.ParameterDict({"*": nn.Parameter(v)})), TOKEN),
    "web UI, an old dictionary of parameters": (lambda v: web_ui(before_torch_1_12({"*": nn.Parameter(v)})), TOKEN),
    "web UI, with nothing said of the model": (lambda v: web_ui({"*": v}, sd_checkpoint=None), TOKEN),
    "the original code": (lambda v: {"string_to_param": nn.ParameterDict({"*": nn.Parameter(v)})}, None),
    "the original code, named": (lambda v: {"string_to_param": {TOKEN: v}}, TOKEN),
}
MODULES = ("web UI, a dictionary of parameters", "web UI, an old dictionary of parameters", "the original code")


# Dictionaries of parameters in the old format are left out: torch gave it up before textual inversion was known.
FORMATS = [(content, zipped) for content in CONTENTS for zipped in (True, False) if zipped or content not in MODULES]


@pytest.mark.parametrize(("content", "zipped"), FORMATS)
@pytest.mark.parametrize("vectors", [ONE, SEVERAL], ids=["one", "several"])
def test_every_pickle_in_circulation(tmp_path, content, vectors, zipped):
    make, token = CONTENTS[content]
    path = tmp_path / "concept.pt"
    torch.save(make(vectors), path, _use_new_zipfile_serialization=zipped)
    before = set(torch.serialization.get_safe_globals())
    concept = load_concept(path)
    assert set(torch.serialization.get_safe_globals()) == before
    assert concept.token == token
    assert set(concept.vectors) == {"text_encoder"}
    assert torch.equal(concept.vectors["text_encoder"], torch.atleast_2d(vectors))
    assert type(concept.vectors["text_encoder"]) is torch.Tensor
    assert not concept.vectors["text_encoder"].requires_grad


@pytest.mark.parametrize("write", [torch.save, save_file])
def test_the_pair_of_two_encoders(tmp_path, write):
    pair = {"clip_l": numbers(2, 8), "clip_g": numbers(2, 12, seed=1)}
    write(pair, tmp_path / "pair")
    concept = load_concept(tmp_path / "pair")
    assert concept.token is None
    assert torch.equal(concept.vectors["text_encoder"], pair["clip_l"])
    assert torch.equal(concept.vectors["text_encoder_2"], pair["clip_g"])


@pytest.mark.parametrize(("name", "token"), [(TOKEN, TOKEN), ("emb_params", None), ("*", None)])
def test_safetensors(tmp_path, name, token):
    save_file({name: SEVERAL}, tmp_path / "concept.safetensors")
    concept = load_concept(str(tmp_path / "concept.safetensors"))
    assert concept.token == token
    assert torch.equal(concept.vectors["text_encoder"], SEVERAL)


def test_a_folder_and_a_misleading_name(tmp_path):
    save_file({TOKEN: ONE}, tmp_path / "learned_embeds.bin")  # by its name a pickle
    assert torch.equal(load_concept(tmp_path).vectors["text_encoder"], ONE[None])
    torch.save({TOKEN: SEVERAL}, tmp_path / "learned_embeds.safetensors")  # the safer name comes first
    assert torch.equal(load_concept(tmp_path).vectors["text_encoder"], SEVERAL)


@given(
    count=st.integers(1, 4),
    width=st.integers(1, 6),
    pair=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    token=st.none() | st.sampled_from([TOKEN, "style", "<ü>"]),
    losses=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3),
)
def test_what_is_saved_is_loaded(count, width, pair, dtype, token, losses):
    vectors = {"text_encoder": numbers(width, count, dtype=dtype).T.requires_grad_()}  # not contiguous
    if pair:
        vectors["text_encoder_2"] = numbers(count, width + 1, dtype=dtype)
    concept = Concept(vectors, token, tuple(losses))
    with tempfile.TemporaryDirectory() as folder:
        path = concept.save(Path(folder) / "concept.safetensors")
        again = load_concept(path)
        assert os.listdir(folder) == ["concept.safetensors"]
    assert (again.token, again.losses, repr(again)) == (concept.token, concept.losses, repr(concept))
    assert set(again.vectors) == set(vectors)
    assert all(torch.equal(again.vectors[name], vectors[name]) for name in vectors)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    concept = Concept({"text_encoder": SEVERAL}, TOKEN)
    path = concept.save(tmp_path / "concept.safetensors")
    content = path.read_bytes()
    with pytest.raises(Exception, match="meta"):
        Concept({"text_encoder": SEVERAL.to("meta")}, TOKEN).save(path)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["concept.safetensors"]
    with pytest.raises(ValueError, match=r"saved as .safetensors, not as 'concept.pt'"):
        concept.save(tmp_path / "concept.pt")


class Wicked:
    """A pickle of this runs code that writes a file."""

    def __init__(self, call, argument):
        self.call, self.argument = call, argument

    def __reduce__(self):
        return self.call, (self.argument,)


CALLS = {
    "os.system": (os.system, "touch {}"),
    "builtins.exec": (builtins.exec, "open({!r}, 'w').close()"),
    "builtins.eval": (builtins.eval, "open({!r}, 'w').close()"),
    "subprocess.check_call": (subprocess.check_call, ["touch", "{}"]),
}
PLACES = {
    "alone": lambda evil: evil,
    "for a vector": lambda evil: {TOKEN: evil},
    "beside vectors": lambda evil: web_ui({"*": SEVERAL}, sd_checkpoint=evil),
    "in a dictionary of parameters": lambda evil: web_ui(evil_dict(evil)),
}
WRITERS = {
    "zipped": torch.save,
    "of before torch 1.6": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "a plain pickle": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2)),
}


def evil_dict(evil):
    held = nn.ParameterDict({"*": nn.Parameter(SEVERAL)})
    held.__dict__["_forward_hooks"] = evil
    return held


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("call", CALLS)
def test_a_pickle_that_wants_to_run_code_runs_nothing(tmp_path, call, place, writer):
    written = tmp_path / "it ran"
    function, argument = CALLS[call]
    quoted = f"'{written}'" if call == "os.system" else str(written)
    filled = [part.format(written) for part in argument] if isinstance(argument, list) else argument.format(quoted)
    before = set(torch.serialization.get_safe_globals())
    is_module = place == "in a dictionary of parameters" and writer == "of before torch 1.6"  # refused before its state
    why = "neither .safetensors nor" if is_module else "a pickle that wants to run code"
    for name in ("learned_embeds.bin", "style.pt", "style.safetensors"):
        path = tmp_path / name
        WRITERS[writer](PLACES[place](Wicked(function, filled)), path)
        with pytest.raises(ValueError, match=rf"is {why} .*Nothing of it was executed") as raised:
            load_concept(path)
        assert not written.exists()
        assert "weights_only" not in str(raised.value)  # torch's advice on how to run it all the same is kept away
        assert raised.value.__cause__ is None
        assert set(torch.serialization.get_safe_globals()) == before
    # It was a real one.
    if writer == "a plain pickle":
        pickle.loads((tmp_path / "style.pt").read_bytes())
    else:
        torch.load(tmp_path / "style.pt", weights_only=False)
    assert written.exists()


UNFIT = {
    "two concepts": ({"<a>": ONE, "<b>": ONE}, r"holds 2 concepts, '<a>', '<b>': choose one, as in token='<a>'"),
    "two parameters": ({"string_to_param": {"<a>": ONE, "<b>": ONE}}, "holds 2 concepts, '<a>', '<b>': choose one"),
    "no dictionary of parameters": ({"string_to_param": ONE}, "holds Tensor, not a concept; read is"),
    "nothing": ({}, "holds dict; read is"),
    "a list": ([ONE], "holds list; read is"),
    "no numbers": ({TOKEN: torch.full((1, 8), torch.nan)}, "vectors of text_encoder must be finite: 8 of its 8"),
    "an infinite number": ({TOKEN: torch.tensor([1.0, torch.inf])}, "1 of its 2 numbers are NaN or infinite"),
    "two for one encoder": (
        {"clip_l": ONE, "text_encoders_0": ONE},
        "holds 'clip_l', 'text_encoders_0', two of them for one encoder",
    ),
    "a network": ({"conv_in.weight": ONE, "conv_in.bias": ONE}, "the weights of a network, 'conv_in.weight' among"),
    "a LoRA of web UIs": (
        {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": SEVERAL},
        r"concept.pt is a LoRA, not a concept: it holds 'lora_te_.*pipe.load_lora_weights\('.*concept.pt'\)",
    ),
    "a LoRA of diffusers": (
        {"unet.up.attn1.to_q.lora_A.weight": SEVERAL, "unet.up.attn1.to_q.lora_B.weight": ONE},
        "is a LoRA",
    ),
    "a LoRA of old diffusers": ({"up.attn1.processor.to_q_lora.down.weight": SEVERAL}, "is a LoRA"),
    "a LyCORIS": ({"down_0.hada_w1_a": SEVERAL}, "is a LoRA"),
    "a text": ({TOKEN: "style"}, "text_encoder holds str, not a tensor"),
    "whole numbers": (
        {TOKEN: torch.ones(2, 8, dtype=torch.long)},
        r"must be numbers \[vectors, width\], not torch.int64",
    ),
    "too many axes": (ONE.expand(2, 2, 8), r"not torch.float32 \[2, 2, 8\]"),
    "one number": (torch.tensor(1.0), r"not torch.float32 \[1\]"),
    "no vector": (torch.zeros(0, 8), r"not torch.float32 \[0, 8\]"),
    "an uneven pair": (
        {"clip_l": numbers(2, 8), "clip_g": numbers(3, 12)},
        "as many vectors for every encoder.*not text_encoder 2 × 8, text_encoder_2 3 × 12",
    ),
}


@pytest.mark.parametrize("what", UNFIT)
def test_other_contents_are_refused(tmp_path, what):
    content, message = UNFIT[what]
    torch.save(content, tmp_path / "concept.pt")
    with pytest.raises(ValueError, match=message):
        load_concept(tmp_path / "concept.pt")


@pytest.mark.parametrize("content", [b"", b"a text", b"PK\x03\x04 broken", b"\x80\x02.", b"\x08\0\0\0\0\0\0\0{broken}"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "concept").write_bytes(content)
    with pytest.raises(ValueError, match=r"neither .safetensors nor a pickle of tensors"):
        load_concept(tmp_path / "concept")


@pytest.mark.parametrize("about", [{"token": "[1]"}, {"losses": '["low"]'}, {"losses": "{"}, {"losses": "3"}])
def test_what_a_file_says_of_itself_is_not_believed(tmp_path, about):
    save_file({TOKEN: ONE}, tmp_path / "concept", metadata={f"sdprobe.{name}": said for name, said in about.items()})
    with pytest.raises(ValueError, match="concept"):
        load_concept(tmp_path / "concept")


PIVOTAL = {
    "of Stable Diffusion 1": ({"text_encoders_0": numbers(2, 8)}, ("text_encoder",)),
    "of two encoders": (
        {"text_encoders_0": numbers(2, 8), "text_encoders_1": numbers(2, 12)},
        ("text_encoder", "text_encoder_2"),
    ),
    "of Flux": ({"clip_l": numbers(2, 8), "t5": numbers(2, 12)}, ("text_encoder", "text_encoder_2")),
}


@pytest.mark.parametrize("what", PIVOTAL)
def test_pivotal_tuning(tmp_path, what):
    content, encoders = PIVOTAL[what]
    save_file(content, tmp_path / "emb.safetensors")
    found = load_concept(tmp_path / "emb.safetensors", token="<s>")
    assert found.token == "<s>"
    assert load_concept(tmp_path / "emb.safetensors").token is None
    for encoder, value in zip(encoders, content.values(), strict=True):
        assert torch.equal(found.vectors[encoder], value)
    assert set(found.vectors) == set(encoders)


@pytest.mark.parametrize("content", [{"<a>": ONE, "<b>": SEVERAL}, web_ui({"<a>": ONE, "<b>": SEVERAL})])
def test_one_of_several_tokens(tmp_path, content):
    path = tmp_path / "two.bin"
    torch.save(content, path)
    for token, value in (("<a>", ONE), ("<b>", SEVERAL)):
        found = load_concept(path, token=token)
        assert found.token == token
        assert torch.equal(found.vectors["text_encoder"], value.reshape(-1, 8))
        assert sdprobe.UseConcept(path, token=token).token == token
        assert torch.equal(sdprobe.UseConcept(path, token=token).concept.vectors["text_encoder"], value.reshape(-1, 8))
    for refused in (load_concept, sdprobe.UseConcept):
        with pytest.raises(ValueError, match=r"holds no concept '<c>'; it holds '<a>', '<b>'"):
            refused(path, token="<c>")
        with pytest.raises(ValueError, match=r"holds 2 concepts, '<a>', '<b>': choose one, as in token='<a>'"):
            refused(path)


def test_a_token_that_a_file_of_one_does_not_hold(tmp_path):
    torch.save({"<a>": ONE}, tmp_path / "one.bin")
    with pytest.raises(ValueError, match=r"holds no concept '<b>'; it holds '<a>'"):
        load_concept(tmp_path / "one.bin", token="<b>")
    assert sdprobe.UseConcept(tmp_path / "one.bin", token="<b>").token == "<b>"  # there it is a name for it


@pytest.mark.parametrize("name", ["lora", "lora-style", "<lora_style>", "alpha", "flora_up"])
def test_a_token_may_speak_of_a_lora(tmp_path, name):
    save_file({name: ONE}, tmp_path / "one.safetensors")
    assert load_concept(tmp_path / "one.safetensors").token == name


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no style.pt"):
        load_concept(tmp_path / "style.pt")
    with pytest.raises(FileNotFoundError, match=r"no learned_embeds.safetensors and no learned_embeds.bin"):
        load_concept(tmp_path)


def test_a_concept_by_hand():
    with pytest.raises(ValueError, match=r"by encoder, text_encoder or text_encoder_2, not \['unet'\]"):
        Concept({"unet": SEVERAL})
    with pytest.raises(ValueError, match=r"at least one"):
        Concept({})
    given = {"text_encoder": SEVERAL}
    concept = Concept(given, TOKEN, losses=(0.5, 0.25))
    given["text_encoder_2"] = SEVERAL
    assert set(concept.vectors) == {"text_encoder"}
    assert len(concept) == len(SEVERAL)
    assert repr(concept) == f"Concept({TOKEN!r}, 3 × 8, 2 losses)"
    assert repr(Concept(given)) == "Concept(text_encoder 3 × 8, text_encoder_2 3 × 8)"
