"""A U-Net whose cross-attention is planted: one token attends to where the latents are positive, and nowhere else.

Every convolution hands channel 0 on as it is, self-attention and feed-forward add nothing, and the output is zero, so
the sign of the latents' first channel reaches every attention site through the real modules. Prompt embeddings are
one-hot by position, and the key of one position alone answers to that sign.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import sdprobe
from tests.tiny import TOKENS, stable_diffusion

STRENGTH = 64.0


class OneHot(sdprobe.Transform):
    """Prompt embeddings that say only where in the prompt they stand; the negative prompt says nothing."""

    def prompt_embeds(self, x: Tensor, text: sdprobe.Text) -> Tensor:
        hot = torch.eye(TOKENS).expand_as(x)
        return hot if text.role == "cond" else torch.zeros_like(x)


def hand_on(conv: nn.Conv2d) -> None:
    """Channel 0 of the input is channel 0 of the output, everything else is zero."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    with torch.no_grad():
        middle = conv.kernel_size[0] // 2
        conv.weight[0, 0, middle, middle] = 1


def planted(position: int) -> sdprobe.Model:
    """A tiny Stable Diffusion in which the token at a position attends to the positive latents."""
    pipe = stable_diffusion()
    for name, module in pipe.unet.named_modules():
        if isinstance(module, nn.Conv2d):
            hand_on(module)
        elif isinstance(module, nn.Linear) and name.endswith(("to_out.0", "ff.net.2")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    for name, module in pipe.unet.named_modules():
        if name.endswith("conv2") or name == "conv_out":
            nn.init.zeros_(module.weight)
        if hasattr(module, "to_q") and module.is_cross_attention:
            width = module.to_q.out_features // module.heads
            with torch.no_grad():
                module.to_q.weight.zero_()
                module.to_k.weight.zero_()
                module.to_q.weight[::width, 0] = 1
                module.to_k.weight[::width, position] = STRENGTH
    return sdprobe.load(pipe)


def square(size: tuple[int, int], top: int, left: int, side: int) -> Tensor:
    """A mask ``[h, w]`` that is true in a square."""
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask


def latents_for(masks: list[Tensor]) -> Tensor:
    """Initial noise whose first channel is positive in each picture's mask and negative elsewhere."""
    noise = torch.zeros(len(masks), 4, *masks[0].shape)
    for i, mask in enumerate(masks):
        noise[i, 0] = torch.where(mask, 1.0, -1.0)
    return noise
