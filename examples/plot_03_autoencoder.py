"""
# Where the pictures really are

Stable Diffusion never works on pixels. An autoencoder, trained before anything else, takes pictures to a small grid of
numbers, the latents, and back. What it loses no prompt can bring back, so it is worth a look by itself.
"""

# %%
# ## Down and up again
#
# Pictures that the model has never seen, drawn by the renderer of its world, and one that is not of its world at all.
# Peak signal-to-noise ratio says how near the decoded picture is: above 30 dB the eye finds little.

import numpy as np
from PIL import Image

import sdprobe
from sdprobe import decode, encode, plot, psnr
from sdprobe.shapes import scene

model = sdprobe.load()
pictures = [Image.fromarray(scene(seed, objects=2).image) for seed in (1003, 1012, 1007)]
noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
encoded = encode(model, [*pictures, noise])
back = decode(model, encoded.mean)
names = [f"{value:.1f} dB" for value in psnr(back, encoded.pixels)]
plot.sheet(
    [model.pictures(encoded.pixels), model.pictures(back)], rows=["given", "decoded"], columns=[*names[:3], names[3]]
)

# %%
# ## What the channels hold
#
# Encoding gives a normal distribution for every place: a mean and a spread. The spread is small beside the noise that
# diffusion adds, and largest where the picture is busy.

encoded.channels(image=0)

# %%
# ## Sizes
#
# The sides are halved so many times, and what is left over is dropped. The factor of Stable Diffusion is 8; of the
# embedded model, 4.

for height, width in [(64, 64), (65, 50), (301, 300)]:
    print(sdprobe.sizes(model, height, width))

# %%
# ## Between two pictures
#
# Latents are no pixels: half-way between two of them lies a cross-fade in part, and in part something that neither
# picture held.

ends = encoded.mean[:2]
mixes = [(1 - share) * ends[:1] + share * ends[1:] for share in np.linspace(0, 1, 6)]
plot.sheet(
    [[model.pictures(decode(model, mix))[0] for mix in mixes]],
    columns=[f"{share:.0%}" for share in np.linspace(0, 1, 6)],
)
