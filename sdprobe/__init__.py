"""sdprobe: look inside a latent diffusion model, or meddle with it, through small composable hooks."""

from sdprobe.attention import Attention
from sdprobe.compose import Hooks
from sdprobe.heatmap import HeatMap
from sdprobe.hook import Observer, Transform
from sdprobe.model.base import Model
from sdprobe.model.loading import load
from sdprobe.observe.attention_maps import AttentionMaps
from sdprobe.observe.latents import LatentRecorder
from sdprobe.observe.progress import Progress
from sdprobe.observe.self_attention_maps import SelfAttentionMaps
from sdprobe.prompt import Prompt, WordNotInPrompt
from sdprobe.registry import create
from sdprobe.run import Row, Run, Settings, Site, Step, Text
from sdprobe.sampler import sample
from sdprobe.tokens import Token, Tokens, detokenize, tokens
from sdprobe.transform.replace_token import ReplaceToken

__all__ = [
    "load",
    "sample",
    "create",
    "tokens",
    "detokenize",
    "Observer",
    "Transform",
    "Hooks",
    "AttentionMaps",
    "SelfAttentionMaps",
    "LatentRecorder",
    "Progress",
    "ReplaceToken",
    "Attention",
    "HeatMap",
    "Model",
    "Prompt",
    "Row",
    "Run",
    "Settings",
    "Site",
    "Step",
    "Text",
    "Token",
    "Tokens",
    "WordNotInPrompt",
]

__version__ = "0.1.0"
