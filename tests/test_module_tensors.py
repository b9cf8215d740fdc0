"""`pass_inputs` and `pass_output`: every tensor once, by the name of its stream, and what is no tensor as it was."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModelOutput
from torch import nn

from sdprobe.model.module_tensors import pass_inputs, pass_output


class Takes(nn.Module):
    def forward(self, hidden_states, temb=None, res_hidden_states_tuple=(), encoder_hidden_states=None, **rest):
        return hidden_states


class Log:
    def __init__(self, change=lambda x: x):
        self.streams, self.change = [], change

    def __call__(self, stream, x):
        self.streams.append(stream)
        return self.change(x)


def ones(*shape):
    return torch.ones(shape or (1, 2))


@pytest.mark.parametrize(
    ("output", "streams"),
    [
        (ones(), ["hidden"]),
        ((ones(),), ["hidden"]),
        ((ones(), (ones(), ones())), ["hidden", "skip 0", "skip 1"]),
        ((ones(), (ones(),)), ["hidden", "skip 0"]),
        ((ones(), None, ones()), ["hidden", "output 2"]),
        ((None, ones()), ["hidden"]),
        (Transformer2DModelOutput(sample=ones()), ["hidden"]),
        ({"last_hidden_state": ones(), "pooler_output": ones()}, ["hidden", "pooler_output"]),
        ((), []),
        (None, []),
    ],
)
def test_every_tensor_of_an_output_passes_once_and_comes_back_in_its_place(output, streams):
    log = Log()
    assert pass_output(nn.Identity(), "m", output, log) is output
    assert log.streams == streams
    doubled = pass_output(nn.Identity(), "m", output, Log(lambda x: 2 * x))
    assert type(doubled) is type(output)
    seen = []
    pass_output(nn.Identity(), "m", doubled, lambda stream, x: seen.append(x) or x)
    assert all(torch.equal(x, 2 * ones()) for x in seen)
    assert len(seen) == len(streams)


def test_arguments_are_named_as_the_field_names_them_however_they_are_given():
    x, time, skips, text = ones(), ones(), (ones(), ones()), ones()
    by_position, by_name = Log(), Log()
    assert (
        pass_inputs(Takes(), "m", (x, time, skips), {"encoder_hidden_states": text, "scale": 2.0}, by_position) is None
    )
    named = {"hidden_states": x, "temb": time, "res_hidden_states_tuple": skips, "encoder_hidden_states": text}
    pass_inputs(Takes(), "m", (), named | {"mask": ones()}, by_name)
    assert by_position.streams == ["hidden", "time", "skip 0", "skip 1", "text"]
    assert by_name.streams == [*by_position.streams, "mask"]
    args, kwargs = pass_inputs(Takes(), "m", (x, time), {"scale": 2.0}, Log(lambda x: 3 * x))
    assert torch.equal(args[0], 3 * x)
    assert kwargs == {"scale": 2.0}


def test_what_nothing_can_be_passed_of_is_refused_with_what_it_is_where_it_is_asked_for():
    @dataclass
    class Cache:
        keys: torch.Tensor

    log = Log()
    with pytest.raises(TypeError, match=r"the module m takes a Cache as 'past', whose tensors cannot be passed"):
        pass_inputs(Takes(), "m", (ones(),), {"past": Cache(ones())}, log)
    log.asks_for = lambda stream: stream == "hidden"
    assert pass_inputs(Takes(), "m", (ones(),), {"past": Cache(ones())}, log) is None


def test_a_named_tuple_stays_one():
    Pair = namedtuple("Pair", ["a", "b"])
    found = pass_output(nn.Identity(), "m", Pair(ones(), 3), Log(lambda x: 2 * x))
    assert isinstance(found, Pair)
    assert found.b == 3


def test_with_an_image_prompt_the_text_is_still_the_text():
    one, two = Log(), Log()
    pass_inputs(Takes(), "m", (ones(),), {"encoder_hidden_states": (ones(), [ones()])}, one)
    pass_inputs(Takes(), "m", (ones(),), {"encoder_hidden_states": (ones(), [ones(), ones()])}, two)
    assert one.streams == ["hidden", "text", "image prompt"]
    assert two.streams == ["hidden", "text", "image prompt 0", "image prompt 1"]
