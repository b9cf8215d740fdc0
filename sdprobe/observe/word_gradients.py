"""`WordGradients`: gradients of a score of the picture with respect to each word, as each place reads it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sdprobe.core.grid import Grid
from sdprobe.core.hook import Observer, patterns
from sdprobe.core.hook_records import HookRecords
from sdprobe.core.prompt import Prompt, positions_of, refuse_missing
from sdprobe.core.run import Run
from sdprobe.core.step import Step
from sdprobe.core.written_values import count, listed
from sdprobe.observe.attention_leaves import AttentionLeaves, Leaf, Move, Positions
from sdprobe.observe.place_gradients import gradients_at, slopes_at
from sdprobe.observe.sums_by_grid import SumsByGrid
from sdprobe.observe.word_scores import Loss, MakesScores, NoiseChange, PictureScore, Score, Scores
from sdprobe.plot.resized import at_largest

Word = str | int
Kind = Literal["norm", "product", "path"]


class WordGradients(Observer):
    """Record, for every word and place, the gradient of a score with respect to the word as the place reads it.

    A place reads a word through its key and value at each site of attention to the text. Taken as if every place had a
    copy of these, the score has a gradient with respect to each copy. For these gradients the denoiser is called again
    in each step, for the rows of the prompt; the run itself does not change. `sdprobe.attributions.Gradient`,
    `GradientTimesInput` and `Integrated` make heat maps of what is recorded.

    >>> import sdprobe
    >>> gradients = sdprobe.WordGradients(["red", "circle"])
    >>> run = sdprobe.sample(sdprobe.load(), "a red circle", hooks=[gradients], steps=2, seed=0, progress=False)
    >>> run[gradients].values("red", "norm").shape
    torch.Size([16, 16])

    The memory used does not grow with the steps. A step takes one more call of the denoiser with gradients, and for
    each word one call without and one backward pass; with ``path=m`` each word takes m further calls with gradients. On
    the embedded model, on one CPU core, a run takes 3.7 times as long with one word, 14 times with seven, and 18 times
    with one word and ``path=8``. For fewer steps, limit it: ``sdprobe.every(5)(WordGradients("red"))`` takes 1.7 times.
    The change of the noise is a small difference of two outputs: in half precision much of it is rounding, so load the
    model in float32.

    Args:
        words: these words, phrases, special names such as ``"<end>"``, or token positions; None for every word of each
            prompt. All occurrences of a word are taken together.
        of: a loss of the predicted picture: a function of images ``[images, 3, H, W]`` in [0, 1], such as those of
            `sdprobe.losses`, that returns one number for each image. The score is its negative. None for the change
            of the noise prediction that the word makes: ⟨ε, d⟩, where d is the output of the denoiser for the prompt
            less that with the word hidden from the picture, divided by its norm.
        region: a mask over the picture, ``[h, w]`` or ``[images, h, w]``, of booleans: only the change of the noise
            there counts. A loss has its own, such as `sdprobe.losses.inside`.
        path: in how many points of a path from a baseline to the word gradients are taken too, for integrated
            gradients; 0 for none.
        baseline: what stands for the word's absence: a word whose last token it is, such as ``"<end>"``; None for a key
            and value of zeros.
        modules: fnmatch patterns on module names; None for every site of attention to the text.

    Attributes:
        names: (in a run, like all that follow) the words recorded, for each image.
        indices: the numbers of the steps.
        norms: by grid ``(h, w)``, ``[images, words, places]``: norms of the gradient, added up over sites and steps.
        products: likewise, the gradient times key and value.
        slopes: likewise, the contributions along the path.
        counts: by grid, the number of sites and steps.
        changes: ``[images, words]``, the change of the score from the baseline to the word, added up over steps.

    Raises:
        WordNotInPrompt: in a run, for a word that no prompt has; with a path, for a baseline that a prompt has not.
        ValueError: for a loss with a region; with a path, in a model with joint attention, where the keys of the text
            depend on the picture; for a model through which no gradient passes.
        FloatingPointError: in a step whose gradients are not finite.
    """

    def __init__(
        self,
        words: Word | Sequence[Word] | None = None,
        *,
        of: Loss | None = None,
        region: Any = None,
        path: int = 0,
        baseline: Word | None = "<end>",
        modules: str | Sequence[str] | None = None,
    ) -> None:
        if of is not None and not callable(of):
            raise TypeError(f"of is a loss, a function of pictures [images, 3, H, W], or None, not {of!r}")
        if of is not None and region is not None:
            raise ValueError("a region is for the change of the noise: a loss, given with of=, has its own")
        if region is not None and (torch.as_tensor(region).dtype != torch.bool or torch.as_tensor(region).ndim < 2):
            raise TypeError("a region is a mask [h, w] or [images, h, w] of booleans, such as values > 0.5")
        if operator.index(path) < 0:
            raise ValueError(f"path is a number of points, 0 or more, not {path}")
        self.words = (words,) if isinstance(words, (str, int)) else words
        self.of, self.path, self.baseline = of, operator.index(path), baseline
        self.region = None if region is None else torch.as_tensor(region).tolist()  # a list, which a file can hold
        self.modules = patterns(modules)

    def start(self, run: Run) -> None:
        self.run = run
        prompts = [run.prompt_of(image) for image in range(run.settings.images)]
        refuse_missing(prompts, self.words or ())
        if self.path and any(map(_is_joint, map(run.model.attention_kind, run.model.modules.values()))):
            raise ValueError(
                "integrated gradients move a word's keys and values from a baseline to themselves, and in this model's "
                "joint attention these depend on the picture too, so their sum would not be the change of the score: "
                "use 'gradient' or 'gradient_x_input' here"
            )
        self.names = [_recorded(prompt, self.words) for prompt in prompts]
        for prompt in (own for own, names in zip(prompts, self.names, strict=True) if self.path and names):
            if self.baseline is not None:
                prompt.positions(self.baseline)  # raises an error for one that is not there
        self.indices: list[int] = []
        self.norms: dict[Grid, Float[Tensor, "images words places"]] = {}
        self.products: dict[Grid, Float[Tensor, "images words places"]] = {}
        self.slopes: dict[Grid, Float[Tensor, "images words places"]] = {}
        self.counts: dict[Grid, int] = {}
        self.changes = torch.zeros(len(prompts), max(map(len, self.names), default=0))

    def noise_pred(self, x: Tensor, step: Step) -> None:
        # The n-th words of all prompts are looked at together: rows do not depend on each other.
        rows = [row for row in step.rows if row.role == "cond"]
        asked = [self._tokens([row.prompt for row in rows], number) for number in range(self.changes.shape[1])]
        with step.run.model.gradients_aside(), torch.enable_grad():
            self._record(step, asked)
        self.indices.append(step.index)

    def _record(self, step: Step, asked: list[Positions]) -> None:
        if not any(asked):
            return
        latents = step.latents.detach()
        output = step.predict(latents, leaves := AttentionLeaves(self.modules), role="cond")
        for grid in (leaf.site.grid for leaf in leaves.seen):
            if grid is not None:
                self.counts[grid] = self.counts.get(grid, 0) + 1
        maker: MakesScores = NoiseChange(self._region, self.modules) if self.of is None else PictureScore(self.of)
        last = max(number for number, word in enumerate(asked) if word)
        for number, word in enumerate(asked):
            if not word:
                continue
            score = maker.of(step, output, word)
            scores = score(output)
            gradients = _gradients(scores, output, leaves.seen, keep=number < last)
            self._refuse_not_finite(gradients, step)
            for leaf, gradient in zip(leaves.seen, gradients, strict=True):
                for row, (norm, product) in gradients_at(leaf, gradient, word).items():
                    self._add(self.norms, leaf, row, number, norm)
                    self._add(self.products, leaf, row, number, product)
            if self.path:
                self._follow(step, score, scores.detach(), word, number)

    def _follow(self, step: Step, score: Score, scores: Scores, word: Positions, number: int) -> None:
        """Add the contributions along the path to a word, at the middle of each of its parts."""
        rows, latents = [row for row in step.rows if row.role == "cond"], step.latents.detach()
        base = self.baseline
        from_ = None if base is None else {row: rows[row].prompt.positions(base)[-1] for row in word}
        for part in range(self.path):
            leaves = AttentionLeaves(self.modules, move := Move(word, from_, (part + 0.5) / self.path))
            output = step.predict(latents, leaves, role="cond")
            gradients = _gradients(score(output), output, leaves.seen, keep=False)
            self._refuse_not_finite(gradients, step)
            for leaf, gradient in zip(leaves.seen, gradients, strict=True):
                for row, slope in slopes_at(leaf, gradient, move).items():
                    self._add(self.slopes, leaf, row, number, slope / self.path)
        with torch.no_grad():
            begin = score(step.predict(latents, AttentionLeaves(self.modules, Move(word, from_, 0.0)), role="cond"))
        self.changes[list(word), number] += (scores - begin)[list(word)].cpu()

    def _add(self, sums: dict[Grid, Tensor], leaf: Leaf, row: int, number: int, values: Tensor) -> None:
        grid = leaf.site.grid
        if grid is None:
            return
        if grid not in sums:
            sums[grid] = values.new_zeros(*self.changes.shape, len(values))
        sums[grid][leaf.attn.rows[row].image, number] += values

    @property
    def _region(self) -> Tensor | None:
        return None if self.region is None else torch.tensor(self.region)

    def _tokens(self, prompts: Sequence[Prompt], number: int) -> Positions:
        """Return where the word of a number stands in each prompt that has it."""
        found = {
            row: positions_of(prompts[row], own[number]) for row, own in enumerate(self.names) if number < len(own)
        }
        return {row: positions for row, positions in found.items() if positions}

    def restore(self, records: HookRecords, run: Run) -> None:
        read = SumsByGrid(records, run.settings.images)
        self.run, self.names = run, read.names
        self.indices = [*map(count, listed(records.values["indices"]))]
        self.norms, self.products, self.slopes = map(read.sums, ("norms", "products", "slopes"))
        self.counts, self.changes = read.counts("counts"), read.of_words("changes")

    def values(self, word: Word, kind: Kind, image: int = 0) -> Float[Tensor, "*frames h w"]:
        """Return what was recorded of a word, at the largest grid.

        Args:
            word: as it was asked for.
            kind: ``"norm"``, the mean over sites, heads and steps of the norm of the gradient; ``"product"``, signed,
                the gradient times key and value, summed over sites and heads; ``"path"``, the same of the path. In
                sums a place of a smaller grid gives each place that it covers its part, so that the total is kept.
            image: the image number.

        Raises:
            WordNotInPrompt: for a word that is not in the prompt.
            ValueError: for one that was not recorded, for a path that was not, and for another kind.
        """
        if kind not in get_args(Kind):
            raise ValueError(f"kind is {', '.join(map(repr, get_args(Kind)))}, not {kind!r}")
        number, sums = self._number(word, image), {"norm": self.norms, "product": self.products, "path": self.slopes}
        if kind == "path" and not self.path:
            raise ValueError("no path was recorded: record with WordGradients(path=16)")
        if not (found := sums[kind]):
            raise ValueError("no gradients were recorded: the hook acted in no step")
        own = [total[image, number].unflatten(0, grid) for grid, total in found.items()]
        each = at_largest(own)
        if kind == "norm":
            return each.sum(0) / sum(self.counts.values())
        parts = [x * (small.numel() / x.numel()) for x, small in zip(each, own, strict=True)]
        return torch.stack(parts).sum(0) / len(self.indices)

    def total(self, word: Word, image: int = 0) -> tuple[float, float]:
        """Return the sum of a word's contributions along the path, and the change of the score.

        Both are means over steps, equal but for the error of the points: if they differ much, use a larger ``path``.

        Raises as `values`.
        """
        number = self._number(word, image)
        if not self.path:
            raise ValueError("no path was recorded: record with WordGradients(path=16)")
        whole = sum(float(sums[image, number].sum()) for sums in self.slopes.values())
        steps = max(len(self.indices), 1)
        return whole / steps, float(self.changes[image, number]) / steps

    def _number(self, word: Word, image: int) -> int:
        prompt, name = self.run.prompt_of(image), _name(word)
        if name not in self.names[image]:
            prompt.positions(word)  # raises an error for one that is not there
            raise ValueError(f"{word!r} was not recorded; recorded: {', '.join(map(repr, self.names[image]))}")
        return self.names[image].index(name)

    def _refuse_not_finite(self, gradients: Sequence[Tensor], step: Step) -> None:
        if not all(bool(gradient.isfinite().all()) for gradient in gradients):
            raise FloatingPointError(
                f"at step {step.index} of {step.total}, the gradients of {self!r} are no numbers: leave this step out, "
                f"with sdprobe.only(hook, steps=...), or load the model in float32"
            )


def _gradients(
    scores: Scores, output: Tensor, leaves: Sequence[Leaf], keep: bool
) -> list[Shaped[Tensor, "rows heads queries width"]]:
    """Return the gradients of all images' scores with respect to every leaf, in float32."""
    # In half precision the gradient of a mean over a whole picture would be too small.
    factor = output[0].numel() ** 0.5
    found = torch.autograd.grad(scores.sum() * factor, [leaf.zeros for leaf in leaves], retain_graph=keep)
    return [gradient.float() / factor for gradient in found]


def _is_joint(kind: str | None) -> bool:
    return kind == "joint"


def _name(word: Word) -> Word:
    return word.lower() if isinstance(word, str) else operator.index(word)


def _recorded(prompt: Prompt, words: Sequence[Word] | None) -> list[Word]:
    """Return the words to record of a prompt: all of its own, or those asked for that it has."""
    names = prompt.words if words is None else [word for word in words if positions_of(prompt, word)]
    return list(dict.fromkeys(map(_name, names)))
