"""Train the embedded models: `python -m sdprobe.shapes.train unet`, or another part.

The parts: autoencoder, clip, unet, all of these; joint; export, export-joint; evaluate.

Each training resumes from its checkpoint and writes what it has reached to a standard folder at every one. The order
is: autoencoder, clip, unet (which encodes its pictures with the first and starts its text encoder from the second).
`joint` trains the second model, with a transformer, around the shipped autoencoder and text encoders. `export` copies
the results of the first to the package's weights, `export-joint` those of the second, `evaluate` prints how well a
model keeps to captions.
"""

import argparse
from pathlib import Path

import torch

from .checkpoint import Budget


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "part", choices=["autoencoder", "clip", "unet", "all", "joint", "export", "export-joint", "evaluate"]
    )
    parser.add_argument("--folder", type=Path, default=Path(".training"), help="where checkpoints and weights go")
    parser.add_argument("--steps", type=int, help="budget in steps")
    parser.add_argument("--minutes", type=float, help="budget in minutes")
    parser.add_argument("--until", help="budget as a time of day, such as 03:05")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--bf16", action="store_true", help="denoisers in bfloat16, as on a GPU; U-Net: for AMX")
    parser.add_argument("--compile", action="store_true", help="joint: compile parts; needs a C++ compiler")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=0, help="denoisers: processes that draw scenes ahead")
    parser.add_argument("--decoder-only", action="store_true", help="autoencoder: keep the encoder")
    parser.add_argument(
        "--start",
        type=Path,
        help="U-Net: a pipeline folder to start from, without a checkpoint; joint: the folder of autoencoder and "
        "encoders; evaluate: the model's folder; else the shipped one's",
    )
    parser.add_argument("--count", type=int, default=100, help="evaluate: captions of one object, and of two")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)

    def budget(minutes: float) -> Budget:
        chosen = given.steps is not None or given.minutes is not None or given.until is not None
        return Budget(given.steps, given.minutes, given.until) if chosen else Budget(minutes=minutes)

    usual = {"seed": given.seed, "device": given.device}
    denoisers = {"bf16": given.bf16 or given.device.startswith("cuda"), "workers": given.workers}
    # Each part is imported when it is asked for: they bring large libraries with them.
    if given.part in ("autoencoder", "all"):
        from .train_autoencoder import train_autoencoder

        train_autoencoder(given.folder, budget(20), decoder_only=given.decoder_only, **usual)
    if given.part in ("clip", "all"):
        from .train_clip import train_clip

        train_clip(given.folder, budget(8), **usual)
    if given.part in ("unet", "all"):
        from .train_unet import train_unet

        train_unet(given.folder, budget(120), start=given.start, **usual, **denoisers)
    if given.part == "joint":
        from .train_joint import train_joint

        weights = {"weights": given.start} if given.start else {}
        train_joint(given.folder, budget(85), compiled=given.compile, **weights, **usual, **denoisers)
    if given.part in ("export", "all"):
        from .export import export

        export(given.folder)
    if given.part == "export-joint":
        from .export import export_joint

        export_joint(given.folder)
    if given.part == "evaluate":
        from diffusers import StableDiffusionPipeline

        from . import WEIGHTS
        from .evaluate import figures
        from .joint_model import open_joint

        folder = given.start or WEIGHTS
        is_joint = "StableDiffusion3Pipeline" in (folder / "model_index.json").read_text()
        made = open_joint(folder) if is_joint else StableDiffusionPipeline.from_pretrained(folder)
        for name, figure in figures(made.to(given.device), given.count).items():
            print(f"{name:12} {figure:.3f}")


if __name__ == "__main__":
    main()
