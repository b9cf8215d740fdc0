"""
# Autoencoder: latents, and what they lose

Stable Diffusion does not work on pixels. An autoencoder, trained before the denoiser, maps pictures to a small grid of
numbers, the latents, and back. What the autoencoder loses, no prompt can restore.
"""

# %%
# ## Encode and decode
#
# Three pictures that are not in the training data, drawn by the renderer, and one of pure noise, which is unlike all
# training data. The peak signal-to-noise ratio (PSNR) measures how near the decoded picture is: above 30 dB the
# difference is hardly visible.

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
# mkdocs_gallery_thumbnail_panel = 5
plot.sheet(
    [model.pictures(encoded.pixels), model.pictures(back)], rows=["given", "decoded"], columns=[*names[:3], names[3]]
)

# %%
# ## The channels of the latents
#
# Encoding gives a normal distribution for every position of the latents: a mean and a standard deviation. The deviation
# is small compared with the noise that diffusion adds. It is largest where the picture has most detail.

encoded.channels(image=0)

# %%
# ## Sizes
#
# The encoder halves height and width several times, and drops what cannot be divided. The factor of Stable Diffusion is
# 8; that of the embedded model is 4.

for height, width in [(64, 64), (65, 50), (301, 300)]:
    print(sdprobe.sizes(model, height, width))

# %%
# ## Interpolation between two pictures
#
# Latents are not pixels: a mean of two latents decodes partly to a cross-fade, and partly to something that is in
# neither picture.

ends = encoded.mean[:2]
mixes = [(1 - share) * ends[:1] + share * ends[1:] for share in np.linspace(0, 1, 6)]
plot.sheet(
    [[model.pictures(decode(model, mix))[0] for mix in mixes]],
    columns=[f"{share:.0%}" for share in np.linspace(0, 1, 6)],
)
