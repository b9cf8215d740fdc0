"""Votes of heads for concepts: they equal a plain computation, and change nothing."""

import pytest
import torch

import sdprobe
from sdprobe.experiments.concept_attention_votes import ConceptAttentionVotes, shuffled
from tests.families import FAMILIES

CONCEPTS = {"colour": ("red", "checkered"), "shape": ("circle",), "relation": ("left of",)}
SETTINGS = {"steps": 3, "seed": 0, "guidance_scale": 5.0, "progress": False}


def test_votes_are_those_of_a_plain_computation(tiny):
    name = "mid_block.attentions.0.transformer_blocks.0.attn2"
    votes, queries = ConceptAttentionVotes(CONCEPTS), sdprobe.Activations(f"{name}.to_q", rows="cond")
    run = sdprobe.sample(tiny, "a red star", images_per_prompt=2, hooks=[votes, queries], **SETTINGS)
    module, pipe = tiny.modules[name], tiny.pipe
    vectors, owners = [], []
    with torch.no_grad():
        for concept, words in enumerate(CONCEPTS.values()):
            for word in words:
                ids = pipe.tokenizer(word, padding="max_length", return_tensors="pt").input_ids
                count = len(pipe.tokenizer(word).input_ids) - 2
                vectors.append(pipe.text_encoder(ids)[0][0, 1 : 1 + count])
                owners.append((concept, count))
        key = module.to_k(torch.cat(vectors)).unflatten(-1, (2, -1))
        counts = torch.zeros(2, 2, 3)
        for query in run[queries].record[f"{name}.to_q"]:
            scores = torch.einsum("iqhd,khd->ihqk", query.unflatten(-1, (2, -1)), key) * module.scale
            to_token = scores.softmax(-1).mean(2)
            to_word = [part.mean(-1) for part in to_token.split([count for _, count in owners], dim=-1)]
            of = [[own for own, (k, _) in zip(to_word, owners, strict=True) if k == concept] for concept in range(3)]
            best = torch.stack([torch.stack(own).mean(0) for own in of], dim=-1).argmax(-1)
            for image in range(2):
                for head in range(2):
                    counts[image, head, best[image, head]] += 1
    for image in range(2):
        assert torch.equal(run[votes].shares(image)[name], counts[image] / 3)


def test_in_joint_attention_the_words_are_further_tokens_of_the_text():
    """Held against the keys of the words in one more call, in which nothing sees them."""
    model = sdprobe.load(FAMILIES["Stable Diffusion 3"]())

    class Keys(sdprobe.Transform):
        kinds = ("joint",)

        def __init__(self):
            self.seen = {}

        def attention(self, attn, site):
            new, texts, queries = 3, site.text, attn.query.shape[2]  # red, circle, left
            words = slice(texts.stop - new, texts.stop)
            keep = torch.ones(len(attn.query), 1, queries, queries, dtype=torch.bool)
            keep[..., words] = False
            keep[:, :, words] = False
            keep[:, :, words, site.image] = keep[:, :, words, words] = True
            scores = attn.query[:, :, site.image] @ attn.key[:, :, words].mT * attn.scale
            self.seen[site.name] = scores.softmax(-1).mean(2)
            return attn.masked(keep)

    class Again(sdprobe.Observer):
        def start(self, run):
            self.votes = {}

        def prompt_embeds(self, x, text):
            if text.role == "cond":
                of = [(word, model.read(word)) for word in ("red", "circle", "left")]
                places = [[p for p in read.positions(word) if p in read.parts["text_encoder_3"]] for word, read in of]
                embeds = [text.encode([word])[0, own] for (word, _), own in zip(of, places, strict=True)]
                self.words, self.counts = torch.cat(embeds), [*map(len, places)]

        def noise_pred(self, x, step):
            assert self.counts == [1, 1, 1]
            keys = Keys()
            step.predict(step.latents, keys, role="cond", beside=self.words.expand(1, -1, -1))
            for name, seen in keys.seen.items():
                best = torch.stack([seen[0, :, :2].mean(-1), seen[0, :, 2]], -1).argmax(-1)
                self.votes.setdefault(name, []).append(torch.nn.functional.one_hot(best, 2).float())

    votes, again = ConceptAttentionVotes({"thing": ["red", "circle"], "place": ["left"]}), Again()
    run, plain = (sdprobe.sample(model, "a red star", hooks=own, **SETTINGS) for own in ([votes, again], []))
    assert torch.equal(run.latents, plain.latents)
    shares = run[votes].shares()
    assert set(shares) == set(run[again].votes)
    for name, own in run[again].votes.items():
        assert torch.equal(shares[name], torch.stack(own).mean(0))


def test_the_shares_of_a_head_add_to_one_and_the_run_stays_the_same(tiny):
    votes = ConceptAttentionVotes(CONCEPTS)
    run, plain = (sdprobe.sample(tiny, "a red star", hooks=own, **SETTINGS) for own in ([votes], []))
    shares = torch.stack(list(run[votes].shares().values()))
    torch.testing.assert_close(shares.sum(-1), torch.ones(7, 2))
    assert torch.equal(run.latents, plain.latents)


def test_words_are_dealt_to_concepts_of_the_same_size():
    dealt = [shuffled(CONCEPTS, seed) for seed in range(20)]
    assert all([len(own) for own in one.values()] == [2, 1, 1] for one in dealt)
    assert all(sorted(sum(one.values(), ())) == ["checkered", "circle", "left of", "red"] for one in dealt)
    assert len({tuple(one.values()) for one in dealt}) > 5
    assert dealt[3] == shuffled(CONCEPTS, 3)


@pytest.mark.parametrize("concepts", [{}, {"colour": ["red"]}, {"colour": ["red"], "shape": []}])
def test_refused(concepts):
    with pytest.raises(ValueError, match="at least two concepts"):
        ConceptAttentionVotes(concepts)
