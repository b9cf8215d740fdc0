"""`token_sweep`: how far each token of a prompt is needed, and how far it is enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np

from sdprobe.core.given_hooks import Given
from sdprobe.core.prompt import Prompt
from sdprobe.experiments.case import Case
from sdprobe.experiments.case import cases as all_cases
from sdprobe.experiments.case_runner import CaseRunner
from sdprobe.experiments.condition import Condition, Design, Label, NotInThisCase
from sdprobe.experiments.experiment import Cases, How, Measures, experiment
from sdprobe.experiments.measures.picture_change import PictureChange
from sdprobe.experiments.result import Result
from sdprobe.experiments.sampler import sampler_of
from sdprobe.experiments.seed_of import seed_of
from sdprobe.experiments.shown_tokens import shown_tokens
from sdprobe.transform.attention_edits.hide_tokens import HideTokens


@dataclass(frozen=True)
class TokenSweep(Design):
    """The conditions of `token_sweep`.

    Args:
        spelt: whether a condition is called by the token as it is written too, as fits cases of one prompt, not by its
            position alone.
        hides_padding: whether the denoiser is shown no padding (`Model.hides_padding`).
    """

    spelt: bool = False
    hides_padding: bool = False

    def conditions(self, case: Case, runner: CaseRunner) -> Mapping[str, Condition]:
        """Return two conditions for each token, without it and with nothing else, and the controls."""
        prompt, found = runner.read(), dict[str, Condition]()
        everything = shown_tokens(prompt, self.hides_padding)
        several = {
            name: own for name, own in parts_of(prompt, self.spelt).items() if name != "<pad>" or not self.hides_padding
        }
        for name, positions in several.items():
            labels: dict[str, Label] = {"token": _spelt(prompt, positions), "position": positions[0]}
            others = sorted({*everything} - {*positions})
            found[f"without {name}"] = Condition([HideTokens(positions)], False, {**labels, "token is": "hidden"})
            only_it = Condition([HideTokens(others)], name == "<start>", {**labels, "token is": "kept"})
            found[f"nothing but {name}"] = only_it
        return found | self._controls(case, prompt)

    def result(self) -> type[Result]:
        return Result

    def _controls(self, case: Case, prompt: Prompt) -> dict[str, Condition]:
        found = {}
        wanted = ("start", "end") if self.hides_padding else ("pad",)
        role = next((own for own in wanted if own in prompt.roles), wanted[-1])
        some = [k for k, own in enumerate(prompt.roles) if own == role]

        def hooks() -> Given:
            if not some:
                raise NotInThisCase(
                    f"the control hides one token of padding, and {prompt.text!r} fills the context: use a shorter one"
                )
            return [HideTokens(some[int(np.random.default_rng(seed_of(case.prompt, case.seed)).integers(len(some)))])]

        said = "without one token of padding" if role == "pad" else "without one token of no word"
        found[said] = Condition(hooks, True, {"token": f"<{role}>", "token is": "hidden"})
        found["an empty prompt"] = Condition((), True, {"token is": "kept"}, prompt="")
        return found


def token_sweep(model: Any, cases: Cases, *, measures: Measures | None = None, **how: Unpack[How]) -> Result:
    """Hide each token of the prompt from the picture, and then every token but it, and measure what is lost.

    A token is needed if something is lost without it, and enough if nothing is lost without the others. One may be
    needed and not enough, as a noun for its colour, or enough and not needed, where several tokens say the same. The
    tokens are those of the words, the start, the end, and all padding as one.

    >>> import sdprobe
    >>> def mean(run):
    ...     return run.latents.mean()
    >>> result = token_sweep(sdprobe.load(), "a star", measures=mean, steps=1, progress=False)
    >>> print(*result.conditions, sep="; ")
    untouched; without <start>; nothing but <start>; without 1 'a'; nothing but 1 'a'; without 2 'star'; nothing but 2
    'star'; without <end>; nothing but <end>; without <pad>; nothing but <pad>; without one token of padding; an empty
    prompt

    Controls, always:

    - for what is needed, one token of padding is hidden, at random. That too takes one key from every softmax, and
      its place is taken by those that are left; but it has no word of its own, and the others of the padding are much
      like it. What this costs is the cost of hiding anything. Where the denoiser is shown no padding (PixArt, Sana,
      LTX-Video, HunyuanVideo, Krea 2, Lumina 2, Z-Image, Qwen-Image), it is a token before or else after the words, at
      random. One after them may have read them in the encoder, so what this costs may be more.
    - for what is enough, the start alone is seen. In a text encoder that reads from left to right (CLIP) it is the same
      in every prompt, so that what it is enough for is not from the prompt. Encoders that read both ways (T5) have no
      start; for them, and for all, there is the picture of an empty prompt.

    In models whose denoiser also gets one vector for the whole prompt (Stable Diffusion XL and 3, Flux.1,
    HunyuanVideo), that is not hidden.

    Args:
        model: as in `experiment`, and so are the cases and ``how``.
        measures: as in `experiment`; None for `PictureChange`.

    The rows have the labels ``"token"``, ``"position"`` (the first, of several) and ``"token is"``, ``"hidden"`` or
    ``"kept"``. Cases of several prompts are compared by position.
    """
    if measures is None:
        measures = PictureChange()
    several = all_cases(cases)
    hides_padding = sampler_of(model).model.hides_padding
    design = TokenSweep(len({case.prompt for case in several}) == 1, hides_padding)
    return experiment(model, several, design, measures, **how)


def parts_of(prompt: Prompt, spelt: bool) -> dict[str, list[int]]:
    """Return the token positions of each part of a prompt: its start, each token of a word, its end, its padding.

    >>> import sdprobe
    >>> parts_of(sdprobe.load().read("a star"), spelt=False)
    {'<start>': [0], '1': [1], '2': [2], '<end>': [3], '<pad>': [4, 5, 6, ...]}
    """
    found: dict[str, list[int]] = {}
    for position, role in enumerate(prompt.roles):
        name = f"<{role}>" if role != "word" else f"{position} {prompt.spelt(position)!r}" if spelt else str(position)
        found.setdefault(name, []).append(position)
    return found


def _spelt(prompt: Prompt, positions: list[int]) -> str:
    role = prompt.roles[positions[0]]
    return prompt.spelt(positions[0]) if role == "word" else f"<{role}>"
