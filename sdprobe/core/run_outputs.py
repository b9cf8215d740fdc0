"""`RunOutputs`: the methods of a run that write it or turn it into something else.

What they call is above this package, so each method imports it when it is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


class RunOutputs:
    """What can be made of a run."""

    def save(self, folder: str | Path) -> Path:
        """Save the run to a folder, from which `sdprobe.open` reads it without its model; return the path.

        >>> import tempfile
        >>> import sdprobe
        >>> maps, settings = sdprobe.AttentionMaps(), {"steps": 2, "seed": 0, "progress": False}
        >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[maps], **settings)
        >>> folder = run.save(tempfile.mkdtemp())
        >>> sorted(path.name for path in folder.iterdir())
        ['coverage.json', 'hooks', 'images', 'prompts.json', 'run.json', 'tensors-0000.safetensors']
        >>> sdprobe.open(folder)[maps].heat_map("circle")
        HeatMap('circle', 16×16)

        Tensors are written as safetensors, images as PNG, everything else as JSON: settings, prompts, coverage, hooks
        as pairs of name and configuration, versions of the packages, the model's name and a hash of its weights. There
        is no pickle. Every file is written completely or not at all, and the folder says whether it was saved to its
        end. Recordings in folders of their own are copied into it.

        What a hook recorded is written as its method `records` says (`Observer`). What cannot be written is left out
        with a warning, and said when it is asked for; all else is saved.

        Args:
            folder: a new or empty folder.

        Raises:
            ValueError: for a folder that is not empty, and for an attached run whose pipeline has not been called.
            OSError: if the disk is full, or the folder cannot be written to.
        """
        from sdprobe.runs.saved.save_run import save_run

        return save_run(self, folder)  # type: ignore[arg-type]

    def report(self, path: str | Path) -> Path:
        """Write the run as one HTML file, which any browser opens and which fetches nothing from elsewhere.

        It shows each picture, and over it the heat map of the word of the prompt that is pointed at or focused, from
        every `AttentionMaps` of the run; with sliders over steps, layers and heads where these were kept apart. Then
        the film of x_t and predicted x0 (`Preview`), the curves of `Statistics` and of losses, the settings, the code
        that makes the run again, coverage, and versions. What was not recorded is said, with the hook that records it.

        >>> import pathlib, tempfile
        >>> import sdprobe
        >>> hooks = [sdprobe.AttentionMaps(keep=("step",)), sdprobe.Preview(), sdprobe.Statistics()]
        >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=hooks, steps=4, seed=0, progress=False)
        >>> path = run.report(pathlib.Path(tempfile.mkdtemp()) / "circle.html")
        >>> path.name, path.stat().st_size < 1_000_000
        ('circle.html', True)

        Heat maps are embedded at their own size, in 256 levels. The file of a run of a few pictures stays under 15 MB:
        where all would be more, fewer steps, layers and heads are in it, evenly chosen, and pictures are embedded as
        JPEG; the report says so. What is left out can be asked of the run: ``run[maps].heat_map("circle", step=3)``.

        Args:
            path: the file, which ends in ``.html``. An existing file is replaced, once the new one is whole.

        Returns:
            The path.

        Raises:
            ValueError: for a path that does not end in ``.html``.
            IsADirectoryError: for a folder.
            FileNotFoundError: if the folder of the file does not exist.
        """
        from sdprobe.runs.report.write_report import write_report

        return write_report(self, path)  # type: ignore[arg-type]

    def to_xarray(self) -> Any:
        """Return all that was recorded, the final latents and the pictures, as a dataset of xarray.

        >>> import sdprobe
        >>> hooks = [sdprobe.AttentionMaps(keep=("step", "layer")), sdprobe.Statistics()]
        >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=hooks, steps=4, seed=0, progress=False)
        >>> ds = run.to_xarray()
        >>> ds.attention_16x16.dims, ds.attention_8x8.dims
        (('image', 'step', 'layer', 'token', 'y', 'x'), ('image', 'step', 'layer_8x8', 'token', 'y_8x8', 'x_8x8'))
        >>> ds.token_text.sel(image=0, token=[1, 2, 3]).values.tolist()
        ['a', 'red', 'circle']
        >>> ds.attention_8x8.sel(image=0, token=3).mean(["step", "layer_8x8"]).shape, ds.latents_std.shape
        ((8, 8), (4, 1))
        >>> ds.attrs["prompts"], ds.attrs["seed"], ds.attention_8x8.attrs["averaged_over"]
        (['a red circle'], 0, ['head'])

        The variables, by hook:

        - `AttentionMaps`: ``attention_16x16`` of each grid, ``(image, role, step, layer, head, token, y, x)``: mean
          probabilities, in float32. What was not kept apart is no dimension, nor is the role if only one was recorded.
          If a callback changed the prompt, ``attention_16x16_prompt_2`` is of the second one.
        - `AttentionMatrices`: ``matrix_cross_image_to_text_16x16``, ``(image, step, layer, from, to)``; tokens are
          ``from_token_text`` and ``to_token_text``, and places stand row by row.
        - `AttentionRecorder`: ``probabilities_..._text`` of each module, ``(step, row, heads, queries, keys)``.
        - `AttentionQueries`: ``queries_...`` of each module, ``(step, image, head, y, x, width)``.
        - `WordGradients`: ``word_gradient_norm_16x16``, ``..._product_...`` and ``..._path_...``,
          ``(image, word, y, x)``, and with a path ``word_gradient_change``, ``(image, word)``.
        - `ConceptOutputs`: ``concept_share_16x16`` and ``concept_score_16x16``, ``(image, concept, y, x)``.
        - `SelfAttentionMaps`: ``self_attention_16x16``, ``(image, position, seen)``, positions row by row.
        - `LatentRecorder`: ``latents``, ``noise_pred``, ``denoised``, ``(step, image, channel, y, x)``.
        - `Statistics`: ``latents_mean``, ..., ``cosine``, ``(step, image)``.
        - `LossGuidance`, `AttendAndExcite`, ...: ``loss_guidance_losses``, ..., ``(step, image)``.
        - `Activations`: ``activation_mid_block``, ``(step, row, ...)``.
        - `Features`: ``feature_values_mid_block`` and ``feature_indices_mid_block``, ``(step, row, position, kept)``:
          the strongest features of each place, as they were recorded.
        - `Preview`: ``preview_latents``, ``preview_denoised``, ``preview_final``, ``(step, image, y, x, rgb)``.
        - of every run: ``final_latents``, ``(image, channel, y, x)``; ``picture``, ``(image, y, x, rgb)``, in uint8.

        Variables of a second hook of one kind end in ``_2``; ``attrs["hook"]`` says which hook a variable is of.
        The largest grid of attention has the dimensions ``layer``, ``head``, ``y`` and ``x``. Those of other grids, of
        latents and of modules are named after them: ``y_8x8``. Others, such as ``step``, are shared; a variable with
        other steps has a dimension ``step_2``. ``image`` counts the images of the
        whole run, also under `only`. bfloat16 becomes float32; ``attrs["kept_as"]`` says what it was.
        ``ds.attrs["left_out"]`` says what is in no variable: `Checkpoints`, and records of other observers.

        Raises:
            ImportError: if xarray is not installed: ``pip install 'sdprobe[xarray]'``.
            ValueError: for an attached run whose pipeline has not been called.
        """
        from sdprobe.runs.export.to_xarray import to_xarray

        return to_xarray(self)  # type: ignore[arg-type]

    def to_zarr(self, path: str | Path) -> Path:
        """Write the dataset of `to_xarray` to a new folder, in zarr's format 3. It appears there when it is whole.

        >>> import tempfile
        >>> import sdprobe, xarray
        >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=["latents"], steps=4, seed=0, progress=False)
        >>> path = run.to_zarr(tempfile.mkdtemp() + "/circle.zarr")
        >>> xarray.open_zarr(path).latents.sizes["step"], xarray.open_zarr(path).equals(run.to_xarray())
        (4, True)

        Raises:
            FileExistsError: for a file, or a folder that is not empty.
            FileNotFoundError: if there is no folder to put it in.
            ImportError: if xarray or zarr is not installed: ``pip install 'sdprobe[xarray]'``.
            ValueError: for an attached run whose pipeline has not been called.
        """
        from sdprobe.runs.export.to_xarray import to_zarr

        return to_zarr(self, path)  # type: ignore[arg-type]

    def numpy(self) -> Mapping[str, np.ndarray]:
        """Return the variables of `to_xarray`, and their coordinates, as plain arrays by name. It needs no xarray.

        >>> import sdprobe
        >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=["latents"], steps=4, seed=0, progress=False)
        >>> arrays = run.numpy()
        >>> arrays["latents"].shape, arrays["step"].tolist(), arrays["picture"].dtype
        ((4, 1, 4, 16, 16), [0, 1, 2, 3], dtype('uint8'))

        Raises ValueError for an attached run whose pipeline has not been called.
        """
        from sdprobe.runs.export.to_numpy import to_numpy

        return to_numpy(self)  # type: ignore[arg-type]
