"""Tiny pipelines of the real classes that no family knows: pictures, video, sound, 3-D; with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from diffusers import (
    AutoencoderOobleck,
    CosineDPMSolverMultistepScheduler,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    HeunDiscreteScheduler,
    KandinskyV22Pipeline,
    LattePipeline,
    LatteTransformer3DModel,
    PriorTransformer,
    ShapEPipeline,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from diffusers.pipelines.shap_e import ShapERenderer
from transformers import CLIPTextModelWithProjection

import sdprobe
from tests.families import autoencoder, clip, clip_tokenizer, t5, t5_tokenizer

STEPS = 3


class Unknown(NamedTuple):
    """A pipeline, the arguments of its call, a module to look at, and the part that is called in its loop.

    ``result`` takes the tensor or array out of what the pipeline returns.
    """

    pipe: Any
    given: Mapping[str, Any]
    module: str
    part: str
    result: Callable[[Any], Any]

    def __call__(self, **more: Any) -> torch.Tensor:
        """Call the pipeline and return the tensor that it makes."""
        generator = torch.Generator().manual_seed(1)
        return torch.as_tensor(self.result(self.pipe(**self.given, generator=generator, **more)))

    @property
    def network(self) -> Any:
        return getattr(self.pipe, self.part)


def _quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def unconditional() -> Unknown:
    """Pictures without a prompt, from a pipeline that has no ``prepare_latents``."""
    torch.manual_seed(0)
    given = {"batch_size": 2, "num_inference_steps": STEPS, "output_type": "pt"}
    pipe = _quiet(DDPMPipeline(_unet().eval(), DDPMScheduler()))
    return Unknown(pipe, given, "mid_block.resnets.0", "unet", lambda found: found.images)


def picture() -> Unknown:
    """Pictures of embeddings of pictures: Kandinsky 2.2, with two rows for each."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        in_channels=4,
        out_channels=8,
        addition_embed_type="image",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(8, 16),
        layers_per_block=1,
        encoder_hid_dim=8,
        encoder_hid_dim_type="image_proj",
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
        resnet_time_scale_shift="scale_shift",
        class_embed_type=None,
    )
    movq = VQModel(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        norm_num_groups=4,
        norm_type="spatial",
        num_vq_embeddings=8,
        vq_embed_dim=4,
    )
    pipe = _quiet(KandinskyV22Pipeline(unet.eval(), DDIMScheduler(clip_sample=False), movq.eval()))
    embeds = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(2))
    given = {
        "image_embeds": embeds[0],
        "negative_image_embeds": embeds[1],
        "height": 64,
        "width": 64,
        "num_inference_steps": STEPS,
        "output_type": "pt",
    }
    return Unknown(pipe, given, "mid_block.attentions.0", "unet", lambda found: found.images)


def video() -> Unknown:
    """Video: Latte, whose attention over time has the places of a picture in its batch."""
    words = t5_tokenizer()
    torch.manual_seed(0)
    transformer = LatteTransformer3DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=16,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        video_length=2,
    )
    pipe = LattePipeline(words, t5(words).eval(), autoencoder(), transformer.eval(), DDIMScheduler())
    given = {
        "prompt": "a red circle",
        "num_inference_steps": STEPS,
        "video_length": 2,
        "height": 16,
        "width": 16,
        "output_type": "latent",
        "clean_caption": False,
    }
    return Unknown(_quiet(pipe), given, "transformer_blocks.0.attn2", "transformer", lambda found: found.frames)


def sound() -> Unknown:
    """Sound: Stable Audio."""
    words = t5_tokenizer()
    words.model_max_length = 8
    torch.manual_seed(0)
    transformer = StableAudioDiTModel(
        sample_size=4,
        in_channels=3,
        num_layers=2,
        attention_head_dim=4,
        num_key_value_attention_heads=2,
        out_channels=3,
        cross_attention_dim=4,
        time_proj_dim=8,
        global_states_input_dim=8,
        cross_attention_input_dim=4,
    )
    vae = AutoencoderOobleck(
        encoder_hidden_size=6,
        downsampling_ratios=[1, 2],
        decoder_channels=3,
        decoder_input_channels=3,
        audio_channels=2,
        channel_multiples=[2, 4],
        sampling_rate=4,
    )
    pipe = StableAudioPipeline(
        vae=vae.eval(),
        text_encoder=t5(words, width=4).eval(),
        projection_model=StableAudioProjectionModel(text_encoder_dim=4, conditioning_dim=4, min_value=0, max_value=32),
        tokenizer=words,
        transformer=transformer.eval(),
        scheduler=CosineDPMSolverMultistepScheduler(
            solver_order=2, prediction_type="v_prediction", sigma_data=1.0, sigma_schedule="exponential"
        ),
    )
    given = {"prompt": "a red circle", "num_inference_steps": STEPS, "output_type": "pt", "guidance_scale": 3.0}
    return Unknown(_quiet(pipe), given, "transformer_blocks.1.attn2", "transformer", lambda found: found.audios)


def solid() -> Unknown:
    """3-D: Shap-E, whose prior denoises the weights of a field that a renderer would show."""
    words = clip_tokenizer()
    torch.manual_seed(0)
    prior = PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=8,
        embedding_dim=16,
        num_embeddings=32,
        embedding_proj_dim=16,
        time_embed_dim=32,
        num_layers=1,
        clip_embed_dim=32,
        additional_embeddings=0,
        time_embed_act_fn="gelu",
        norm_in_type="layer",
        encoder_hid_proj_type=None,
        added_emb_type=None,
    )
    renderer = ShapERenderer(
        param_shapes=((8, 93), (8, 8), (8, 8), (8, 8)), d_latent=16, d_hidden=8, n_output=12, background=(0.1, 0.1, 0.1)
    )
    pipe = ShapEPipeline(
        prior=prior.eval(),
        text_encoder=clip(words, CLIPTextModelWithProjection),
        tokenizer=words,
        scheduler=HeunDiscreteScheduler(
            beta_schedule="exp", num_train_timesteps=1024, prediction_type="sample", use_karras_sigmas=True
        ),
        shap_e_renderer=renderer.eval(),
    )
    given = {"prompt": "a red circle", "num_inference_steps": 2, "output_type": "latent"}
    return Unknown(_quiet(pipe), given, "transformer_blocks.0.attn1", "prior", lambda found: found.images)


class TwoNetworks(DiffusionPipeline):
    """A pipeline of somebody's own: two networks, one after the other, each called twice in a step."""

    def __init__(self, unet: UNet2DModel, unet_2: UNet2DModel, scheduler: DDPMScheduler) -> None:
        super().__init__()
        self.register_modules(unet=unet, unet_2=unet_2, scheduler=scheduler)

    def prepare_latents(self, count: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(count, 3, 8, 8, generator=generator)

    @torch.no_grad()
    def __call__(self, count: int, generator: torch.Generator) -> torch.Tensor:
        x = self.prepare_latents(count, generator)
        self.scheduler.set_timesteps(STEPS)
        for i, t in enumerate(self.scheduler.timesteps):
            network = self.unet if i < 2 else self.unet_2
            noise = 0.5 * network(x, t).sample + 0.5 * network(0.9 * x, t).sample
            x = self.scheduler.step(noise, t, x, generator=generator, return_dict=False)[0]
        return x


def two_networks() -> Unknown:
    torch.manual_seed(0)
    pipe = TwoNetworks(_unet().eval(), _unet().eval(), DDPMScheduler(clip_sample=False))
    return Unknown(pipe, {"count": 2}, "unet_2.mid_block.resnets.0", "unet_2", lambda found: found)


def _unet() -> UNet2DModel:
    return UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    )


def attached(unknown: Unknown, *hooks: Any, rows: Any = None, **more: Any) -> tuple[sdprobe.Run, torch.Tensor]:
    """The run of a call with hooks attached, and what the pipeline makes."""
    with sdprobe.attach(unknown.pipe, hooks, rows=rows) as run:
        found = unknown(**more)
    return run, found


EVERY: Mapping[str, Callable[[], Unknown]] = {
    "picture without a prompt": unconditional,
    "picture": picture,
    "video": video,
    "sound": sound,
    "3-D": solid,
    "two networks": two_networks,
}
