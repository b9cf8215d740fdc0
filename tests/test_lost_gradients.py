"""Gradients that would be lost or wrong without a word are refused, in the user's words."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import sdprobe
from sdprobe.model.lost_gradients import refuse_layers_without_gradient, refuse_offloaded_weights
from tests.caches import MAKERS, attached, denoiser, run, stock

CPU = torch.device("cpu")


class Gradient(sdprobe.Transform):
    needs_grad = True

    def noise_pred(self, x, step):
        torch.autograd.grad(x.square().sum(), step.latents)
        return x


def quantised(family):
    """Linear layers with weights and activations in 8 bits, by torch's own."""
    pipe = MAKERS[family]()
    part = "unet" if hasattr(pipe, "unet") else "transformer"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would have torchao in its place, which has no such layers on the CPU
        setattr(pipe, part, torch.ao.quantization.quantize_dynamic(denoiser(pipe), {nn.Linear}, dtype=torch.qint8))
    return pipe


@pytest.mark.parametrize("family", MAKERS)
def test_quantised_layers_that_pass_no_gradient(family):
    pipe = quantised(family)
    for way in (run, attached):
        with pytest.raises(ValueError, match=r"none passes \S+ \(Linear\), which is quantised"):
            way(pipe, Gradient())
    assert not any(module._forward_hooks for module in denoiser(pipe).modules())
    assert torch.equal(run(pipe).latents, stock(pipe))


def test_a_further_call_with_gradients():
    class Asks(sdprobe.Observer):
        def noise_pred(self, x, step):
            step.predict(step.latents)
            with torch.enable_grad():
                step.predict(step.latents.detach().requires_grad_())

    with pytest.raises(ValueError, match="which is quantised"):
        run(quantised("Stable Diffusion"), Asks())


def test_layers_that_pass_a_gradient():
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with refuse_layers_without_gradient(network):
        assert network(torch.ones(1, 2, requires_grad=True)).requires_grad


def test_weights_on_disk(tmp_path):
    pipe = MAKERS["Stable Diffusion"]()
    refuse_offloaded_weights(pipe.vae)
    pipe.vae.enable_group_offload(
        onload_device=CPU, offload_device=CPU, offload_type="leaf_level", offload_to_disk_path=str(tmp_path)
    )
    with pytest.raises(ValueError, match="has taken the weights of AutoencoderKL to disk"):
        refuse_offloaded_weights(pipe.vae)
    run(pipe, Gradient())  # past the decoder
    with pytest.raises(ValueError, match="has taken the weights of AutoencoderKL to disk"):
        run(pipe, sdprobe.LossGuidance(lambda image: image.mean((1, 2, 3)), 2.0))


def test_weights_on_another_device():
    network = MAKERS["Stable Diffusion"]().vae
    network.enable_group_offload(onload_device=CPU, offload_device=CPU, offload_type="leaf_level")
    refuse_offloaded_weights(network)
    network.decoder.conv_in._diffusers_hook.hooks["group_offloading"].group.offload_device = torch.device("cuda")
    with pytest.raises(ValueError, match=r"has taken the weights of AutoencoderKL to cuda .*enable_sequential"):
        refuse_offloaded_weights(network)
