"""Every annotation of the package, axis names included, holds while real runs go through it.

The checks are made at import, and would answer misuse in the place of the package's own errors: so they have a process
of their own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUNS = """
import jaxtyping

jaxtyping.install_import_hook("sdprobe", "beartype.beartype")

import numpy as np
import torch
import sdprobe
from PIL import Image
from tests.laws.strategies import affine, run, same, seen
from tests.tiny import stable_diffusion
from tests.videos import as_video, moving_square
from sdprobe.core.hook import POINTS
from sdprobe.testing import check_hook

torch.set_num_threads(1)
model = sdprobe.load(stable_diffusion())
maps = sdprobe.AttentionMaps(keep=("step", "layer", "head"), rows="both")
small = sdprobe.AttentionMaps(keep="step", dtype="float16", device="cpu", budget=1e9)
whole, own = sdprobe.AttentionMaps(words=["red", 3]), sdprobe.SelfAttentionMaps()
latents = sdprobe.LatentRecorder(keep=("latents", "noise_pred", "denoised"))
points = [make(point, *rest) for point in POINTS for make, *rest in ((affine, 1.5, 0.5), (same,), (seen,))]
result = run(model, maps, whole, small, own, latents, sdprobe.ReplaceToken("red", with_="blue"), *points,
             prompt=["a red circle", "a red star"], images_per_prompt=2, width=24, progress=True)
daam = result[maps].heat_map("red", method="daam")
result[small].heat_map("red", step=1).overlay()
for heat in (daam, *result[whole].heat_maps().values(), *result[own].components()):
    heat.overlay(), heat.to_image(), heat.iou(heat.mask()), heat.points_into(heat.mask())
result[maps].shares().plot(), result[maps].segment(["red"]).overlay(), daam.precision_recall(daam.mask(largest=True))
video, own_of_video = as_video(run(model, maps, images_per_prompt=3), maps, moving_square(9, (16, 16), 4))
moving = own_of_video.heat_map("red")
moving.film().sheet(), moving.film(smooth=True).frames(32), moving.mask(largest=True)
moving.spread(torch.rand(192, 192))
moving.precision_recall(moving.mask()), moving.iou(moving.mask()[[0, 1, 1, 1, 1, 2, 2, 2, 2]]), video.numpy()
own_of_video.heat_map("red", method="daam"), own_of_video.segment(["red"]).overlay(frame=1), own_of_video.grid("frame")
matrices = sdprobe.AttentionMatrices(keep="layer")
run(model, matrices, width=24)[matrices].matrix("image", "text").without_padding().plot()
daam.mask(method="self_attention", affinity=result[own].matrix())
result[maps].grid("step"), result[maps].row_sums(), result[own].heat_map((1, 1)), result[latents]["denoised"]
for name in ("DDPM", "EulerDiscrete", "KDPM2Discrete", "PNDM", "DPMSolverMultistep"):
    run(model, latents, scheduler=name, steps=4, guidance_scale=1.0, seed=[1])
run(model, image=torch.zeros(1, 3, 16, 16), strength=0.5, steps=4)
run(model, latents=torch.zeros(1, 4, 8, 8))
print(sdprobe.tokens(model, ["a red circle", "a star"]), sdprobe.embed(model, ["a red circle", "a star"]))
red, blue = sdprobe.embed(model, ["red", "blue"]).token[:, 1]
text = [
    sdprobe.MixTokens({"red": 0.5, "blue": 0.5}, at="red"),
    sdprobe.AddVector("circle", blue - red),
    sdprobe.ScaleToken("red", 0.5),
    sdprobe.RandomizeToken("circle", seed=1),
    sdprobe.ReplaceToken("a", with_=torch.stack([red])),
    sdprobe.MixPrompts({"a star": 0.5, "a ring": 0.5}),
    sdprobe.ScalePrompt(0.9),
    sdprobe.NoisePrompt(0.1),
    sdprobe.ReadLayer(1),
]
limited = [sdprobe.only(hook, steps={1}, sites="mid_block.*") for hook in text]
run(model, *text, *limited, sdprobe.only(latents, steps={0}))
concept = sdprobe.learn_concept(
    model, np.zeros((16, 16, 3), np.uint8), "<x>", init_word="red", vectors=2, steps=2, batch=2, progress=False
)
run(model, sdprobe.UseConcept(concept), prompt="a <x> circle")
for name in ("DDIM", "LMS", "LCM", "KDPM2Ancestral", "TCD"):
    table = sdprobe.schedule(model, 4, name)
    table.alphas, table.snr, table.step_sizes, str(table), table._repr_html_()
table.plot(sdprobe.schedule(model, 3))
encoded = sdprobe.encode(model, np.zeros((16, 24, 3), np.uint8))
encoded.sample(1), encoded.sample([1]), encoded.channels(), encoded.std, repr(encoded), sdprobe.sizes(model, 9, 9)
sdprobe.psnr(sdprobe.decode(model, encoded.mean), encoded.pixels)
sdprobe.add_noise(model, encoded.mean, 1, steps=3), sdprobe.add_noise(model.pipe, encoded.mean, timestep=3)
picture = Image.new("RGB", (25, 18))
back = sdprobe.invert(model, picture, "a star", steps=2, progress=False)
back.psnr(back.sample(progress=False)), repr(back)
sdprobe.look(model, np.zeros((16, 16, 3), np.uint8), ["a star"] * 2, 5, seed=[1, 2], hooks=[sdprobe.AttentionMaps()])
sdprobe.side_by_side(model, "a", rows={"scheduler": ["DDIM"]}, columns={"steps": [1, 2]})
near = sdprobe.clip.similarity(torch.rand(2, 3, 20, 24), ["a red circle", "a star"])
near.plot(), near.best, near.logits, near.probabilities, repr(near)
own = sdprobe.clip.load()
sdprobe.clip.info_nce(own.image_features(torch.rand(2, 3, 64, 64)), own.text_features(["a", "b"]), own.logit_scale)
sdprobe.clip.pooled("a"), sdprobe.clip.unpooled(["a", "b"])
repr(sdprobe.clip.nearest_tokens(sdprobe.clip.token_vectors("checkered", model), model=model))
excite, box = sdprobe.AttendAndExcite(["circle", ("red", 0), 3], grid=4), (0.0, 0.0, 0.5, 0.5)
run(model, excite, sdprobe.LayoutGuidance({"circle": box}), prompt=["a red circle", "a star"], steps=4)
family = [sdprobe.PerturbedAttention(1.0), sdprobe.SelfAttentionGuidance(0.5), sdprobe.DynamicThreshold()]
run(model, *family, sdprobe.after(1)(sdprobe.only(maps, rows="cond")), sdprobe.on("latents", lambda x: x))
with sdprobe.attach(model.pipe, [maps, "latents", ("guidance", {"scale": 2.0})]) as attached:
    model.pipe("a red circle", num_inference_steps=2)
str(attached.coverage), attached._repr_html_(), str(sdprobe.hooks()), attached[maps].heat_map("red")._repr_png_()
check_hook(sdprobe.LatentRecorder)
print("every annotation held")
"""


@pytest.mark.slow
def test_annotations_hold():
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", RUNS], cwd=root, capture_output=True, text=True)
    assert "every annotation held" in done.stdout, done.stderr[-3000:]
