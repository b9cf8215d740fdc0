"""Tiny Flux.2: one double-stream and one single-stream block; a place of the latents is two pixels wide."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
)
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.tiny_models.byte_level_words import WORDS, vocabulary
from tests.tiny_models.qwen_image import qwen_tokenizer

WIDTH = 8
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""As Qwen3's template writes one message of a user."""

INSTRUCTION = (
    "{{ bos_token }}{% for message in messages %}{% set text = message.content[0].text %}"
    "{% if message.role == 'system' %}[SYSTEM_PROMPT]{{ text }}[/SYSTEM_PROMPT]{% else %}[INST]{{ text }}[/INST]"
    "{% endif %}{% endfor %}"
)
"""As Mistral's template writes a system message and one of a user."""


def qwen3_encoder(words: Qwen2Tokenizer) -> Qwen3ForCausalLM:
    """As many layers as the pipeline takes the states of: the last is the 27th."""
    config = Qwen3Config(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=8,
        num_hidden_layers=28,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    return Qwen3ForCausalLM(config).eval()


def flux2_autoencoder() -> AutoencoderKLFlux2:
    """Its latents have one channel, and statistics that are neither 0 nor 1."""
    made = AutoencoderKLFlux2(
        block_out_channels=(4,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        latent_channels=1,
        layers_per_block=1,
        norm_num_groups=2,
        mid_block_add_attention=False,
    ).eval()
    made.bn.running_mean.copy_(torch.tensor([0.1, -0.2, 0.3, 0.0]))
    made.bn.running_var.copy_(torch.tensor([1.0, 2.0, 0.5, 1.5]))
    return made


def flux2_transformer(guidance_embeds: bool) -> Flux2Transformer2DModel:
    return Flux2Transformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=32,
        mlp_ratio=1.0,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    ).eval()


def mistral_tokenizer() -> PreTrainedTokenizerFast:
    """Mistral's kind of tokenizer, which pads on the left; the released model has it within a processor."""
    special = ("<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[IMG]")
    vocab, merges = vocabulary(WORDS, special)
    made = Tokenizer(BPE(vocab=vocab, merges=merges))
    words = pre_tokenizers.Split(Regex(r" ?\p{L}+| ?[^\s\p{L}]+|\s+"), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    first = [("<s>", vocab["<s>"])]
    made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=first)
    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    options = {"padding_side": "left", "model_max_length": 4096, "chat_template": INSTRUCTION}
    return PreTrainedTokenizerFast(
        tokenizer_object=made, additional_special_tokens=list(special[4:]), **named, **options
    )


def mistral_encoder(words: PreTrainedTokenizerFast) -> Mistral3ForConditionalGeneration:
    """As many layers as the pipeline takes the states of: the last is the 30th."""
    text = {
        "model_type": "mistral",
        "vocab_size": len(words),
        "hidden_size": WIDTH,
        "intermediate_size": 8,
        "num_hidden_layers": 31,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
    }
    vision = {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "head_dim": 8, "image_size": 16, "patch_size": 4}
    config = Mistral3Config(text_config=text, vision_config=vision, image_token_index=8)
    return Mistral3ForConditionalGeneration(config).eval()


def flux2_dev() -> Flux2Pipeline:
    """With the guidance scale as an input of the network."""
    words = mistral_tokenizer()
    torch.manual_seed(0)
    pipe = Flux2Pipeline(
        transformer=flux2_transformer(guidance_embeds=True),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=flux2_autoencoder(),
        text_encoder=mistral_encoder(words),
        tokenizer=words,
    )
    pipe.default_sample_size = 32  # pictures of 32 pixels, where no size is asked for
    return pipe


def flux2_klein(distilled: bool = False) -> Flux2KleinPipeline:
    """With classifier-free guidance, or distilled to do without."""
    words = qwen_tokenizer((*WORDS, "user", "assistant"), chat_template=CHAT)
    torch.manual_seed(0)
    pipe = Flux2KleinPipeline(
        transformer=flux2_transformer(guidance_embeds=False),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=flux2_autoencoder(),
        text_encoder=qwen3_encoder(words),
        tokenizer=words,
        is_distilled=distilled,
    )
    pipe.default_sample_size = 32  # pictures of 32 pixels, where no size is asked for
    return pipe
