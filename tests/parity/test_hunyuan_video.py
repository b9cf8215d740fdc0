"""What is special to HunyuanVideo: the template around the prompt, guidance with a negative prompt, hidden padding."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from tests.parity.test_families import USUAL, assert_same
from tests.tiny_models.hunyuan_video import hunyuan_video

VIDEO = USUAL | {"frames": 5}


@pytest.fixture(scope="module")
def model():
    return sdprobe.load(hunyuan_video())


def attached(model, hooks, **asked):
    model.pipe.set_progress_bar_config(disable=True)
    given = {"num_inference_steps": 2, "height": 16, "width": 16, "num_frames": 5, "output_type": "pt", **asked}
    with sdprobe.attach(model.pipe, hooks) as run:
        videos = model.pipe("a red circle", generator=torch.Generator().manual_seed(5), **given).frames
    return run, videos


class Rows(sdprobe.Observer):
    """The rows of each call of the denoiser, and whether a further call says the same."""

    def start(self, run):
        self.rows, self.same = [], []

    def model_output(self, x, step):
        self.rows.append([(row.role, row.prompt.text) for row in step.rows])

    def noise_pred(self, x, step):
        self.same.append(torch.equal(step.predict(step.latents), step.model_output))


def test_the_prompt_is_read_in_its_template(model):
    whole, shown = model.read("a red circle", "text_encoder"), model.read("a red circle")
    assert whole.tokens[93:100] == ("<|end_header_id|>", "ĊĊ", "a", "Ġred", "Ġcircle", "<|eot_id|>", "<pad>")
    assert [whole.roles[k] for k in (0, 94, 95, 97, 98, 99)] == ["start", "start", "word", "word", "end", "pad"]
    assert (len(whole.ids), len(shown.ids)) == (95 + 256, 256)
    assert shown.words == {"a": ((0,),), "red": ((1,),), "circle": ((2,),)}
    clip = model.read("a red circle", "text_encoder_2")
    assert (len(clip.ids), clip.positions("circle")) == (77, (3,))


def test_a_text_beyond_the_context_is_cut_as_the_pipeline_cuts_it(model):
    text = "a red circle " + "of a star " * 120
    embeds = model.encoded([text])
    assert embeds["encoder_attention_mask"].sum() == 256
    prompt = model.read(text)
    assert len(prompt.ids) == 256
    assert set(prompt.roles) == {"word"}
    assert_same(model, **VIDEO | {"prompt": text})


def test_another_template_is_the_pipeline_s_argument(model):
    template = {"template": "<|start_header_id|>user<|end_header_id|>\n\nvideo of {}<|eot_id|>", "crop_start": 5}
    seen = sdprobe.AttentionMaps()
    run, videos = attached(model, [seen, sdprobe.ScalePrompt(1.0)], prompt_template=template)
    _, plain = attached(model, [], prompt_template=template)
    assert torch.equal(videos, plain)
    (place,) = run.prompts[0].positions("circle")
    assert run.prompts[0].tokens[place - 4 : place + 2] == ("o", "Ġof", "Ġa", "Ġred", "Ġcircle", "<|eot_id|>")
    assert set(run.prompts[0].roles[: place - 2]) == {"start"}


def test_guidance_with_a_negative_prompt_is_a_second_call(model):
    asked = {"true_cfg_scale": 3.0, "negative_prompt": "a green square"}
    run, videos = attached(model, [look := Rows()], **asked)
    _, plain = attached(model, [], **asked)
    assert torch.equal(videos, plain)
    assert run[look].rows == [[("cond", "a red circle")], [("uncond", "a green square")]] * 2
    assert run[look].same == [True] * 2


def test_no_query_looks_at_padding(model):
    class Padding(sdprobe.Observer):
        kinds = ("joint",)

        def start(self, run):
            self.most = []

        def attention(self, attn, site):
            prompt = attn.rows[0].prompt
            own = [k for k, role in enumerate(prompt.roles) if role == "pad"]
            self.most.append(float(attn.probs(tokens=site.tokens(own)).max()))
            self.text = site.text

    look = Padding()
    run = sdprobe.sample(model, hooks=[look], progress=False, **VIDEO)
    assert max(run[look].most) == 0
    assert run[look].text == slice(2 * 16, 2 * 16 + 256)


def test_the_refiner_s_attention_is_of_the_text_alone(model):
    class Text(sdprobe.Observer):
        kinds = ("text",)

        def start(self, run):
            self.seen = []

        def attention(self, attn, site):
            self.seen.append((site.name, site.grid, site.text, attn.key.shape[-2]))

    run = sdprobe.sample(model, hooks=[look := Text()], progress=False, **VIDEO | {"steps": 1})
    name = "context_embedder.token_refiner.refiner_blocks.0.attn"
    assert run[look].seen == [(name, None, slice(0, 256), 256)]


def test_further_tokens_beside_the_prompt_are_refused(model):
    with pytest.raises(ValueError, match="would not be seen"):
        sdprobe.sample(model, hooks=[sdprobe.ConceptOutputs(["circle", "star"])], progress=False, **VIDEO)
