"""
# Previews, films and recordings of a run

At every step there are two pictures: x_t, which is noisy, and predicted x0, the clean picture that the U-Net predicts
from it. This page shows both as a film, and keeps them as tensors and as numbers.
"""

# %%
# ## All steps on one sheet
#
# `Preview` makes both pictures at every step. `film` puts them in order, here on one sheet.

import tempfile
from pathlib import Path

import sdprobe
from sdprobe import LatentRecorder, Preview, Recording, Statistics, film, plot, sample

model = sdprobe.load()
decoded, linear, statistics = Preview(decoder="vae"), Preview(), Statistics()
settings = {"steps": 25, "guidance_scale": 5.0, "seed": 1, "progress": False}
run = sample(model, "a red circle above a green square", hooks=[decoded, linear, statistics], **settings)
# mkdocs_gallery_thumbnail_panel = 10
film(run[decoded]).sheet(columns=7)

# %%
# Large areas and their colours are formed first, edges later. At a third of the steps predicted x0 already shows the
# final picture, while x_t still looks like noise.
#
# ## As a GIF
#
# A GIF needs no further package; an MP4 needs `pip install 'sdprobe[video]'`.

with tempfile.TemporaryDirectory() as folder:
    path = film(run[decoded]).gif(Path(folder) / "circle.gif", fps=8)
    print(f"{path.name}: {path.stat().st_size // 1000} kB")

# %%
# One of its frames:

from matplotlib.figure import Figure

frame = film(run[decoded]).frames(height=192)[8]
figure = Figure(figsize=(4, 4 * frame.height / frame.width))
ax = figure.add_axes((0, 0, 1, 1))
ax.set_axis_off()
ax.imshow(frame)
figure

# %%
# ## Previews during the run
#
# A decoder can cost as much as the step itself. A linear map from latents to RGB costs almost nothing, and shows nearly
# the same, one pixel for each position of the latents; it is fitted once for each model. The function given as
# `Preview(show=...)` is called with the pictures of every step during the run.

film(run[linear]).sheet(columns=7)

# %%
# ## In numbers
#
# `Statistics` keeps no tensors, only their mean, deviation and norm, and how much the prompt changes the output of the
# U-Net.

run[statistics].plot()

# %%
# ## Recordings on disk
#
# `LatentRecorder` keeps the tensors. With a folder, it writes a file at the end of every step: memory does not grow,
# and a run that is stopped leaves the files of its finished steps. A recording is read step by step, without the run.

with tempfile.TemporaryDirectory() as folder:
    recorder = LatentRecorder(keep=("latents", "denoised"), folder=Path(folder) / "run")
    sample(model, "a red circle above a green square", hooks=[recorder], **settings)
    recording = Recording(recorder.folder)
    print(f"{len(recording.indices)} steps, {list(recording.at(7))}")
    x0 = recording["denoised"][:, 0]

# %%
# The four channels of predicted x0, from the recording, each on its own scale.

chosen = (0, 4, 8, 12, 16, 24)
low, high = x0.amin((0, 2, 3), keepdim=True), x0.amax((0, 2, 3), keepdim=True)
shown = ((x0 - low) / (high - low)).numpy()
plot.sheet(
    [[shown[step, channel] for step in chosen] for channel in range(shown.shape[1])],
    rows=[f"channel {channel}" for channel in range(shown.shape[1])],
    columns=[f"step {step}" for step in chosen],
)
