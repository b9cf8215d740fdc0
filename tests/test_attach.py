"""`attach`: the points of the loop while diffusers' own pipelines run."""

from __future__ import annotations

import threading

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdprobe
from sdprobe.core.hook import POINTS
from sdprobe.stock_pipelines.attach import attach
from sdprobe.testing import footprint
from tests.laws.strategies import CALLED, affine, hooks, same_run, same_values, seen, stacks
from tests.laws.test_cleanup import Deliberate, raising
from tests.stock_pipelines import (
    ON_THE_WAY,
    STOCK,
    Stock,
    attached,
    called,
    image_to_image,
    picture,
    sampled,
    text_to_image,
)


@pytest.fixture(scope="module")
def stock() -> Stock:
    return text_to_image()


# The same as `sample`.


@settings(max_examples=10)
@given(stack=stacks, guidance_scale=st.sampled_from([1.0, 3.0]), images=st.integers(1, 2), several=st.booleans())
def test_any_hooks_come_to_the_same_as_in_sample(stock, stack, guidance_scale, images, several):
    prompt = ["a red circle", "a red circle and a star"] if several else "a red circle"
    watching = [seen(point) for point in POINTS]
    asked = {"prompt": prompt, "guidance_scale": guidance_scale}
    ours = sampled(stock, *stack, *watching, images_per_prompt=images, **asked)
    theirs = attached(stock, *stack, *watching, num_images_per_prompt=images, output_type="pil", **asked)
    assert same_run(ours, theirs)
    assert ours.settings == theirs.settings
    assert (ours.prompts, ours.negative_prompts, repr(ours)) == (theirs.prompts, theirs.negative_prompts, repr(theirs))
    assert str(ours.coverage) == str(theirs.coverage)
    for watch in watching:
        assert same_values(ours[watch].values, theirs[watch].values), watch


class Order(sdprobe.Observer):
    """In which order the points come, and where."""

    modules = ("mid_block.resnets.0",)

    def start(self, run):
        self.places = []


for _point in POINTS:

    def _noted(self, x, place, point=_point):
        step = getattr(place, "step", place)
        where = getattr(step, "role", getattr(step, "index", None))
        self.places.append((point, where, repr(step) if point not in ("final_latents", "image") else None))

    setattr(Order, _point, _noted)


@pytest.mark.parametrize("negative", [None, "a star"])
def test_points_come_in_the_same_order_with_the_same_places(stock, negative):
    order, attention = Order(), type("Every", (Order,), {"modules": None, "activation": sdprobe.Observer.activation})()
    for hook in (order, attention):
        if hook is order:
            hook.kinds = ("cross",)
            hook.modules = ("mid_block.*",)
        ours, theirs = (each(stock, hook, negative_prompt=negative) for each in (sampled, attached))
        assert ours[hook].places == theirs[hook].places
        assert len(ours[hook].places) > 3 * 5


def test_the_words_of_hooks_are_brought_to_the_pipeline(stock):
    concept = sdprobe.Concept({"text_encoder": torch.randn(2, 16, generator=torch.Generator().manual_seed(1))}, "<cat>")
    hook, before = sdprobe.UseConcept(concept), footprint(stock.pipe)
    ours, theirs = (each(stock, hook, seen("attention"), prompt="a <cat>") for each in (sampled, attached))
    assert same_run(ours, theirs)
    assert ours.prompts == theirs.prompts
    assert not same_run(theirs, attached(stock, prompt="a <cat>"))
    assert footprint(stock.pipe)["tokenizer"] == before["tokenizer"]


@pytest.mark.parametrize("through", ["x0", "model"])
def test_a_loss_steers_a_stock_pipeline_as_it_steers_ours(stock, through):
    def blue(image):
        return (image[:, 2] - 0.9).abs().mean((1, 2))

    hook = sdprobe.LossGuidance(blue, scale=5.0, through=through)
    ours, theirs = (each(stock, hook) for each in (sampled, attached))
    assert same_run(ours, theirs)
    assert not same_run(theirs, attached(stock))
    assert torch.equal(ours[hook].losses, theirs[hook].losses)


class Asks(sdprobe.Transform):
    """Asks the denoiser again, for all rows and for one role, at other latents."""

    def noise_pred(self, x, step):
        again = step.predict(step.latents * 0.9)
        return x + 0.1 * again[step.rows_of("cond")] - 0.2 * step.predict(step.latents * 1.1, role="cond")


def test_the_denoiser_can_be_asked_again(stock):
    ours, theirs = (each(stock, Asks()) for each in (sampled, attached))
    assert same_run(ours, theirs)


def test_a_run_can_be_gone_on_from(stock):
    checkpoints = sdprobe.Checkpoints()
    run = attached(stock, checkpoints)
    assert torch.equal(sdprobe.resume(run, step=1, progress=False).latents, run.latents)


# The stock pipeline's own result.


@pytest.mark.parametrize("make", STOCK)
def test_looking_changes_nothing_and_every_point_changes_the_picture(make):
    stock = make()
    asked = {"num_images_per_prompt": 2, "num_inference_steps": 4 if "strength" in stock.given else 2}
    expected = called(stock, **asked)
    before = footprint(stock.pipe)
    watching = [seen(point) for point in POINTS]
    observers = [sdprobe.AttentionMaps(), sdprobe.SelfAttentionMaps(), sdprobe.LatentRecorder(), sdprobe.Statistics()]
    with attach(stock.pipe, [*watching, *observers]) as run:
        found = called(stock, **asked)
    assert torch.equal(found, expected)
    assert footprint(stock.pipe) == before
    silent = [watch.point for watch in watching if not run[watch].values]
    assert silent == ([] if run.model.pooling else ["pooled_embeds"])
    assert torch.equal(run[watching[-1]].values[0], expected)
    assert torch.equal(run[watching[-2]].values[0], run.latents)
    assert len(run.images) == len(expected)
    assert run[observers[0]].heat_map("circle").values.shape == tuple(run.latents.shape[-2:])
    for point in ON_THE_WAY:
        with attach(stock.pipe, affine(point, 1.1, 0.25)):
            assert not torch.equal(called(stock, **asked), expected), point
    with attach(stock.pipe, watching):
        unguided = called(stock, guidance_scale=1.0)
    assert torch.equal(unguided, called(stock, guidance_scale=1.0))


@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
def test_whatever_the_pipeline_returns_is_what_hooks_made_of_it(stock, output_type):
    final, image = seen("final_latents"), seen("image")
    with attach(stock.pipe, [affine("final_latents", 0.5, 0.0), affine("image", 0.5, 0.0), final, image]) as run:
        found = called(stock, output_type=output_type)
    if output_type == "latent":
        assert torch.equal(found, run[final].values[0])
        assert (run.images, run[image].values) == ([], [])
    elif output_type == "pil":
        assert [i.tobytes() for i in found] == [i.tobytes() for i in run.images]
    else:
        pixels = run[image].values[0]
        assert torch.equal(torch.as_tensor(found), pixels if output_type == "pt" else pixels.permute(0, 2, 3, 1))


def test_latents_given_as_a_tuple_are_the_final_ones_too(stock):
    with attach(stock.pipe, affine("final_latents", 0.5, 0.0)) as run:
        found = stock.pipe("a star", num_inference_steps=2, output_type="latent", return_dict=False)
    assert torch.equal(found[0], run.latents)


def test_the_size_is_that_of_the_picture():
    stock = image_to_image()
    run = attached(stock, "attention-maps", image=picture(32))
    assert (run.settings.height, run.settings.width, run.settings.strength, run.settings.start_step) == (32, 32, 0.6, 2)
    assert run["attention-maps"].heat_map("circle").values.shape == (16, 16)


def test_a_seed_is_told_only_where_it_is_known(stock):
    assert attached(stock, "latents").seed == 0
    generators = [torch.Generator().manual_seed(seed) for seed in (4, 9)]
    with attach(stock.pipe, "latents") as run:
        stock.pipe("a star", num_inference_steps=2, num_images_per_prompt=2, generator=generators)
    assert run.seed == (4, 9)
    for generator in (None, generators):  # the second have been drawn from by now
        with attach(stock.pipe, "latents") as run:
            stock.pipe("a star", num_inference_steps=2, num_images_per_prompt=2, generator=generator)
        with pytest.raises(ValueError, match="no seed that is known"):
            _ = run.seed


# It stands beside what else can be done to a pipeline.


def test_sliced_attention_is_reported_or_refused():
    stock = text_to_image()
    stock.pipe.enable_attention_slicing(1)
    run = attached(stock, sdprobe.AttentionMaps(strict=False))
    assert "disable_attention_slicing" in str(run.coverage)
    assert not run.coverage.seen
    before = footprint(stock.pipe)
    with pytest.raises(RuntimeError, match="could not be seen"):
        attached(stock, sdprobe.AttentionMaps())
    assert footprint(stock.pipe) == before


def test_fused_projections():
    stock = text_to_image()
    stock.pipe.fuse_qkv_projections(vae=False)
    expected, maps = called(stock), sdprobe.AttentionMaps()
    with attach(stock.pipe, [maps, seen("attention")]) as run:
        assert torch.equal(called(stock), expected)
    ours = sampled(stock, maps)
    assert torch.equal(run[maps].heat_map("circle").values, ours[maps].heat_map("circle").values)
    assert run.coverage.seen
    assert not run.coverage.missed


def test_textual_inversion_of_several_vectors():
    stock = text_to_image()
    stock.pipe.load_textual_inversion({"<cat>": torch.randn(3, 16, generator=torch.Generator().manual_seed(1))})
    swap = sdprobe.ReplaceToken("star", with_="circle")
    ours, theirs = (each(stock, swap, "attention-maps", prompt="a <cat> and a star") for each in (sampled, attached))
    assert same_run(ours, theirs)
    assert theirs.prompts[0].words["<cat>"] == ((2, 3, 4),)
    maps = [run["attention-maps"].heat_map("<cat>").values for run in (ours, theirs)]
    assert torch.equal(*maps)


def with_ip_adapter(adapters: int = 1) -> Stock:
    """A pipeline that asks for a picture beside the prompt, or for several."""
    stock = text_to_image()
    torch.manual_seed(3)
    crossing = [n for n, m in stock.pipe.unet.named_modules() if n.endswith("attn2")]
    widths = [stock.pipe.unet.get_submodule(name).to_k.out_features for name in crossing]
    own = []
    for _ in range(adapters):
        keys = {
            f"{2 * i + 1}.to_{kind}_ip.weight": torch.randn(width, 16)
            for i, width in enumerate(widths)
            for kind in "kv"
        }
        projection = {"proj.weight": torch.randn(64, 8), "proj.bias": torch.zeros(64)}
        projection |= {"norm.weight": torch.ones(16), "norm.bias": torch.zeros(16)}
        own.append({"image_proj": projection, "ip_adapter": keys})
    stock.pipe.load_ip_adapter(own, subfolder=[""] * adapters, weight_name=[""] * adapters, image_encoder_folder=None)
    return stock


class AttendsTo(sdprobe.Observer):
    """What each attention call attends to, and how many keys it has."""

    def __init__(self, *kinds: str) -> None:
        self.kinds = kinds or None

    def start(self, run):
        self.seen = {}

    def attention(self, attn, site):
        assert torch.allclose(attn.probs().sum(-1), torch.ones(()), atol=1e-5)
        self.seen.setdefault(site.name, []).append((site.kind, site.attends_to, attn.key.shape[2]))


def test_ip_adapter():
    stock, embeds = with_ip_adapter(), [torch.randn(2, 1, 8)]
    expected, maps = called(stock, ip_adapter_image_embeds=embeds), sdprobe.AttentionMaps()
    looking, pictures = AttendsTo(), AttendsTo("image_prompt")
    with attach(stock.pipe, [maps, looking, pictures]) as run:
        assert torch.equal(called(stock, ip_adapter_image_embeds=embeds), expected)
    assert run[maps].heat_map("circle").values.shape == (8, 8)
    assert torch.allclose(run[maps].row_sums(), torch.ones(()), atol=1e-5)  # of the text alone
    assert not run.coverage.missed
    crossing = [name for name, kind in run.coverage.sites.items() if kind == "cross"]
    steps = run.settings.steps
    for name in crossing:
        assert run[looking].seen[name] == [("cross", "text", 16), ("image_prompt", "image prompt 0", 4)] * steps
        assert run[pictures].seen[name] == [("image_prompt", "image prompt 0", 4)] * steps
        assert run.coverage.seen[name] == run.coverage.seen[f"{name} (image prompt 0)"] == steps
    with attach(stock.pipe, affine("attention", 1.0, 0.0)):
        assert torch.equal(called(stock, ip_adapter_image_embeds=embeds), expected)
    assert torch.equal(called(stock, ip_adapter_image_embeds=embeds), expected)
    with attach(stock.pipe, Asks()):
        assert not torch.equal(called(stock, ip_adapter_image_embeds=embeds), expected)
    with attach(stock.pipe, affine("latents", 1.0, 0.5)):
        moved = called(stock, ip_adapter_image_embeds=embeds)
    assert not torch.equal(moved, expected)


def test_a_picture_prompt_without_value_is_one_that_is_not_there():
    """What a transform does to the calls of one picture prompt, it does to that one alone."""
    stock, embeds = with_ip_adapter(2), [torch.randn(2, 1, 8), torch.randn(2, 1, 8)]
    stock.pipe.set_ip_adapter_scale([0.7, 0.0])
    first_alone = called(stock, ip_adapter_image_embeds=embeds)
    with attach(stock.pipe, [looking := AttendsTo("image_prompt")]) as run:
        called(stock, ip_adapter_image_embeds=embeds)
    assert {said for calls in run[looking].seen.values() for _, said, _ in calls} == {"image prompt 0"}
    stock.pipe.set_ip_adapter_scale([0.0, 0.6])
    with attach(stock.pipe, [looking := AttendsTo("image_prompt")]) as run:
        called(stock, ip_adapter_image_embeds=embeds)
    assert {said for calls in run[looking].seen.values() for _, said, _ in calls} == {"image prompt 1"}
    stock.pipe.set_ip_adapter_scale([0.7, 0.6])
    with attach(stock.pipe, [sdprobe.on("attention", without_second, kinds=("image_prompt",))]):
        assert torch.allclose(called(stock, ip_adapter_image_embeds=embeds), first_alone, atol=1e-5)
    assert not torch.allclose(called(stock, ip_adapter_image_embeds=embeds), first_alone, atol=1e-3)


def without_second(attn, site):
    return attn.with_value(attn.value * (site.attends_to != "image prompt 1"))


def test_with_masks_each_picture_has_its_own_call():
    stock, embeds = with_ip_adapter(), [torch.randn(2, 2, 8)]
    masks = {"ip_adapter_masks": [torch.rand(1, 2, 16, 16)]}
    stock.pipe.set_ip_adapter_scale([[0.7, 0.6]])
    given = {"ip_adapter_image_embeds": embeds, "cross_attention_kwargs": masks}
    expected = called(stock, **given)
    with attach(stock.pipe, [looking := AttendsTo("image_prompt")]) as run:
        assert torch.equal(called(stock, **given), expected)
    said = [attends_to for _, attends_to, _ in next(iter(run[looking].seen.values()))]
    assert said[:2] == ["image prompt 0, picture 0", "image prompt 0, picture 1"]
    assert not run.coverage.missed


def test_a_hook_that_asks_for_image_prompts_where_there_are_none_is_refused():
    with pytest.raises(ValueError, match=r"of kind image_prompt .* its kinds: cross, self"):
        sdprobe.sample(text_to_image().pipe, "a star", hooks=[AttendsTo("image_prompt")], steps=1, progress=False)


def test_lora():
    peft = pytest.importorskip("peft", reason="diffusers loads LoRA by way of peft")
    stock = text_to_image()
    expected = called(stock)
    layers = ["to_q", "to_v"]
    stock.pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=layers, init_lora_weights="gaussian"))
    for name, parameter in stock.pipe.unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    with_lora = called(stock)
    assert not torch.equal(with_lora, expected)
    watch = seen("attention")
    with attach(stock.pipe, [watch]) as run:
        assert torch.equal(called(stock), with_lora)
    assert same_values(run[watch].values, sampled(stock, watch)[watch].values)


def test_offloading():
    stock = text_to_image()
    expected, watch = called(stock), seen("attention")
    stock.pipe.enable_model_cpu_offload(device="cpu")
    for _ in range(2):  # its hooks are set anew at the end of every call
        with attach(stock.pipe, [watch, affine("image", 1.0, 0.0)]) as run:
            assert torch.equal(called(stock), expected)
        assert len(run[watch].values) == 3 * 14
    assert torch.equal(called(stock), expected)


# Before, after, and between.


@settings(max_examples=10)
@given(
    stack=st.lists(hooks, max_size=1),
    kind=st.sampled_from([sdprobe.Observer, sdprobe.Transform]),
    method=st.sampled_from(CALLED),
    error=st.sampled_from([Deliberate, KeyboardInterrupt]),
    at=st.integers(0, 1),
)
def test_an_error_at_any_point_leaves_nothing_and_says_where(stock, stack, kind, method, error, at):
    expected = called(stock)
    before, own = footprint(stock.pipe), type(stock.pipe)
    with pytest.raises(error, match="on purpose") as raised:
        attached(stock, *stack[:at], raising(kind, method, error), *stack[at:])
    assert any(f"Raising() at the point {method!r}" in note for note in raised.value.__notes__)
    after = footprint(stock.pipe)
    assert {name: value for name, value in after.items() if name != "scheduler"} == {
        name: value for name, value in before.items() if name != "scheduler"
    }
    assert type(stock.pipe) is own
    assert not {"step", "scale_model_input"} & set(vars(stock.pipe.scheduler))
    assert "postprocess" not in vars(stock.pipe.image_processor)
    assert torch.equal(called(stock), expected)


def test_an_error_of_the_pipeline_s_own_ends_the_run_too(stock):
    ended = []

    class Ends(sdprobe.Observer):
        def finish(self, run):
            ended.append(run)

    with attach(stock.pipe, Ends()), pytest.raises(ValueError, match="divisible by 8"):
        stock.pipe("a star", height=13, width=16)
    with attach(stock.pipe, Ends()), pytest.raises(TypeError, match="multiple values"):
        stock.pipe("a star", prompt="a ring")
    assert len(ended) == 1


def test_a_run_is_one_call(stock):
    with attach(stock.pipe, "latents") as run:
        assert repr(run) == "Run(the pipeline has not been called yet)"
        with pytest.raises(AttributeError, match="no 'images' yet: call the pipeline"):
            _ = run.images
        first = called(stock)
        with pytest.raises(RuntimeError, match="called a second time"):
            called(stock)
    assert torch.equal(called(stock), first)
    assert len(run.images) == 1


def test_runs_of_one_pipeline_take_turns(stock):
    class Starts(sdprobe.Observer):
        def latents(self, x, step):
            sampled(stock)

    with pytest.raises(RuntimeError, match="under way in this very thread"):
        attached(stock, Starts())
    with attach(stock.pipe), pytest.raises(RuntimeError, match="under way in this very thread"):  # noqa: SIM117
        with attach(stock.pipe):
            pass
    expected, found = [attached(stock, seed=seed) for seed in range(3)], {}

    def run(seed):
        found[seed] = attached(stock, seed=seed) if seed % 2 else sampled(stock, seed=seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same_run(found[seed], expected[seed]) for seed in range(3))


def test_a_call_from_another_thread_is_refused(stock):
    errors = []

    def call():
        try:
            called(stock)
        except RuntimeError as error:
            errors.append(str(error))

    with attach(stock.pipe):
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    assert errors == ["hooks are attached to this pipeline in another thread: call it from that thread"]


def test_refused_before_anything_runs(stock):
    with pytest.raises(ValueError, match="no hook is called 'latent'"), attach(stock.pipe, "latent"):
        pass
    hook = sdprobe.AttentionMaps(modules=("down_block.*",))
    with pytest.raises(ValueError, match="matches no attention site"):
        attached(stock, hook)
    with pytest.raises(TypeError, match="takes a live diffusers pipeline, not str"), attach("a/hub-id"):
        pass


def test_a_pipeline_keeps_its_name_and_kind_while_attached(stock):
    own = type(stock.pipe)
    with attach(stock.pipe):
        assert isinstance(stock.pipe, own)
        assert type(stock.pipe).__name__ == own.__name__
        assert diffusers.AutoPipelineForImage2Image.from_pipe(stock.pipe, requires_safety_checker=False)
    assert type(stock.pipe) is own
