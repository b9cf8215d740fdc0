"""
# A run as a film

At every step the scheduler holds two pictures: x_t, the noisy one it steps from, and predicted x0, the clean one that
the U-Net takes it for. Side by side they are a film of how the picture comes into being.
"""

# %%
# ## A contact sheet
#
# `Preview` makes both pictures at every step. `film` puts them in order, here as a sheet for paper.

import tempfile
from pathlib import Path

import sdprobe
from sdprobe import LatentRecorder, Preview, Recording, Statistics, film, plot, sample

model = sdprobe.load()
decoded, linear, statistics = Preview(decoder="vae"), Preview(), Statistics()
settings = {"steps": 25, "guidance_scale": 5.0, "seed": 1, "progress": False}
run = sample(model, "a red circle above a green square", hooks=[decoded, linear, statistics], **settings)
film(run[decoded]).sheet(columns=7)

# %%
# Large masses and their colours come first, edges after them: what is settled at the end could be told from predicted x0
# at a third of the way, while x_t still looks like noise.
#
# ## As it moves
#
# A GIF needs nothing more; an MP4 needs `pip install 'sdprobe[video]'`.

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
# ## While it is made
#
# A decoder can cost as much as the step that it shows. A linear map from latents to RGB costs next to nothing, and
# shows nearly the same, one pixel for each place of the latents; it is fitted once for a model. What is given as
# `Preview(show=...)` is called with the pictures as soon as they are there.

film(run[linear]).sheet(columns=7)

# %%
# ## In numbers
#
# `Statistics` keeps no tensors, only how large they are, and what a prompt changes in what the U-Net says.

run[statistics].plot()

# %%
# ## On disk
#
# `LatentRecorder` keeps the tensors themselves. With a folder, every step is a file as soon as it is done: memory stays
# flat, and a run that is killed leaves what it had finished. A recording is read step by step, without the run.

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
