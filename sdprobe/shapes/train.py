"""Train the embedded model: `python -m sdprobe.shapes.train autoencoder|clip|unet|all|export|evaluate`.

Each training resumes from its checkpoint and writes what it has reached to a standard folder at every one. The order
is: autoencoder, clip, unet (which encodes its pictures with the first and starts its text encoder from the second).
`export` copies the results to the package's weights, `evaluate` prints how well those keep to captions.
"""

import argparse
from pathlib import Path

import torch

from .checkpoint import Budget


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["autoencoder", "clip", "unet", "all", "export", "evaluate"])
    parser.add_argument("--folder", type=Path, default=Path(".training"), help="where checkpoints and weights go")
    parser.add_argument("--steps", type=int, help="budget in steps")
    parser.add_argument("--minutes", type=float, help="budget in minutes")
    parser.add_argument("--until", help="budget as a time of day, such as 03:05")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--bf16", action="store_true", help="U-Net in bfloat16: faster where the processor has AMX")
    parser.add_argument("--decoder-only", action="store_true", help="autoencoder: keep the encoder")
    parser.add_argument("--start", type=Path, help="U-Net: a pipeline folder to start from, without a checkpoint")
    parser.add_argument("--count", type=int, default=100, help="evaluate: captions of one object, and of two")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)

    def budget(minutes: float) -> Budget:
        chosen = given.steps is not None or given.minutes is not None or given.until is not None
        return Budget(given.steps, given.minutes, given.until) if chosen else Budget(minutes=minutes)

    # Each part is imported when it is asked for: they bring large libraries with them.
    if given.part in ("autoencoder", "all"):
        from .train_autoencoder import train_autoencoder

        train_autoencoder(given.folder, budget(20), decoder_only=given.decoder_only, seed=given.seed)
    if given.part in ("clip", "all"):
        from .train_clip import train_clip

        train_clip(given.folder, budget(8), seed=given.seed)
    if given.part in ("unet", "all"):
        from .train_unet import train_unet

        train_unet(given.folder, budget(120), bf16=given.bf16, start=given.start, seed=given.seed)
    if given.part in ("export", "all"):
        from .export import export

        export(given.folder)
    if given.part == "evaluate":
        from diffusers import StableDiffusionPipeline

        from . import WEIGHTS
        from .evaluate import figures

        for name, figure in figures(StableDiffusionPipeline.from_pretrained(WEIGHTS), given.count).items():
            print(f"{name:12} {figure:.3f}")


if __name__ == "__main__":
    main()
