"""`learn_sae`: a planted dictionary is found again, and an interruption changes no bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from sdprobe.observe.activation_dataset import ActivationDataset
from sdprobe.observe.activations import Activations
from sdprobe.sae.learn_sae import learn_sae
from sdprobe.sae.sae_trainer import SaeTrainer
from sdprobe.sae.vector_batches import VectorBatches
from tests.laws.strategies import run

WIDTH, DIRECTIONS, ACTIVE = 16, 24, 2


def planted(samples=4000, scale=1.0, seed=0):
    """Sums of two of 24 directions, with strengths from 1 to 2, about a point that is not 0."""
    random = torch.Generator().manual_seed(0)
    truth = torch.nn.functional.normalize(torch.randn(DIRECTIONS, WIDTH, generator=random), dim=1)
    centre = 3 * torch.randn(WIDTH, generator=random)
    random.manual_seed(seed)
    chosen = torch.rand(samples, DIRECTIONS, generator=random).topk(ACTIVE, dim=1).indices
    strengths = torch.zeros(samples, DIRECTIONS).scatter(1, chosen, 1 + torch.rand(samples, ACTIVE, generator=random))
    return scale * (strengths @ truth + centre), truth


SHORT = {"width": 32, "k": 2, "steps": 24, "batch": 64, "progress": False}


def same(one, other):
    tensors = ("W_enc", "b_enc", "W_dec", "b_dec")
    assert all(torch.equal(getattr(one.sae, name), getattr(other.sae, name)) for name in tensors)
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("loss", "fvu", "dead"))


class Vectors(Dataset):
    def __init__(self, vectors):
        self.vectors = vectors

    def __len__(self):
        return len(self.vectors)

    def __getitem__(self, k):
        return self.vectors[k]


class Stream(IterableDataset):
    """Vectors in another order in every epoch, a few at a time."""

    def __init__(self, vectors, number=0):
        self.vectors, self.number = vectors, number

    def epoch(self, number):
        return Stream(self.vectors, number)

    def __iter__(self):
        order = torch.randperm(len(self.vectors), generator=torch.Generator().manual_seed(self.number))
        return iter(self.vectors[order].split(7))


@pytest.fixture(scope="module")
def found():
    vectors, truth = planted()
    training = learn_sae(vectors, 48, ACTIVE, steps=1500, batch=256, lr=4e-3, dead_after=5000, progress=False)
    return training, truth


def test_a_planted_dictionary_is_found(found):
    training, truth = found
    unseen = planted(2000, seed=1)[0]
    assert training.sae.fvu(unseen) < 0.04
    nearest = (truth @ training.sae.W_dec.T).amax(1)
    assert nearest.min() > 0.97


def test_the_directions_have_length_one(found):
    training, _ = found
    assert torch.allclose(training.sae.W_dec.norm(dim=1), torch.ones(48), atol=1e-5)


def test_it_keeps_loss_and_fvu_of_every_step(found):
    training, _ = found
    assert len(training.loss) == len(training.fvu) == len(training.dead) == 1500
    assert training.fvu[-100:].mean() < 0.05 < training.fvu[0]
    assert (training.loss >= training.fvu).all()
    assert [ax.get_ylabel() for ax in training.plot().axes] == ["FVU", "dead features"]


def test_the_scale_of_the_vectors_does_not_matter():
    one, thousand = (learn_sae(planted(512, scale)[0], **SHORT) for scale in (1.0, 1024.0))
    assert torch.allclose(one.fvu, thousand.fvu, rtol=1e-3)
    assert torch.allclose(one.sae.W_dec, thousand.sae.W_dec, atol=1e-3)
    assert torch.allclose(1024 * one.sae.b_dec, thousand.sae.b_dec, rtol=1e-3, atol=1)


@pytest.mark.slow
def test_dead_features_are_revived(monkeypatch):
    vectors, _ = planted(2048)

    def dead_at_the_end():
        trainer = SaeTrainer(vectors[:256], 48, ACTIVE, steps=400, lr=4e-3, dead_after=2000, seed=0)
        with torch.no_grad():
            trainer.leaves["b_enc"][:24] = -3.0  # these are seldom among the largest
        batches = VectorBatches(vectors, 256, 0).after(0)
        for _ in range(400):
            trainer.step(next(batches))
        return trainer.history["dead"][-1]

    revived = dead_at_the_end()
    monkeypatch.setattr("sdprobe.sae.sae_trainer.AUX_WEIGHT", 0.0)
    assert revived < 0.5 * dead_at_the_end()


@pytest.mark.parametrize("kind", [lambda x: x, Vectors, Stream])
def test_resumed_in_the_middle_it_is_the_same_to_the_bit(tmp_path, monkeypatch, kind):
    vectors = planted(300)[0]  # four batches in an epoch, so the checkpoint is in the middle of the third
    whole = learn_sae(kind(vectors), **SHORT, dead_after=500)

    class Stopped(BaseException):
        pass

    folder, step, count = tmp_path / "training", SaeTrainer.step, 0

    def failing(self, batch):
        nonlocal count
        count += 1
        if count == 14:
            raise Stopped
        step(self, batch)

    monkeypatch.setattr(SaeTrainer, "step", failing)
    with pytest.raises(Stopped):
        learn_sae(kind(vectors), **SHORT, dead_after=500, folder=folder, every=5)
    steps = []
    monkeypatch.setattr(SaeTrainer, "step", lambda self, batch: (steps.append(self.done), step(self, batch)))
    resumed = learn_sae(kind(vectors), **SHORT, dead_after=500, folder=folder, every=5)
    assert steps == list(range(10, 24))
    assert same(resumed, whole)
    assert same(learn_sae(kind(vectors), **SHORT, dead_after=500, folder=folder), whole)  # nothing is left to do


def test_the_kind_of_dataset_makes_no_difference():
    vectors = planted(300)[0]
    assert same(learn_sae(vectors, **SHORT), learn_sae(Vectors(vectors), **SHORT))


def test_a_dataset_of_recorded_activations(tiny):
    activations = Activations("mid_block")
    runs = [run(tiny, activations, seed=seed) for seed in range(3)]
    dataset = ActivationDataset(runs, "mid_block", rows="cond", batch=5)
    settings = SHORT | {"batch": 16}
    training = learn_sae(dataset, **settings)
    assert training.sae.width == dataset.width
    assert training.fvu[-1] < training.fvu[0]
    assert same(training, learn_sae(ActivationDataset(runs, "mid_block", rows="cond"), **settings))


def test_the_seed_decides_and_no_state_of_torch_does():
    vectors = planted(300)[0]
    one = learn_sae(vectors, **SHORT)
    state = torch.random.get_rng_state()
    torch.manual_seed(99)
    assert same(one, learn_sae(vectors, **SHORT))
    assert not torch.equal(one.sae.W_dec, learn_sae(vectors, **SHORT, seed=1).sae.W_dec)
    torch.random.set_rng_state(state)


def test_the_vectors_are_not_changed():
    vectors = planted(300)[0]
    before = vectors.clone()
    with torch.inference_mode():
        learn_sae(vectors, **SHORT)
    assert torch.equal(vectors, before)


@settings(max_examples=10)
@given(samples=st.integers(4, 30), batch=st.integers(1, 4), done=st.integers(0, 20), seed=st.integers(0, 9))
@pytest.mark.parametrize("kind", [lambda x: x, Vectors, Stream])
def test_batches_can_be_entered_anywhere(kind, samples, batch, done, seed):
    batches = VectorBatches(kind(torch.arange(float(samples)).unsqueeze(1)), batch, seed)
    whole, later = batches.after(0), batches.after(done)
    every = [next(whole) for _ in range(done + 5)]
    assert all(torch.equal(next(later), own) for own in every[done:])
    epoch = torch.cat(every[: samples // batch]).flatten().tolist()
    assert len(set(epoch)) == len(epoch)


def test_every_epoch_has_its_own_order():
    batches = VectorBatches(torch.arange(50.0).unsqueeze(1), 50, seed=0).after(0)
    one, two = next(batches), next(batches)
    assert not torch.equal(one, two)
    assert torch.equal(one.sort(0).values, two.sort(0).values)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": 0}, "width must be 1 or more"),
        ({"k": 33}, "k=33 features cannot be active of 32"),
        ({"lr": 0}, "lr must be above 0"),
        ({"batch": 301}, "there are 300 vectors, fewer than a batch of 301: give a smaller batch="),
        ({"batch": 0}, "batch must be 1 or more"),
        ({"dataset": torch.zeros(300, 4)}, "the vectors are all the same"),
        ({"dataset": torch.full((300, 4), torch.nan)}, "hold NaN or infinity"),
        ({"dataset": torch.zeros(300)}, r"the vectors are \[samples, width\] of a floating dtype, not \[300\]"),
        ({"dataset": TensorDataset(torch.zeros(300, 4))}, "must yield vectors .* and it yields tuple"),
        ({"dataset": Vectors(torch.zeros(300, 2, 4, 4))}, r"and it yields \[2, 4, 4\]"),
        ({"dataset": Stream(torch.zeros(30, 4))}, "an epoch has fewer vectors than a batch of 64"),
    ],
)
def test_what_cannot_be_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        learn_sae(**({"dataset": planted(300)[0]} | SHORT | changes))


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    vectors = planted(300)[0]
    learn_sae(vectors, **SHORT, folder=tmp_path)
    with pytest.raises(ValueError, match=r"made with lr=0\.002, not 0\.1; seed=0, not 3: give what"):
        learn_sae(vectors, **SHORT, folder=tmp_path, lr=0.1, seed=3)
    for content in (b"nothing", (tmp_path / "checkpoint.safetensors").read_bytes()[:100]):
        (tmp_path / "checkpoint.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match="is no checkpoint of learn_sae"):
            learn_sae(vectors, **SHORT, folder=tmp_path)


@pytest.mark.parametrize("kind", [lambda x: x, Vectors, Stream])
def test_a_checkpoint_of_other_vectors_is_refused(tmp_path, kind):
    vectors = planted(300)[0]
    learn_sae(kind(vectors), **SHORT, folder=tmp_path)
    first = next(VectorBatches(kind(vectors), SHORT["batch"], 0).after(0))
    later = vectors.clone()  # the first batch is the same
    later[~(vectors[:, None] == first).all(-1).any(1)] += 1.0
    for other in (-vectors, later, vectors.flip(0)):
        with pytest.raises(ValueError, match="was made with other vectors: give what"):
            learn_sae(kind(other), **SHORT, folder=tmp_path)


def test_of_a_tensor_every_vector_and_of_a_dataset_the_length_is_compared():
    vectors = planted(300)[0]
    one = vectors.clone()
    one[7, 3] += 1e-3
    digests = {VectorBatches(own, 64, 0).digest() for own in (vectors, one, vectors[:, :8])}
    assert len(digests) == 3
    assert VectorBatches(vectors.clone(), 9, 1).digest() == VectorBatches(vectors, 64, 0).digest()
    same = torch.ones(300, 4)
    assert VectorBatches(Vectors(same), 64, 0).digest() != VectorBatches(Vectors(same[1:]), 64, 0).digest()


@pytest.mark.parametrize(
    ("state", "metadata", "said"),
    [
        ({"W_enc": None}, {}, "W_enc missing"),
        ({"adam.b_enc.exp_avg": None}, {}, "adam.b_enc.exp_avg missing"),
        ({"W_enc": torch.zeros(3, 3)}, {}, r"W_enc is float32 \[3, 3\], not float32 \[16, 32\]"),
        ({"idle": torch.zeros(32)}, {}, r"idle is float32 \[32\], not int64 \[32\]"),
        ({"b_dec": torch.full((16,), torch.nan)}, {}, "b_dec must be finite"),
        ({"fvu": torch.zeros(3, dtype=torch.float64)}, {}, r"fvu is float64 \[3\], not float64 \[24\]"),
        ({"loss": torch.tensor(0.0)}, {}, "loss is float32"),
        ({"adam.W_dec.step": torch.tensor(20.0)}, {}, "it is of 20 and 24 of 24 steps"),
        ({}, {"settings": "[1]"}, "a JSON object is needed, not list"),
        ({}, {"settings": "["}, "not JSON"),
        ({}, {"settings": None}, "its metadata say no settings"),
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path, state, metadata, said):
    vectors, path = planted(300)[0], tmp_path / "checkpoint.safetensors"
    learn_sae(vectors, **SHORT, folder=tmp_path)
    with safe_open(path, framework="pt") as file:
        tensors, texts = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 no dict
    save_file(changed(tensors, state), path, changed(texts, metadata))
    with pytest.raises(ValueError, match=f"{path} is no checkpoint of learn_sae, or is damaged: .*{said}"):
        learn_sae(vectors, **SHORT, folder=tmp_path)


def changed(named, changes):
    return {name: own for name, own in (named | changes).items() if own is not None}


def test_nothing_but_whole_files_is_left(tmp_path):
    learn_sae(planted(300)[0], **SHORT, folder=tmp_path / "new", every=1)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["checkpoint.safetensors"]
