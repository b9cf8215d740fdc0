"""sdprobe: observe and change the inside of latent diffusion models with small composable hooks."""

from sdprobe import attributions as attributions
from sdprobe import clip as clip
from sdprobe import experiments as experiments
from sdprobe import losses as losses
from sdprobe.attributions.evaluate_attributions import evaluate_attributions
from sdprobe.attributions.learn_token import learn_token
from sdprobe.attributions.learned_token import LearnedToken
from sdprobe.core.activations.flat import FlatActivations
from sdprobe.core.activations.form import ActivationKey
from sdprobe.core.activations.record import ActivationRecord
from sdprobe.core.attention import Attention
from sdprobe.core.compose import Hooks
from sdprobe.core.concept import Concept, load_concept
from sdprobe.core.coverage import Coverage
from sdprobe.core.deprecated_names import keep_old_names
from sdprobe.core.function_hooks import on, watch
from sdprobe.core.hook import Observer, Transform
from sdprobe.core.hook_configuration import from_config, to_config
from sdprobe.core.hook_records import HookRecords
from sdprobe.core.limits.after_every_when import after, every, when
from sdprobe.core.limits.only import only
from sdprobe.core.prompt import Prompt, WordNotInPrompt
from sdprobe.core.provenance import Provenance
from sdprobe.core.recording import Recording
from sdprobe.core.registry import create, hooks, register
from sdprobe.core.rows import Row
from sdprobe.core.run import Conditioned, Run, Settings, State
from sdprobe.core.schedule import Schedule
from sdprobe.core.site import Site
from sdprobe.core.step import Step
from sdprobe.core.text import Text
from sdprobe.core.weighted_text import WeightedText, read_weights
from sdprobe.model.base import Model
from sdprobe.model.loading import load
from sdprobe.observe.activation_dataset import ActivationDataset
from sdprobe.observe.activations import Activations
from sdprobe.observe.attention_maps import AttentionMaps
from sdprobe.observe.attention_matrices import AttentionMatrices
from sdprobe.observe.attention_queries import AttentionQueries
from sdprobe.observe.attention_recorder import AttentionRecorder
from sdprobe.observe.attention_shares import AttentionShares
from sdprobe.observe.checkpoints import Checkpoints
from sdprobe.observe.concept_outputs import ConceptOutputs
from sdprobe.observe.fitted_probe import FittedProbe
from sdprobe.observe.labelled_matrix import LabelledMatrix
from sdprobe.observe.latents import LatentRecorder
from sdprobe.observe.linear_probe import LinearProbe
from sdprobe.observe.preview import Preview
from sdprobe.observe.probe_result import ProbeResult
from sdprobe.observe.progress import Progress
from sdprobe.observe.self_attention_maps import SelfAttentionMaps
from sdprobe.observe.statistics import Statistics
from sdprobe.observe.word_gradients import WordGradients
from sdprobe.plot.heat_film import HeatFilm
from sdprobe.plot.heatmap import HeatMap
from sdprobe.plot.segmentation import Segmentation
from sdprobe.runs.comparison.compare_runs import compare
from sdprobe.runs.comparison.comparison import Comparison
from sdprobe.runs.saved.open_run import open_run as open  # noqa: F401 not for a star
from sdprobe.runs.saved.runs_in_folder import Runs
from sdprobe.sae.features import Features
from sdprobe.sae.learn_sae import SaeTraining, learn_sae
from sdprobe.sae.sparse_autoencoder import SparseAutoencoder
from sdprobe.sampling.add_noise import add_noise
from sdprobe.sampling.edit import edit
from sdprobe.sampling.encode_decode import Encoded, Sizes, decode, encode, psnr, sizes
from sdprobe.sampling.film import Film, film
from sdprobe.sampling.inversion import Inversion
from sdprobe.sampling.invert import invert
from sdprobe.sampling.look import look
from sdprobe.sampling.loop import sample
from sdprobe.sampling.resume import resume
from sdprobe.sampling.schedule import schedule
from sdprobe.sampling.side_by_side import side_by_side
from sdprobe.stock_pipelines.attach import attach
from sdprobe.text.embed_prompt import Embeddings, embed
from sdprobe.text.textual_inversion import learn_concept
from sdprobe.text.tokens import Token, Tokens, detokenize, tokens
from sdprobe.transform.ablate import Ablate
from sdprobe.transform.add_vector import AddVector
from sdprobe.transform.attend_and_excite import AttendAndExcite
from sdprobe.transform.attention_edits.attention_temperature import AttentionTemperature
from sdprobe.transform.attention_edits.concentrate import Concentrate
from sdprobe.transform.attention_edits.hide_tokens import HideTokens
from sdprobe.transform.attention_edits.regional_prompts import RegionalPrompts
from sdprobe.transform.attention_edits.scale_heads import ScaleHeads
from sdprobe.transform.attention_edits.share_attention import ShareAttention
from sdprobe.transform.attention_edits.sharpen_attention import SharpenAttention
from sdprobe.transform.attention_loss_guidance import AttentionGuidance, CrossAttention
from sdprobe.transform.guidances.adaptive_projected_guidance import AdaptiveProjectedGuidance
from sdprobe.transform.guidances.auto_guidance import AutoGuidance
from sdprobe.transform.guidances.cut_guidance import CutGuidance
from sdprobe.transform.guidances.dynamic_threshold import DynamicThreshold
from sdprobe.transform.guidances.frequency_decoupled_guidance import FrequencyDecoupledGuidance
from sdprobe.transform.guidances.guidance import Guidance
from sdprobe.transform.guidances.magnitude_aware_guidance import MagnitudeAwareGuidance
from sdprobe.transform.guidances.null_text import NullText
from sdprobe.transform.guidances.perturbed_attention import PerturbedAttention
from sdprobe.transform.guidances.rescale_guidance import RescaleGuidance
from sdprobe.transform.guidances.self_attention_guidance import SelfAttentionGuidance
from sdprobe.transform.guidances.skip_layer_guidance import SkipLayerGuidance
from sdprobe.transform.guidances.smoothed_energy_guidance import SmoothedEnergyGuidance
from sdprobe.transform.guidances.steer_to_picture import SteerToPicture
from sdprobe.transform.guidances.tangential_guidance import TangentialGuidance
from sdprobe.transform.guidances.zero_star_guidance import ZeroStarGuidance
from sdprobe.transform.inpaint import Inpaint
from sdprobe.transform.layout_guidance import LayoutGuidance
from sdprobe.transform.loss_guidance import LossGuidance
from sdprobe.transform.mean_difference import Direction, difference
from sdprobe.transform.mix_prompts import MixPrompts
from sdprobe.transform.mix_tokens import MixTokens
from sdprobe.transform.noise_prompt import NoisePrompt
from sdprobe.transform.patch import Patch
from sdprobe.transform.prompt_to_prompt.inject_self_attention import InjectSelfAttention
from sdprobe.transform.prompt_to_prompt.local_blend import LocalBlend
from sdprobe.transform.prompt_to_prompt.refine_attention import RefineAttention
from sdprobe.transform.prompt_to_prompt.replace_attention import ReplaceAttention
from sdprobe.transform.prompt_to_prompt.reweight_attention import ReweightAttention
from sdprobe.transform.randomize_token import RandomizeToken
from sdprobe.transform.read_layer import ReadLayer
from sdprobe.transform.replace_token import ReplaceToken
from sdprobe.transform.scale_prompt import ScalePrompt
from sdprobe.transform.scale_token import ScaleToken
from sdprobe.transform.steer import Steer
from sdprobe.transform.use_concept import UseConcept

# All but `open`: `from sdprobe import *` must leave Python's own in its place.
__all__ = [
    # running
    "load",
    "sample",
    "resume",
    "attach",
    "side_by_side",
    "compare",
    "Comparison",
    "Runs",
    "Run",
    "Settings",
    "Coverage",
    "Provenance",
    "Recording",
    "film",
    "Film",
    "Model",
    # hooks, and what they are given
    "Observer",
    "Transform",
    "Hooks",
    "only",
    "after",
    "every",
    "when",
    "on",
    "watch",
    "hooks",
    "create",
    "register",
    "to_config",
    "from_config",
    "Step",
    "Row",
    "Site",
    "Attention",
    "Text",
    "HookRecords",
    "Conditioned",
    "Prompt",
    "State",
    # text
    "tokens",
    "detokenize",
    "Tokens",
    "Token",
    "embed",
    "Embeddings",
    "WordNotInPrompt",
    "read_weights",
    "WeightedText",
    "ReplaceToken",
    "MixTokens",
    "AddVector",
    "ScaleToken",
    "RandomizeToken",
    "MixPrompts",
    "ScalePrompt",
    "NoisePrompt",
    "ReadLayer",
    "learn_concept",
    "load_concept",
    "Concept",
    "UseConcept",
    # attention and heat maps
    "AttentionMaps",
    "AttentionQueries",
    "SelfAttentionMaps",
    "AttentionRecorder",
    "AttentionMatrices",
    "LabelledMatrix",
    "AttentionShares",
    "WordGradients",
    "ConceptOutputs",
    "evaluate_attributions",
    "HeatMap",
    "HeatFilm",
    "Segmentation",
    "learn_token",
    "LearnedToken",
    "HideTokens",
    "AttentionTemperature",
    "SharpenAttention",
    "Concentrate",
    "ScaleHeads",
    "RegionalPrompts",
    "ShareAttention",
    "edit",
    "ReplaceAttention",
    "RefineAttention",
    "InjectSelfAttention",
    "ReweightAttention",
    "LocalBlend",
    "AttendAndExcite",
    "LayoutGuidance",
    "AttentionGuidance",
    "CrossAttention",
    # activations
    "Activations",
    "ActivationRecord",
    "ActivationKey",
    "FlatActivations",
    "ActivationDataset",
    "Patch",
    "Ablate",
    "Steer",
    "difference",
    "Direction",
    "LinearProbe",
    "ProbeResult",
    "FittedProbe",
    "Features",
    "SparseAutoencoder",
    "learn_sae",
    "SaeTraining",
    # the diffusion process
    "schedule",
    "Schedule",
    "add_noise",
    "LatentRecorder",
    "Statistics",
    "Preview",
    "Checkpoints",
    "Progress",
    "invert",
    "look",
    "Inversion",
    "NullText",
    "SteerToPicture",
    "Inpaint",
    "encode",
    "decode",
    "psnr",
    "sizes",
    "Encoded",
    "Sizes",
    # guidance
    "Guidance",
    "CutGuidance",
    "RescaleGuidance",
    "AdaptiveProjectedGuidance",
    "ZeroStarGuidance",
    "TangentialGuidance",
    "FrequencyDecoupledGuidance",
    "MagnitudeAwareGuidance",
    "DynamicThreshold",
    "PerturbedAttention",
    "SelfAttentionGuidance",
    "SkipLayerGuidance",
    "SmoothedEnergyGuidance",
    "AutoGuidance",
    "LossGuidance",
]

__version__ = "0.1.0"

keep_old_names()
