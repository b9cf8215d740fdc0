"""Hooks that break a law each, for the tests of the kit that finds them out."""

from __future__ import annotations

import threading
import time

import torch

from sdprobe import Observer, Transform


class WritesInPlace(Transform):
    def latents(self, x, step):
        return x.mul_(1.1)


class WritesPastTorch(Observer):
    """By numpy, which shares the memory and tells nobody."""

    def latents(self, x, step):
        x.numpy()[:] *= 2


class WritesIntoTheStep(Observer):
    def noise_pred(self, x, step):
        step.latents.zero_()


class WritesIntoTheKeys(Transform):
    def attention(self, attn, site):
        attn.key.mul_(0.5)
        return attn


class ForgetsToReturn(Transform):
    def noise_pred(self, x, step):
        x * 1.1


class ObserverThatReturns(Observer):
    def noise_pred(self, x, step):
        return x


class ChangesDtype(Transform):
    def model_output(self, x, step):
        return x.double()


class ChangesShape(Transform):
    def token_embeds(self, x, text):
        return x[:, :-1]


class LeaksAForwardHook(Observer):
    def start(self, run):
        run.model.denoiser.mid_block.register_forward_hook(lambda *given: None)

    def latents(self, x, step): ...


class ClosesOnlyAtTheEnd(Observer):
    """What it opened is closed at the last point, which a run that fails does not reach."""

    def start(self, run):
        self._handle = run.model.denoiser.mid_block.register_forward_hook(lambda *given: None)

    def image(self, x, run):
        self._handle.remove()


class KeepsStateBetweenRuns(Observer):
    def __init__(self):
        self.norms = []

    def noise_pred(self, x, step):
        self.norms.append(x.norm().item())


class CountsItsRuns(Transform):
    """On the class, where the run's copy does not help."""

    runs = 0

    def start(self, run):
        type(self).runs += 1

    def noise_pred(self, x, step):
        return x * (1 + 0.01 * self.runs)


class SwallowsErrors(Transform):
    def noise_pred(self, x, step):
        try:
            return x * 1.1
        except Exception:
            return x


class ReplacesErrors(Observer):
    """Its ``finish`` fails where the run failed before, and its own error is what is seen."""

    def start(self, run):
        self.last = None

    def image(self, x, run):
        self.last = x.mean().item()

    def finish(self, run):
        self.brightness = self.last * 255


class DrawsFromTheGlobalGenerator(Observer):
    def start(self, run):
        self.chosen = []

    def noise_pred(self, x, step):
        self.chosen.append(x.flatten()[torch.randint(x.numel(), (1,))].item())


class NoSeed(Transform):
    """Leaves the global generator where it was, and depends on where that is."""

    def noise_pred(self, x, step):
        with torch.random.fork_rng(devices=[]):
            return x + 0.1 * torch.randn_like(x)


class CannotBePickled(Transform):
    def __init__(self):
        self.lock = threading.Lock()

    def __copy__(self):
        return type(self)()

    def noise_pred(self, x, step):
        return x


class ForgetsWhenPickled(Transform):
    def __init__(self):
        self.factor = 1.0

    def noise_pred(self, x, step):
        return x * self.factor

    def __reduce__(self):
        return Forgotten, ()


class Forgotten(ForgetsWhenPickled):
    def __init__(self):
        self.factor = 1.1


class SplitsInHalf(Transform):
    """Takes the unconditional rows to come first, and to be there."""

    def model_output(self, x, step):
        uncond, cond = x.chunk(2)
        return torch.cat([uncond * 0.9, cond])


class RecordsTheSecondHalf(Observer):
    def start(self, run):
        self.cond = []

    def model_output(self, x, step):
        self.cond.append(x[len(x) // 2 :].clone())


class OnlyTheFirstPicture(Transform):
    def noise_pred(self, x, step):
        return torch.cat([x[:1] * 1.1, x[1:]])


class Square(Transform):
    """Takes the latents to be square."""

    def noise_pred(self, x, step):
        side = int((x.shape[-1] * x.shape[-2]) ** 0.5)
        return x.reshape(*x.shape[:2], side, side).transpose(-1, -2).reshape(x.shape)


class SinglePrecision(Transform):
    """Its own vector is single precision, and so would be the sum with a half: this one fails instead."""

    def noise_pred(self, x, step):
        return x @ torch.eye(x.shape[-1])


class KeepsTheGraph(Observer):
    def start(self, run):
        self.kept = []

    def noise_pred(self, x, step):
        self.kept.append(x)


class LooksForItsNeighbours(Transform):
    """Does something else where it is not the only hook."""

    def noise_pred(self, x, step):
        return x * (1 + 0.1 * len(step.run.records))


class TellsTheTime(Observer):
    def start(self, run):
        self.began = time.perf_counter()

    def latents(self, x, step): ...


class SharesOneRecord(Observer):
    """One list for all runs, emptied by each: what an earlier run recorded is gone."""

    values: list[float] = []  # noqa: RUF012

    def start(self, run):
        self.own = self.values
        self.own.clear()

    def noise_pred(self, x, step):
        self.own.append(x.mean().item())


class OfAnImpossibleWord(Transform):
    """A lawful hook that has nothing to do in this prompt."""

    def start(self, run):
        run.prompts[0].positions("moon")

    def noise_pred(self, x, step):
        return x


class RecordsAnObject(Observer):
    """Of a kind that no file can hold, and the hook does not say how."""

    def start(self, run):
        self.seen = object()

    def noise_pred(self, x, step): ...


class AnswersFromAPrivateRecord(Observer):
    """Only attributes with public names are saved without its help."""

    def start(self, run):
        self._norms = []

    def noise_pred(self, x, step):
        self._norms.append(x.norm().item())

    @property
    def norms(self):
        return self._norms
