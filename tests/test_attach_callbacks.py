"""Callbacks of one's own beside what is attached."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sdprobe
from sdprobe.stock_pipelines.attach import attach
from tests.families import flux, pixart, stable_diffusion_3, stable_diffusion_xl
from tests.laws.strategies import affine, same_run, same_values, seen
from tests.stock_pipelines import (
    SMALL,
    Stock,
    attached,
    called,
    controlnet,
    flux_guided,
    flux_image_to_image,
    image_to_image,
    inpainting,
    instruct_pix2pix,
    text_to_image,
    xl_controlnet,
    xl_inpainting,
)


def small(pipe):
    pipe.set_progress_bar_config(disable=True)
    return Stock(pipe, SMALL)


@pytest.fixture(scope="module")
def stock() -> Stock:
    return text_to_image()


def test_a_callback_is_called_as_ever_and_what_it_changes_is_seen(stock):
    def calling(log):
        def at_step_end(pipe, index, timestep, values):
            log.append((index, int(timestep), sorted(values), values["prompt_embeds"].clone()))
            return {"prompt_embeds": values["prompt_embeds"] * 0.5}

        return {
            "callback_on_step_end": at_step_end,
            "callback_on_step_end_tensor_inputs": ["prompt_embeds"],
        }

    alone, beside, final = [], [], seen("final_latents")
    expected = called(stock, **calling(alone))
    with attach(stock.pipe, [final]) as run:
        found = called(stock, **calling(beside))
    assert torch.equal(found, expected)
    assert [entry[:3] for entry in alone] == [entry[:3] for entry in beside]
    assert same_values([entry[3] for entry in alone], [entry[3] for entry in beside])

    def halved(pipe, index, timestep, values):
        return {"latents": values["latents"] / 2}

    latents = seen("latents")
    with attach(stock.pipe, [latents, final]) as run:
        found = called(stock, callback_on_step_end=halved, output_type="latent")
    assert torch.equal(found, run[final].values[0])
    assert torch.equal(called(stock, callback_on_step_end=halved, output_type="latent"), found)
    plain = attached(stock, latents)
    assert torch.equal(run[latents].values[1], plain[latents].values[1] / 2)


def test_a_run_that_a_callback_interrupts_ends_where_it_is(stock):
    def stop(pipe, index, timestep, values):
        pipe._interrupt = index == 1
        return {}

    final, latents = seen("final_latents"), seen("latents")
    with attach(stock.pipe, [final, latents]) as run:
        found = called(stock, callback_on_step_end=stop, output_type="latent", num_inference_steps=4)
    assert (len(run[final].values), len(run[latents].values)) == (1, 2)
    assert torch.equal(found, run.latents)


# Another prompt, given by a callback.


def encoded(pipe: Any, text: str) -> dict[str, Any]:
    """A prompt as a callback gives it to a pipeline with guidance, encoded by the pipeline itself."""
    if hasattr(pipe, "tokenizer_3"):
        embeds, negative, pooled, other = pipe.encode_prompt(text, None, None)
        return {"prompt_embeds": torch.cat([negative, embeds]), "pooled_prompt_embeds": torch.cat([other, pooled])}
    if hasattr(pipe, "transformer"):
        return {"prompt_embeds": pipe.encode_prompt(text)[0]}
    if hasattr(pipe, "tokenizer_2"):
        embeds, negative, pooled, other = pipe.encode_prompt(text)
        return {"prompt_embeds": torch.cat([negative, embeds]), "add_text_embeds": torch.cat([other, pooled])}
    if not hasattr(pipe, "encode_prompt"):
        return {"prompt_embeds": pipe._encode_prompt(text, "cpu", 1, True)}
    return {"prompt_embeds": torch.cat(pipe.encode_prompt(text, "cpu", 1, True)[:2][::-1])}


def switching(stock: Stock, text: str, at: int = 0) -> dict[str, Any]:
    """What has a callback give a pipeline another prompt at the end of a step."""

    def at_step_end(pipe, index, timestep, values):
        return encoded(pipe, text) if index == at else {}

    return {"callback_on_step_end": at_step_end, "callback_on_step_end_tensor_inputs": ["latents"]}


class Texts(sdprobe.Observer):
    """The prompts of the conditional rows at two points of each step."""

    def start(self, run):
        self.before, self.at = [], []

    def latents(self, x, step):
        self.before += [{row.prompt.text for row in step.rows if row.role == "cond"}]

    def model_output(self, x, step):
        self.at += [{row.prompt.text for row in step.rows if row.role == "cond"}]


SWITCHED = {
    "text to image": text_to_image,
    "image to image": image_to_image,
    "inpainting": inpainting,
    "InstructPix2Pix": instruct_pix2pix,
    "ControlNet": controlnet,
    "XL": lambda: small(stable_diffusion_xl()),
    "XL inpainting": xl_inpainting,
    "XL ControlNet": xl_controlnet,
    "SD 3": lambda: small(stable_diffusion_3()),
    "Flux": lambda: small(flux()),
    "Flux, guided": flux_guided,
    "Flux image to image": flux_image_to_image,
}


@pytest.mark.parametrize("name", SWITCHED)
def test_a_prompt_that_a_callback_gives_is_what_rows_and_maps_are_of(name):
    stock = SWITCHED[name]()
    asked = switching(stock, "a blue star") | {"num_inference_steps": 6 if "strength" in stock.given else 3}
    expected = called(stock, **asked)
    texts, maps = Texts(), sdprobe.AttentionMaps(keep=("step",))
    with attach(stock.pipe, [texts, maps, sdprobe.ScalePrompt(1.0), sdprobe.on("model_output", lambda x: x)]) as run:
        assert torch.equal(called(stock, **asked), expected)
    (begun, *rest), own = [text for text in run[texts].at if text], run[maps]
    assert begun == {"a red circle"}
    assert rest
    assert all(text == {"a blue star"} for text in rest)
    assert [text for text in run[texts].before if text] == [begun, *rest]
    assert run.prompts[0].text == "a red circle"
    # A word's map is over the steps whose prompt holds it.
    assert list(own.heat_maps()) == ["a", "red", "circle", "blue", "star"]
    assert torch.equal(own.heat_map("circle").values, own.heat_map("circle", step=0).values)
    later = range(1, len(rest) + 1)
    each = torch.stack([own.heat_map("star", step=i).values for i in later])
    assert torch.allclose(own.heat_map("star").values, each.mean(0), atol=1e-6)
    with pytest.raises(sdprobe.WordNotInPrompt, match="'circle' is not in the prompt 'a blue star'"):
        own.heat_map("circle", step=1)


@pytest.mark.parametrize("name", ["text to image", "XL", "SD 3", "Flux"])
def test_a_limited_change_of_the_text_leaves_a_prompt_that_came_later(name):
    stock = SWITCHED[name]()
    asked = switching(stock, "a blue ring")
    swap = sdprobe.only(sdprobe.ReplaceToken("circle", "star"), steps=range(9))
    swapped, star, circle = (
        attached(stock, *hooks, prompt=prompt, **asked)
        for hooks, prompt in (((swap,), "a red circle"), ((), "a red star"), ((), "a red circle"))
    )
    if name != "Flux":  # where a callback cannot give the one vector of the whole prompt, which stays as it came
        assert same_run(swapped, star)
    assert not same_run(swapped, circle)


def test_embeddings_that_a_callback_makes_itself_have_no_known_words(stock):
    def weaken(pipe, index, timestep, values):
        return {"prompt_embeds": values["prompt_embeds"] * 0.5} if index == 0 else {}

    asked = {"callback_on_step_end": weaken, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    maps, both = sdprobe.AttentionMaps(keep=("step",)), sdprobe.AttentionMaps(["circle"])
    run = attached(stock, maps, both, **asked)
    assert torch.equal(run[maps].heat_map("circle").values, run[maps].heat_map("circle", step=0).values)
    assert torch.allclose(run[maps].heat_map("circle").values, run[both].heat_map("circle").values, atol=1e-7)
    assert list(run[maps].heat_maps()) == ["a", "red", "circle"]
    with pytest.raises(sdprobe.WordNotInPrompt, match="prompt_embeds instead of a text"):
        run[maps].heat_map("circle", step=1)
    assert run[maps].heat_map(3, step=1).values.shape == (8, 8)


def test_a_prompt_can_come_back(stock):
    def at_step_end(pipe, index, timestep, values):
        return encoded(pipe, ("a blue star", "a red circle", "a green ring")[index])

    texts, maps = Texts(), sdprobe.AttentionMaps(keep=("step",))
    asked = {"callback_on_step_end": at_step_end, "callback_on_step_end_tensor_inputs": ["latents"]}
    run = attached(stock, texts, maps, **asked)
    assert run[texts].at == [{"a red circle"}, {"a blue star"}, {"a red circle"}]
    each = torch.stack([run[maps].heat_map("circle", step=i).values for i in (0, 2)])
    assert torch.allclose(run[maps].heat_map("circle").values, each.mean(0), atol=1e-7)


# What a callback calls for its own ends.


def busy(stock: Stock, log: list[Any]) -> Any:
    """A callback that encodes, calls the denoiser and makes pictures, and lets the pipeline be."""
    network = stock.pipe.unet if hasattr(stock.pipe, "unet") else stock.pipe.transformer
    last: dict[str, Any] = {}

    def keep(module, args, kwargs):
        last.setdefault("call", (args, dict(kwargs)))

    network.register_forward_pre_hook(keep, with_kwargs=True)

    def callback(*args):
        encode = stock.pipe.encode_prompt if hasattr(stock.pipe, "encode_prompt") else None
        if encode is not None:
            log.append(encode("a blue star", **({"device": "cpu"} if hasattr(stock.pipe, "unet") else {}), **one)[0])
        given, named = last["call"]
        log.append(network(*given, **named)[0])
        latents = args[3]["latents"] if len(args) == 4 else args[2]
        log.append(stock.pipe.image_processor.postprocess(torch.zeros(1, 3, 8, 8), output_type="pt"))
        log.append(latents.clone())
        return {}

    one: dict[str, Any] = {"num_images_per_prompt": 1}
    if hasattr(stock.pipe, "tokenizer_3"):
        one |= {"prompt_2": None, "prompt_3": None}
    if hasattr(stock.pipe, "unet") and not hasattr(stock.pipe, "tokenizer_2"):
        one["do_classifier_free_guidance"] = False
    return callback


BUSY = {**SWITCHED, "PixArt": lambda: Stock(small(pixart()).pipe, {**SMALL, "use_resolution_binning": False})}


@pytest.mark.parametrize("name", BUSY)
def test_what_a_callback_calls_itself_passes_no_hook_and_is_not_counted(name):
    stock = BUSY[name]()
    steps = 6 if "strength" in stock.given else 3
    alone, beside = [], []
    word = "callback" if name == "PixArt" else "callback_on_step_end"

    def asked(log):
        return {"num_inference_steps": steps, word: busy(stock, log)}

    plain, expected = called(stock, num_inference_steps=steps), called(stock, **asked(alone))
    assert torch.equal(plain, expected)
    change = affine("model_output", 1.1, 0.25)
    for hooks in ([sdprobe.AttentionMaps()], [sdprobe.ScalePrompt(1.0)], [change], [affine("attention", 1.1, 0.0)]):
        watching = [seen("model_output"), seen("prompt_embeds")]
        quiet = attached(stock, *hooks, *watching, num_inference_steps=steps)
        beside.clear()
        run = attached(stock, *hooks, *watching, **asked(beside))
        assert same_run(run, quiet)
        assert str(run.coverage) == str(quiet.coverage)
        assert all(same_values(run[watch].values, quiet[watch].values) for watch in watching)
        assert len(beside) == len(alone)
        if not any(isinstance(hook, sdprobe.Transform) for hook in hooks):
            assert same_values(beside, alone)


def test_an_old_callback_is_called_as_ever(stock):
    log = []

    def callback(index, timestep, latents):
        log.append((index, latents.clone()))
        stock.pipe.encode_prompt("a star", "cpu", 1, False)

    asked, latents = {"callback": callback, "callback_steps": 1}, seen("latents")
    run = attached(stock, latents, sdprobe.ScalePrompt(2.0), **asked)
    assert [index for index, _ in log] == [0, 1, 2]
    assert torch.equal(log[0][1], run[latents].values[1])
    assert torch.equal(log[2][1], run.latents)
