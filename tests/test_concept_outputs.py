"""`ConceptOutputs`: outputs of attention for concepts beside the prompt, and their likeness to those of each place."""

from __future__ import annotations

import pytest
import torch

import sdprobe
from sdprobe import ConceptOutputs
from sdprobe.attributions import OutputSpace
from tests.families import FAMILIES
from tests.grid import attached
from tests.laws.strategies import run
from tests.planted_families import planted
from tests.planted_outputs import plant_concepts, vector_of
from tests.test_planted_families import masks, run_of

JOINT = ("Stable Diffusion 3.5", "Flux.1 dev")
SIZE = {"height": 16, "width": 24}
CONCEPTS = ["red", "circle", "background"]


def by_hand(model, vectors, modules, **settings):
    """Outputs of the image and of the concepts in each block: its own modules, with the concepts as the whole text."""
    kept, blocks = {}, {name: block for name, block in model.modules.items() if name in modules}

    def keep(name):
        return lambda module, args, kwargs: kept.setdefault(name, []).append((args, kwargs))

    handles = [block.register_forward_pre_hook(keep(name), with_kwargs=True) for name, block in blocks.items()]
    handles += [
        block.attn.to_out[0].register_forward_pre_hook(keep(f"{name} image"), with_kwargs=True)
        for name, block in blocks.items()
    ]
    run(model, steps=1, **settings)
    for handle in handles:
        handle.remove()
    found, concepts = {}, model.denoiser.context_embedder(vectors[None])
    for name, block in blocks.items():
        said = dict(kept[name][0][1])
        image = said["hidden_states"][-1:]
        said |= {"hidden_states": image, "encoder_hidden_states": concepts, "temb": said["temb"][-1:]}
        if "image_rotary_emb" in said:  # the text stands nowhere: its tokens are turned alike
            count = len(vectors) + image.shape[1]
            said["image_rotary_emb"] = tuple(x[-count:] for x in said["image_rotary_emb"])
        handle = block.attn.to_add_out.register_forward_pre_hook(keep(f"{name} concepts"), with_kwargs=True)
        concepts, _ = block(**said)
        handle.remove()
        found[name] = [kept[f"{name} {which}"][0][0][0][-1] for which in ("image", "concepts")]
    return found


@pytest.mark.parametrize("family", JOINT)
@torch.no_grad()
def test_concepts_are_as_the_blocks_make_them_of_them_alone(family):
    model = sdprobe.load(FAMILIES[family]())
    blocks = [f"transformer_blocks.{n}" for n in range(2 if "3" in family else 1)]  # the last of three tells the text
    outputs = ConceptOutputs(CONCEPTS, modules=[f"{name}.attn" for name in blocks])
    own = run(model, outputs, steps=1, **SIZE)[outputs]
    vectors = [vector_of(model, concept) for concept in CONCEPTS]
    scores, shares = torch.zeros(3, 24), torch.zeros(3, 24)
    for image, concepts in by_hand(model, torch.stack(vectors), blocks, **SIZE).values():
        scores += concepts @ image.mT
        shares += (concepts @ image.mT).softmax(0)
    assert torch.allclose(own.scores[4, 6][0], scores, rtol=1e-4, atol=1e-5)
    assert torch.allclose(own.shares[4, 6][0], shares, atol=1e-5)


@pytest.mark.parametrize("family", JOINT)
@torch.no_grad()
def test_the_planted_concept_is_the_planted_patch(family):
    """A concept that looks at the patch gets its value, and the patch, which looks at the marked token, that one's.

    Another concept looks at the rest of the picture, and gets the opposite.
    """
    model = planted(FAMILIES[family]())
    plant_concepts(model, "circle", "ring")
    outputs, method = ConceptOutputs(["circle", "ring"]), OutputSpace()
    found = run_of(model, "circle", outputs, encoder=[*model.read("circle").parts][-1])
    for image, mask in enumerate(masks()):
        heat = method.heat_map(found, "circle", image)
        assert heat.resize((8, 12), "nearest").iou(mask, 0.5) == 1
        assert heat.values.max() > 0.9
        assert method.heat_map(found, "ring", image).points_into(~mask)


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "PixArt-Σ"])
def test_in_cross_attention_a_concepts_output_is_its_value(family):
    class Plainly(sdprobe.Observer):
        kinds = ("cross",)

        def start(self, run):
            self.scores = {}

        def attention(self, attn, site):
            context = torch.zeros(len(attn.query), 3, vectors.shape[-1])
            context[-1] = vectors
            value = attn.with_context(context, torch.ones(context.shape[:2], dtype=torch.bool)).value[-1]
            scores = torch.einsum("hpd,hcd->cp", attn.output()[-1], value)
            self.scores.setdefault(site.grid, []).append(scores)

    model, plainly, outputs = sdprobe.load(FAMILIES[family]()), Plainly(), ConceptOutputs(CONCEPTS)
    encoded = [model.encoded([word])["encoder_hidden_states"][0] for word in CONCEPTS]
    vectors = torch.stack(
        [x[list(model.read(word).positions(word))].mean(0) for word, x in zip(CONCEPTS, encoded, strict=True)]
    ).detach()
    found = run(model, outputs, plainly, **SIZE)
    for grid, each in found[plainly].scores.items():
        assert torch.allclose(found[outputs].scores[grid][0], sum(each), rtol=1e-4, atol=1e-5)
        expected = sum(scores.softmax(0) for scores in each)
        assert torch.allclose(found[outputs].shares[grid][0], expected, atol=1e-5)


@pytest.mark.parametrize("family", ["Stable Diffusion 1", "Flux.1 dev"])
def test_prompts_orders_and_ways_of_running(family, reopened):
    model = sdprobe.load(FAMILIES[family]())
    settings = {"steps": 2, "guidance_scale": 3.0, "seed": [0, 1], "progress": False, **SIZE}
    prompts = ["a red circle", "a blue star of a ring"]
    outputs, turned = ConceptOutputs(), ConceptOutputs(CONCEPTS[::-1])
    plain = sdprobe.sample(model, prompts, **settings)
    hooks = {"outputs": outputs, "turned": turned, "straight": ConceptOutputs(CONCEPTS)}
    sampled = sdprobe.sample(model, prompts, hooks=hooks, **settings)
    assert torch.equal(plain.latents, sampled.latents)
    for concept in CONCEPTS:
        both = [sampled[name].values(concept, image=1) for name in ("turned", "straight")]
        assert torch.allclose(*both, atol=1e-6)
    other = attached(model, prompts, hooks=[outputs], **settings)
    alone = sdprobe.sample(model, prompts[0], hooks=[outputs], **{**settings, "seed": 0})
    limited = sdprobe.sample(model, prompts, hooks=[sdprobe.only(outputs, rows=[0])], **settings)
    kept = reopened(sampled)
    for word in ("a", "red", "circle"):
        values = sampled[outputs].values(word)
        assert torch.equal(other[outputs].values(word), values)
        assert torch.allclose(limited[outputs].values(word), values, atol=1e-6)
        assert torch.allclose(alone[outputs].values(word), values, atol=1e-4)
    assert torch.equal(*(one["outputs"].values("ring", image=1) for one in (kept, sampled)))


def test_errors(tiny):
    with pytest.raises(ValueError, match="compares concepts with each other, and there is one: name others too"):
        run(tiny, OutputSpace().hooks(["red"]))
    with pytest.raises(TypeError, match="a concept is a word or a phrase, such as 'circle', not 3"):
        OutputSpace().hooks(["red", 3])
    with pytest.raises(ValueError, match="compares concepts with each other, and there is none"):
        run(tiny, ConceptOutputs([]))
    brought = sdprobe.UseConcept(sdprobe.Concept({"text_encoder": torch.randn(1, 16)}), token="<Cat>")
    with pytest.raises(ValueError, match="'<cat>, red' has a word that a hook adds to the prompt"):
        run(tiny, brought, ConceptOutputs(["<Cat>, red", "circle"]), prompt="a <Cat>")
    found = run(tiny, outputs := ConceptOutputs(["red", "background"]))
    with pytest.raises(ValueError, match="is of other modules than what"):
        OutputSpace(modules="up_blocks.*").heat_map(found, "red")
    with pytest.raises(ValueError, match="kind is 'share', 'score', not 'shares'"):
        found[outputs].values("red", "shares")
    with pytest.raises(sdprobe.WordNotInPrompt, match="'circle' is none of the concepts recorded for 'a red circle'"):
        OutputSpace().heat_map(found, "circle")
    assert found[outputs].values("background", "score").shape == (8, 8)


def test_blocks_of_one_stream_are_chosen_by_name():
    model = sdprobe.load(FAMILIES["Flux.1 dev"]())
    usual, single = ConceptOutputs(CONCEPTS), ConceptOutputs(CONCEPTS, modules="single_transformer_blocks.*")
    every = ConceptOutputs(CONCEPTS, modules="*")
    found = run(model, usual, single, every, **SIZE)
    assert [found[hook].counts[4, 6] for hook in (usual, single, every)] == [2, 2, 4]
    total = found[usual].scores[4, 6] + found[single].scores[4, 6]
    assert torch.allclose(found[every].scores[4, 6], total, atol=1e-5)


def test_tokens_beside_the_prompt_of_another_shape(tiny):
    class Asks(sdprobe.Observer):
        def noise_pred(self, x, step):
            step.predict(step.latents, role="cond", beside=torch.zeros(2, 1, 16))

    with pytest.raises(ValueError, match=r"tokens beside the prompt are \[rows, tokens, width\] = \[1, …, 16\], not"):
        run(tiny, Asks())
    with pytest.raises(ValueError, match="tokens beside the prompt are for 1 rows here, not 2"):  # the whole run has 2
        run(tiny, sdprobe.only(Asks(), rows=[1]), prompt=["a", "a ring"])
