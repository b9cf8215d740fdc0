"""sdprobe: look inside a latent diffusion model, or meddle with it, through small composable hooks."""

from sdprobe import clip as clip
from sdprobe import losses as losses
from sdprobe.attaching import attach
from sdprobe.attention import Attention
from sdprobe.autoencoder import Encoded, Sizes, decode, encode, psnr, sizes
from sdprobe.compose import Hooks
from sdprobe.concept import Concept, load_concept
from sdprobe.config import from_config, to_config
from sdprobe.coverage import Coverage
from sdprobe.embeddings import Embeddings, embed
from sdprobe.film import Film, film
from sdprobe.functions import on, watch
from sdprobe.heatmap import HeatMap
from sdprobe.hook import Observer, Transform
from sdprobe.inversion import Inversion, invert, look
from sdprobe.learn import learn_concept
from sdprobe.limiting.limits import after, every, when
from sdprobe.limiting.only import only
from sdprobe.model.base import Model
from sdprobe.model.loading import load
from sdprobe.noising import add_noise
from sdprobe.observe.attention_maps import AttentionMaps
from sdprobe.observe.checkpoints import Checkpoints
from sdprobe.observe.latents import LatentRecorder
from sdprobe.observe.preview import Preview
from sdprobe.observe.progress import Progress
from sdprobe.observe.self_attention_maps import SelfAttentionMaps
from sdprobe.observe.statistics import Statistics
from sdprobe.prompt import Prompt, WordNotInPrompt
from sdprobe.recording import Recording
from sdprobe.registry import create, hooks, register
from sdprobe.restart import resume
from sdprobe.rows import Row
from sdprobe.run import Conditioned, Run, Settings, Site, State, Step, Text
from sdprobe.sampler import sample
from sdprobe.schedule import Schedule, schedule
from sdprobe.side_by_side import side_by_side
from sdprobe.tokens import Token, Tokens, detokenize, tokens
from sdprobe.transform.add_vector import AddVector
from sdprobe.transform.attend_and_excite import AttendAndExcite
from sdprobe.transform.attention_guidance import AttentionGuidance, CrossAttention
from sdprobe.transform.dynamic_threshold import DynamicThreshold
from sdprobe.transform.guidance import Guidance
from sdprobe.transform.inpaint import Inpaint
from sdprobe.transform.layout_guidance import LayoutGuidance
from sdprobe.transform.loss_guidance import LossGuidance
from sdprobe.transform.mix_prompts import MixPrompts
from sdprobe.transform.mix_tokens import MixTokens
from sdprobe.transform.noise_prompt import NoisePrompt
from sdprobe.transform.perturbed_attention import PerturbedAttention
from sdprobe.transform.randomize_token import RandomizeToken
from sdprobe.transform.read_layer import ReadLayer
from sdprobe.transform.replace_token import ReplaceToken
from sdprobe.transform.rescale_guidance import RescaleGuidance
from sdprobe.transform.scale_prompt import ScalePrompt
from sdprobe.transform.scale_token import ScaleToken
from sdprobe.transform.self_attention_guidance import SelfAttentionGuidance
from sdprobe.transform.use_concept import UseConcept

__all__ = [
    "load",
    "sample",
    "attach",
    "hooks",
    "create",
    "register",
    "to_config",
    "from_config",
    "tokens",
    "detokenize",
    "embed",
    "load_concept",
    "learn_concept",
    "schedule",
    "side_by_side",
    "add_noise",
    "encode",
    "decode",
    "psnr",
    "sizes",
    "invert",
    "look",
    "only",
    "after",
    "every",
    "when",
    "on",
    "watch",
    "resume",
    "film",
    "Observer",
    "Transform",
    "Hooks",
    "AttentionMaps",
    "SelfAttentionMaps",
    "LatentRecorder",
    "Statistics",
    "Preview",
    "Checkpoints",
    "Progress",
    "ReplaceToken",
    "MixTokens",
    "AddVector",
    "ScaleToken",
    "RandomizeToken",
    "MixPrompts",
    "ScalePrompt",
    "NoisePrompt",
    "ReadLayer",
    "UseConcept",
    "LossGuidance",
    "AttendAndExcite",
    "LayoutGuidance",
    "AttentionGuidance",
    "CrossAttention",
    "Guidance",
    "RescaleGuidance",
    "PerturbedAttention",
    "SelfAttentionGuidance",
    "DynamicThreshold",
    "Inpaint",
    "Attention",
    "Concept",
    "Coverage",
    "Encoded",
    "Inversion",
    "Schedule",
    "Sizes",
    "Embeddings",
    "Film",
    "HeatMap",
    "Model",
    "Prompt",
    "Recording",
    "Row",
    "Run",
    "Settings",
    "Site",
    "State",
    "Step",
    "Text",
    "Conditioned",
    "Token",
    "Tokens",
    "WordNotInPrompt",
]

__version__ = "0.1.0"
