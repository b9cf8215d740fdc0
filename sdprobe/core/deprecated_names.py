"""Imports under the old names of modules, with a warning, for one more release."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import MappingProxyType, ModuleType

RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "hook": "core.hook",
        "compose": "core.compose",
        "functions": "core.function_hooks",
        "registry": "core.registry",
        "listing": "core.hook_listing",
        "config": "core.hook_configuration",
        "run": "core.run",
        "rows": "core.rows",
        "conditioned": "core.encoded_prompts",
        "coverage": "core.coverage",
        "attention": "core.attention",
        "recording": "core.recording",
        "prompt": "core.prompt",
        "concept": "core.concept",
        "whole_file": "files.atomic_file",
        "limiting.limits": "core.limits.after_every_when",
        "limiting.only": "core.limits.only",
        "limiting.only_text": "core.limits.limited_text_edit",
        "limiting.limited": "core.limits.limited_hook",
        "limiting.narrowing": "core.limits.row_subset",
        "heatmap": "plot.heatmap",
        "table": "plot.table",
        "notebook": "plot.notebook",
        "similarity": "clip.similarity_table",
        "embeddings": "text.embed_prompt",
        "learn": "text.textual_inversion",
        "sampler": "sampling.loop",
        "noising": "sampling.add_noise",
        "inversion": "sampling.inversion",
        "restart": "sampling.resume",
        "autoencoder": "sampling.encode_decode",
        "attaching": "stock_pipelines.attach",
        "model.stock": "stock_pipelines.pipeline_listener",
        "model.passage": "stock_pipelines.pipeline_call",
        "model.asked": "stock_pipelines.call_arguments",
        "model.sides": "stock_pipelines.encode_by_role",
        "model.replaying": "stock_pipelines.repeat_denoiser_call",
        "model.retelling": "model.denoiser.apply_limited_text",
        "model.copies": "model.diffusion.scheduler_copies",
        "model.retracing": "model.diffusion.ddim_inversion",
        "model.prediction": "model.diffusion.noise_levels",
        "model.schedulers": "model.diffusion.schedulers",
        "model.forward_process": "model.diffusion.forward_process",
        "model.noised": "model.diffusion.start_from_image",
        "model.autoencoder": "model.pictures.autoencoder",
        "model.linear_rgb": "model.pictures.linear_rgb",
        "model.video": "files.video_files",
        "model.encoding": "model.text.encoder_stages",
        "model.reading": "model.text.tokenize_prompt",
        "model.conditioning": "model.text.conditioning",
        "model.concepts": "model.text.added_tokens",
        "model.vocabulary": "model.text.vocabulary",
        "model.lesson": "model.text.concept_training",
        "model.taps": "model.denoiser.module_hooks",
        "model.layout": "model.denoiser.token_layout",
        "model.checkpointing": "model.denoiser.gradient_checkpointing",
        "model.predicting": "model.denoiser.further_calls",
        "model.stable_diffusion": "model.families.stable_diffusion",
        "model.stable_diffusion_xl": "model.families.stable_diffusion_xl",
        "model.stable_diffusion_3": "model.families.stable_diffusion_3",
        "model.flux": "model.families.flux",
        "model.pixart": "model.families.pixart",
        "model.instruct_pix2pix": "model.families.instruct_pix2pix",
        "model.unet": "model.families.unet",
        "model.transformer": "model.families.transformer",
        "model.live": "model.pipeline_parts",
        "model.settings": "model.fill_settings",
        "model.turns": "model.model_lock",
        "model.toy": "model.toy_model",
        "model.clip": "model.clip_model",
    }
)
"""Modules of the package, old name to new name."""

PACKAGES = ("limiting",)
"""Packages that are gone, whose modules have moved."""


class OldNames(MetaPathFinder, Loader):
    """Finds modules by their old names: the import warns and provides the content of the new module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, old = fullname.partition(".")
        if package != "sdprobe" or not (old in RENAMED or old in PACKAGES):
            return None
        return ModuleSpec(fullname, self, is_package=old in PACKAGES)

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        if old.removeprefix("sdprobe.") in PACKAGES:
            return  # there was nothing in it but its modules
        new = f"sdprobe.{RENAMED[old.removeprefix('sdprobe.')]}"
        warnings.warn(
            f"{old} is called {new} now; the old name goes with the next release", DeprecationWarning, stacklevel=2
        )
        held = vars(importlib.import_module(new))
        vars(module).update({name: value for name, value in held.items() if not name.startswith("__")})


def keep_old_names() -> None:
    """Install the finder for old module names, once per Python process."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.append(OldNames())
