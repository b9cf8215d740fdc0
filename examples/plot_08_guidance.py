"""
# Classifier-free guidance

At every step the U-Net makes two predictions from the noisy picture: with the prompt and without it. Guidance
extrapolates from the second past the first: uncond + scale · (cond − uncond). Scale 0 ignores the prompt, scale 1 uses
it alone, and a scale above 1 increases the effect of the prompt (Ho & Salimans 2022).
"""

# %%
# ## Scales
#
# The same noise with several scales. With a low scale, size and position vary; a high scale gives harder colours and
# rougher edges.

import sdprobe
from sdprobe import Guidance, LatentRecorder, Observer, RescaleGuidance, Statistics, only, plot, sample
from sdprobe.sampling.side_by_side import side_by_side

model = sdprobe.load()
prompt = "a red circle left of a blue square on a white background"
# mkdocs_gallery_thumbnail_panel = 3
side_by_side(model, prompt, rows={"seed": [0, 3]}, columns={"guidance_scale": [1, 2, 5, 10, 20]}, steps=20)

# %%
# ## The two predictions
#
# Every row of the denoiser's batch has a label. At `noise_pred` a step also holds what the denoiser returned for all
# rows, so predicted x0 can be shown for each of the two predictions.


class Apart(Observer):
    """Predicted x0 without the prompt, with it, and guided."""

    def start(self, run):
        self.pictures = []

    def noise_pred(self, x, step):
        without, prompted = (step.model_output[step.rows_of(role)] for role in ("uncond", "cond"))
        x0 = [step.denoised(output) for output in (without, prompted, x)]
        self.pictures.append([model.pictures(model.decode(own, None))[0] for own in x0])


apart, statistics = Apart(), Statistics()
settings = {"steps": 20, "progress": False}
run = sample(model, prompt, hooks=[apart, statistics], guidance_scale=5.0, seed=0, **settings)
steps = (0, 3, 6, 9, 12, 15, 19)
plot.sheet(
    [[run[apart].pictures[step][i] for step in steps] for i in range(3)],
    rows=["no prompt", "prompt", "guided, 5"],
    columns=[f"step {step}" for step in steps],
)

# %%
# Without a prompt, too, the U-Net finds the objects once they show in the noise: from then on the two predictions
# agree. The cosine between its two outputs, on the right, shows when the prompt matters: in the early steps.

run[statistics].plot()

# %%
# ## Schedules of the scale
#
# The scale can follow a schedule: `Guidance` takes one number, one for each step, or a function of the step, in place
# of the scale of the run. `only` limits it: here guidance is off in one half of the steps (Kynkäänniemi et al. 2024).

several = {"seed": [0, 1, 3], "images_per_prompt": 3, "guidance_scale": 5.0} | settings
schedules = {
    "5 throughout": [],
    "steps 0–9": [only(Guidance(1.0), steps=range(10, 20))],
    "steps 10–19": [only(Guidance(1.0), steps=range(10))],
    "falling 9 → 1": [Guidance(lambda step: 9 - 8 * step.index / (step.total - 1))],
    "rising 1 → 9": [Guidance(lambda step: 1 + 8 * step.index / (step.total - 1))],
}
runs = [sample(model, prompt, hooks=hooks, **several) for hooks in schedules.values()]
seeds = [f"seed {seed}" for seed in several["seed"]]
plot.sheet([[own.images[i] for own in runs] for i in range(3)], rows=seeds, columns=list(schedules))

# %%
# ## Rescaled guidance
#
# A high scale makes every prediction larger than those the U-Net was trained on. `RescaleGuidance` rescales the guided
# noise to the standard deviation of the conditional one, in part or fully (Lin et al. 2023).

from matplotlib.figure import Figure

amounts, recorder = (0.0, 0.2, 0.4, 0.7), LatentRecorder(keep=("denoised",))
runs = [
    sample(
        model,
        "a yellow ring on a gray background",
        hooks=[RescaleGuidance(amount), recorder],
        **several | {"guidance_scale": 12.0},
    )
    for amount in amounts
]
plot.sheet(
    [[own.images[i] for own in runs] for i in range(3)],
    rows=seeds,
    columns=[f"rescaled by {amount}" for amount in amounts],
)

# %%
# The standard deviation of predicted x0 shows the effect. It is largest in the early steps, where guidance is
# strongest; so rescaling can also lead to another picture.

figure = Figure(figsize=(5, 3), layout="constrained")
ax = figure.subplots()
for own, amount, style in zip(runs, amounts, ("-", "--", "-.", ":"), strict=True):
    ax.plot(own[recorder]["denoised"].flatten(2).std(2).mean(1), style, color="black", label=f"{amount}")
ax.set(xlabel="step", ylabel="standard deviation\nof predicted $x_0$", xticks=range(0, 20, 5))
ax.spines[["top", "right"]].set_visible(False)
ax.legend(title="rescaled by", frameon=False)
figure

# %%
# ## Negative prompts
#
# Guidance moves away from the prediction without a prompt. A negative prompt replaces this prediction. It is not
# precise: with the negative prompt “a white background”, the blue square is lost too.

negatives = ["", "a white background", "a black background", "a red circle", "a blue square"]
runs = [sample(model, "a red circle left of a blue square", negative_prompt=text, **several) for text in negatives]
plot.sheet(
    [[own.images[i] for own in runs] for i in range(3)],
    rows=seeds,
    columns=["no negative prompt", *(f"not\n“{text}”" for text in negatives[1:])],
)
