"""CLIP: its numbers are the model's own, and it names what rendered pictures hold."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import (
    BertConfig,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPVisionConfig,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

import sdprobe
from sdprobe import clip as c
from sdprobe.shapes import COLOURS, SHAPES, WEIGHTS, scene
from tests.families import flux, pixart, stable_diffusion_3, stable_diffusion_xl
from tests.laws.strategies import run, seen
from tests.tiny import stable_diffusion, tokenizer

SIZE = 16  # of the tiny picture tower
TEXTS = ["a red circle", "a blue star left of a ring", "checkered", ""]
texts = st.lists(st.sampled_from(["a", "red", "blue", "circle", "star", "checkered", "left"]), max_size=8).map(" ".join)
sides = st.tuples(st.integers(SIZE // 2, 3 * SIZE), st.integers(SIZE // 2, 3 * SIZE))


def clip_model(seed: int = 0) -> CLIPModel:
    """A random CLIP, whose text tower is the tiny pipeline's text encoder."""
    text_encoder = stable_diffusion().text_encoder
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=4,
    )
    torch.manual_seed(seed)
    model = CLIPModel(
        CLIPConfig(text_config=text_encoder.config.to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    ).eval()
    model.text_model.load_state_dict(text_encoder.state_dict())
    return model


def image_processor(**changed) -> CLIPImageProcessor:
    settings = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}} | changed
    return CLIPImageProcessor(**settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP folder as transformers writes one."""
    path = tmp_path_factory.mktemp("clip")
    clip_model().save_pretrained(path)
    CLIPProcessor(image_processor(), tokenizer()).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def small(folder):
    return c.load(folder)


@pytest.fixture(scope="module")
def boxed():
    """The embedded model's CLIP."""
    return c.load()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def pictures(count: int = 3, size: tuple[int, int] = (SIZE, SIZE), seed: int = 0) -> list[Image.Image]:
    """Blurred noise, as PIL pictures of one size (width, height)."""
    coarse = (noise(count, 5, 5, 3, seed=seed) * 255).to(torch.uint8).numpy()
    return [Image.fromarray(one).resize(size, Image.Resampling.BICUBIC) for one in coarse]


def tensor(several: list[Image.Image]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in several]) / 255


# The model's own numbers


@torch.no_grad()
def test_numbers_are_those_of_the_clip_model(small, folder):
    images = [*pictures(2), *pictures(1, (40, 23))]
    inputs = CLIPProcessor.from_pretrained(folder)(
        text=TEXTS, images=images, padding=True, truncation=True, return_tensors="pt"
    )
    own = CLIPModel.from_pretrained(folder)(**inputs)
    near = c.similarity(images, TEXTS, small)
    assert torch.allclose(near.logits, own.logits_per_image, atol=1e-5)
    assert torch.allclose(near.probabilities, own.logits_per_image.softmax(1), atol=1e-6)
    assert torch.allclose(small.image_features(images), own.image_embeds, atol=1e-6)
    assert torch.allclose(small.text_features(TEXTS), own.text_embeds, atol=1e-6)
    assert near.cosine.shape == (3, 4)
    assert near.best == tuple(TEXTS[i] for i in own.logits_per_image.argmax(1))


@torch.no_grad()
def test_numbers_are_those_of_the_embedded_clip(boxed):
    images = [scene(80_000_000 + k).image for k in range(3)]
    own = VisionTextDualEncoderModel.from_pretrained(WEIGHTS / "clip")(
        **boxed.tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt"),
        **boxed.image_processor(images, return_tensors="pt"),
    )
    assert torch.allclose(c.similarity(images, TEXTS).logits, own.logits_per_image, atol=1e-4)


def test_tokenizer_and_image_processor_saved_one_by_one(tmp_path, small):
    clip_model().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    image_processor().save_pretrained(tmp_path)
    near = c.similarity(pictures(), TEXTS, tmp_path)
    assert torch.equal(near.cosine, c.similarity(pictures(), TEXTS, small).cosine)


def test_old_files_that_give_the_end_token_a_wrong_number(small):
    """Files before 2023 say that the end token is 2; then it is the one with the greatest number."""
    old = clip_model()
    old.text_model.eos_token_id = 2
    assert torch.equal(c.Clip(old, small.tokenizer, small.image_processor).pooled(TEXTS), small.pooled(TEXTS))


def test_a_run_s_pictures(tiny, small):
    pictures_of = run(tiny, images_per_prompt=2).images
    assert c.similarity(pictures_of, "a red circle", small).cosine.shape == (2, 1)


# Zero-shot


def test_zero_shot_colour_and_shape(boxed):
    """On scenes that no training drew."""
    scenes = [scene(80_000_000 + k, objects=1, full=True) for k in range(300)]
    images, things = [own.image for own in scenes], [own.objects[0] for own in scenes]
    colours = c.classify(images, list(COLOURS), "a {} shape").best
    shapes = c.classify(images, SHAPES, "a {}", clip=boxed).best
    colour = np.mean([found == o.colour for found, o in zip(colours, things, strict=True)])
    shape = np.mean([found == o.shape for found, o in zip(shapes, things, strict=True)])
    print(f"zero-shot accuracy on {len(scenes)} fresh scenes: colour {colour:.3f}, shape {shape:.3f}")
    assert colour >= 0.98
    assert shape >= 0.95


def test_classifying_is_similarity_to_the_filled_template(small):
    labels = ["red", "blue", "star"]
    chosen = c.classify(pictures(), labels, "a {} circle, {}", small)
    near = c.similarity(pictures(), [f"a {label} circle, {label}" for label in labels], small)
    assert torch.equal(chosen.probabilities, near.probabilities)
    assert chosen.best == tuple(labels[i] for i in near.cosine.argmax(1))


# Pooled and unpooled


@given(text=texts)
@torch.no_grad()
def test_pooled_is_the_end_token_s_state_after_the_last_norm(small, text):
    end = small.read(text).positions("<end>")[0]
    tower, ids = small.model.text_model, torch.tensor([small.read(text).ids])
    hidden = tower(ids, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(small.pooled(text)[0], tower.final_layer_norm(hidden)[0, end])
    assert torch.equal(small.pooled(text), small.unpooled(text)[:, end])
    projected = F.normalize(small.model.text_projection(small.pooled(text)), dim=-1)
    assert torch.equal(small.text_features(text), projected)


@given(a=texts, b=texts)
def test_a_token_knows_nothing_of_what_follows(small, a, b):
    first, second = small.read(a).ids, small.read(b).ids
    parted = next((i for i, (x, y) in enumerate(zip(first, second, strict=True)) if x != y), len(first))
    one, other = small.unpooled([a, b])
    assert torch.allclose(one[:parted], other[:parted], atol=1e-5)
    assert parted == len(first) or not torch.allclose(one[parted], other[parted], atol=1e-5)


def test_unpooled_is_what_stable_diffusion_is_conditioned_on(small):
    look = seen("prompt_embeds")
    embeds = run(sdprobe.load(stable_diffusion()), look, prompt=TEXTS[:3], guidance_scale=1.0)[look].values[0]
    assert torch.equal(small.unpooled(TEXTS[:3]), embeds)


# Pictures as tensors


@given(size=sides)
def test_tensors_go_the_way_of_pictures(small, size):
    several = pictures(2, size)
    grey_level = 1 / 255 / min(small.image_processor.image_std)
    through_pil, through_torch = small.pixel_values(several), small.pixel_values(tensor(several))
    assert through_pil.shape == through_torch.shape
    away = (through_pil - through_torch).abs()
    assert away.max() <= 1.5 * grey_level
    assert away.mean() <= 0.5 * grey_level
    assert (small.image_features(several) * small.image_features(tensor(several))).sum(1).min() > 0.999


def test_at_the_towers_own_size_the_two_ways_are_one(small, boxed):
    for own, side in ((small, SIZE), (boxed, 64)):
        several = pictures(3, (side, side))
        assert torch.allclose(own.pixel_values(several), own.pixel_values(tensor(several)), atol=1e-6)


@pytest.mark.parametrize(
    "changed",
    [
        {"size": {"height": 12, "width": 20}, "do_center_crop": False},
        {"crop_size": {"height": 18, "width": 22}},  # larger than what there is: filled up with black
        {"do_resize": False},
        {"resample": 2, "do_normalize": False},
    ],
)
def test_other_image_processors(small, changed):
    own = c.Clip(small.model, small.tokenizer, image_processor(**changed))
    several = pictures(2, (31, 24))
    through_pil, through_torch = own.pixel_values(several), own.pixel_values(tensor(several))
    assert through_pil.shape == through_torch.shape
    assert (through_pil - through_torch).abs().max() <= 1.5 / 255 / min(own.image_processor.image_std)


def test_gradients_reach_the_pixels_and_nothing_else(folder):
    own = c.load(folder, dtype=torch.float64)
    x = noise(2, 3, 20, 24).double() * 0.8 + 0.1
    direction, step = noise(2, 3, 20, 24, seed=1).double() - 0.5, 1e-5

    def loss(images):
        near = c.similarity(images, TEXTS, own)
        return near.cosine.sum() + near.probabilities[:, 0].sum()

    leaf = x.clone().requires_grad_()
    loss(leaf).backward()
    slope = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    assert torch.allclose((leaf.grad * direction).sum(), slope, rtol=1e-5)
    assert slope.abs() > 1e-4
    assert all(parameter.grad is None for parameter in own.model.parameters())


def test_arrays_are_pictures(small):
    several = pictures(2, (20, 30))
    arrays = [np.array(one) for one in several]
    assert torch.equal(small.pixel_values(several), small.pixel_values(arrays))
    assert torch.equal(small.pixel_values(several[0]), small.pixel_values(arrays[0]))
    mixed = small.pixel_values([*pictures(1, (20, 30)), *pictures(1, (17, 50))])
    assert mixed.shape == (2, 3, SIZE, SIZE)


# Nearest tokens


@given(word=st.sampled_from(["red", "blue", "circle", "star"]), scale=st.sampled_from([0.01, 1.0, 30.0]))
def test_a_token_is_nearest_to_itself_at_any_length(small, tiny, word, scale):
    for own in (small, tiny, None):
        found = c.nearest_tokens(scale * c.token_vectors(word, own), k=1, model=own)
        assert found.tokens == ((f"{word}</w>",),)
        assert torch.allclose(found.cosine, torch.ones(1, 1))


def test_nearest_tokens_are_sorted_by_cosine(small):
    table = small.model.text_model.get_input_embeddings().weight
    vectors = noise(3, table.shape[1]) - 0.5
    found = c.nearest_tokens(vectors, k=len(table), model=small)
    assert torch.equal(found.ids.sort(dim=1).values, torch.arange(len(table)).expand(3, -1))
    assert (found.cosine.diff(dim=1) <= 0).all()
    pairs = F.cosine_similarity(vectors[:, None], table[found.ids], dim=-1)
    assert torch.allclose(found.cosine, pairs, atol=1e-6)
    assert found.tokens[0] == tuple(small.tokenizer.convert_ids_to_tokens(found.ids[0].tolist()))
    for row, vector in enumerate(vectors):
        alone = c.nearest_tokens(vector, k=5, model=small)
        assert list(alone) == [found.tokens[row][:5]]


def test_a_pipeline_is_its_first_text_encoder(tiny):
    vectors = c.token_vectors("checkered star", tiny)
    assert torch.equal(vectors, c.token_vectors("checkered star", tiny.pipe))
    ids = tiny.tokenizer("checkered star", add_special_tokens=False).input_ids
    assert torch.equal(vectors, tiny.pipe.text_encoder.get_input_embeddings().weight[ids])


@pytest.mark.parametrize("make", [stable_diffusion_xl, stable_diffusion_3, flux, pixart])
def test_the_first_text_encoder_of_any_family(make):
    """Its own tokenizer reads for it, whichever encoder's tokens the denoiser is shown."""
    model = sdprobe.load(make())
    vectors = c.token_vectors("red", model)
    spelt = model.tokenizer_of("text_encoder").convert_ids_to_tokens(model.read("red", "text_encoder").ids)
    assert c.nearest_tokens(vectors, k=1, model=model).tokens[0][0] in spelt
    assert vectors.shape == (1, model.pipe.text_encoder.get_input_embeddings().embedding_dim)


def test_what_a_learned_concept_is_close_to():
    own = sdprobe.load(stable_diffusion())
    red, star = c.token_vectors("red", own), c.token_vectors("star", own)
    learned = sdprobe.Concept({"text_encoder": torch.cat([3 * red + star, star])}, "<mine>")
    assert [row[0] for row in c.nearest_tokens(learned, model=own)] == ["red</w>", "star</w>"]
    own.pipe.load_textual_inversion({"<mine>": learned.vectors["text_encoder"]})
    assert torch.equal(c.token_vectors("<mine>", own), learned.vectors["text_encoder"])
    assert [row[0] for row in c.nearest_tokens(learned, k=1, model=own)] == ["<mine>", "star</w>"]


# The contrastive loss


@torch.no_grad()
def test_info_nce_is_the_loss_of_the_clip_model(small, folder):
    images, captions = pictures(4), TEXTS
    inputs = CLIPProcessor.from_pretrained(folder)(
        text=captions, images=images, padding=True, truncation=True, return_tensors="pt"
    )
    own = CLIPModel.from_pretrained(folder)(**inputs, return_loss=True)
    loss = c.info_nce(small.image_features(images), small.text_features(captions), small.logit_scale)
    assert torch.allclose(loss, own.loss, atol=1e-6)


@given(batch=st.integers(1, 6), seed=st.integers(0, 99), scale=st.sampled_from([0.5, 5.0, 50.0]))
def test_laws_of_info_nce(batch, seed, scale):
    images, captions = noise(2, batch, 7, seed=seed).double() - 0.5
    loss = c.info_nce(images, captions, scale)
    cosine = F.cosine_similarity(images[:, None], captions[None], dim=-1)
    expected = 0.0
    for i in range(batch):  # each picture among the texts, each text among the pictures
        expected += math.log((scale * cosine[i]).exp().sum()) - scale * cosine[i, i]
        expected += math.log((scale * cosine[:, i]).exp().sum()) - scale * cosine[i, i]
    assert torch.allclose(loss, torch.as_tensor(expected) / (2 * batch))
    shuffled = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(loss, c.info_nce(captions, images, scale))
    assert torch.allclose(loss, c.info_nce(images[shuffled], captions[shuffled], scale))
    assert torch.allclose(loss, c.info_nce(3 * images, captions / 7, scale))
    nothing_told = c.info_nce(images[:1].expand(batch, -1), captions[:1].expand(batch, -1), scale)
    assert torch.allclose(nothing_told, torch.tensor(math.log(batch)).double())


def test_gradients_of_info_nce_reach_features_and_scale():
    leaves = [*(noise(2, 4, 7).double() - 0.5), torch.tensor(5.0).double()]
    assert torch.autograd.gradcheck(c.info_nce, [leaf.clone().requires_grad_() for leaf in leaves])


# What is shown


@pytest.mark.parametrize("values", ["cosine", "probabilities"])
def test_the_matrix_shows_every_number(small, values):
    near = c.similarity(tensor(pictures(4)), TEXTS, small)
    (ax,) = near.plot(values).axes
    assert [text.get_text() for text in ax.texts] == [f"{v:.2f}" for v in getattr(near, values).T.flatten().tolist()]
    assert [label.get_text() for label in ax.get_yticklabels()] == TEXTS
    matrix, *shown = ax.images
    assert np.allclose(matrix.get_array(), getattr(near, values).T)
    for picture, image in zip(pictures(4), shown, strict=True):
        assert np.allclose(image.get_array(), np.asarray(picture) / 255)


def test_a_table_of_many_pictures_says_how_many_it_leaves_out(small):
    near = c.similarity(pictures(9), TEXTS, small)
    head, *rows, more = repr(near).split("\n")
    assert len(rows) == len(TEXTS)
    shown = head.count("picture")
    assert f"{near.cosine[shown - 1, 0]:.2f} ({near.probabilities[shown - 1, 0]:.2f})" in rows[0]
    assert more == f"and {9 - shown} more pictures"


# Errors


def test_words_that_are_not_read_are_named(small):
    with pytest.warns(UserWarning, match="reads 16 tokens; past them, and unread: red circle"):
        cut = small.text_features("a " * 14 + "red circle")
    assert torch.equal(cut, small.text_features("a " * 14))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small.text_features("a " * 14)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (noise(3, 8, 8), ValueError, r"\[images, 3, H, W\]; this one is \[3, 8, 8\]"),
        (noise(1, 4, 8, 8), ValueError, r"this one is \[1, 4, 8, 8\]"),
        (noise(0, 3, 8, 8), ValueError, r"this one is \[0, 3, 8, 8\]"),
        (noise(1, 3, 8, 8) * 255, ValueError, r"in \[0, 1\]; this one goes from .* to 25"),
        (noise(1, 3, 8, 8) * 2 - 1, ValueError, r"in \[0, 1\]; this one goes from -"),
        ((noise(1, 3, 8, 8) * 255).byte(), TypeError, "uint8: divide by 255"),
        ([], ValueError, "no picture"),
        ("picture.png", TypeError, "this is str"),
        ([noise(3, 8, 8)], TypeError, r"this is Tensor of torch.float32 \[3, 8, 8\]"),
        (np.zeros((8, 8, 3)), TypeError, r"uint8 array .* this is ndarray of float64 \[8, 8, 3\]"),
    ],
)
def test_what_is_no_picture(small, images, error, message):
    with pytest.raises(error, match=message):
        c.similarity(images, "a circle", small)


def test_what_is_no_text_no_choice_no_vector(small, tiny):
    with pytest.raises(ValueError, match="no text here"):
        c.similarity(pictures(), [], small)
    with pytest.raises(TypeError, match="a text is a string, not int"):
        c.similarity(pictures(), [3], small)
    with pytest.raises(ValueError, match="two labels or more, in a list; these are 'red'"):
        c.classify(pictures(), "red", clip=small)
    with pytest.raises(ValueError, match=r"'a red' has no \{\} for the label"):
        c.classify(pictures(), ["red", "blue"], "a red", small)
    with pytest.raises(ValueError, match="'cosine' or 'probabilities', not 'logits'"):
        c.similarity(pictures(), TEXTS, small).plot("logits")
    with pytest.raises(ValueError, match=r"a vector of this table is \[16\], .* this one is \[1, 8\]"):
        c.nearest_tokens(small.text_features("red"), model=small)
    with pytest.raises(ValueError, match="1 to 663, not 0"):
        c.nearest_tokens(torch.ones(16), 0, tiny)
    with pytest.raises(ValueError, match="'' has no token"):
        c.token_vectors("", tiny)
    with pytest.raises(ValueError, match=r"of one size; these are \[2, 7\] and \[3, 7\]"):
        c.info_nce(noise(2, 7), noise(3, 7), 1.0)


def test_what_is_no_clip(tmp_path, small, folder):
    with pytest.raises(FileNotFoundError, match="neither a folder here nor a hub id"):
        c.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        c.load(tmp_path)
    with pytest.raises(ValueError, match="of the type 'clip_text_model'; a CLIP here is one of clip, vision-text-dual"):
        c.load(WEIGHTS / "text_encoder")
    with pytest.raises(TypeError, match=r"not CLIPModel; .* Clip\(model, tokenizer, image_processor\)"):
        c.load(clip_model())
    VisionTextDualEncoderConfig.from_vision_text_configs(CLIPVisionConfig(), BertConfig()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'vision-text-dual-encoder with bert'"):
        c.load(tmp_path)
    clip_model().save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="not both a tokenizer and an image processor"):
        c.load(tmp_path)
    assert c.load(small) is small


def test_the_default_is_the_embedded_clip_and_nobody_else_s(boxed):
    assert c.load() is not c.load()
    assert torch.equal(c.pooled(TEXTS), boxed.pooled(TEXTS))
    assert torch.equal(c.unpooled(TEXTS), boxed.unpooled(TEXTS))
