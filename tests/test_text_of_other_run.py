"""The picture looks at another run's text: its own changes nothing, and at all sites it is the other run."""

import pytest
import torch

import sdprobe
from sdprobe.experiments.text_of_other_run import Place, ShowText, TextOfRun, random_texts
from tests.configured import side_of
from tests.families import ASKED, FAMILIES

OWN, OTHER = "a red circle", "a blue circle"
BY_SIZE = ("height", "width", "frames")


def sampled(model, family, prompt, *hooks):
    size = {name: side_of(model) for name in BY_SIZE[:2]} | {
        name: own for name, own in ASKED.get(family, {}).items() if name in BY_SIZE
    }
    settings = {"steps": 2, "guidance_scale": 3.0, "seed": 3, "progress": False}
    return sdprobe.sample(model, prompt, hooks=list(hooks), **{**settings, **size})


def loaded(family):
    return sdprobe.load(FAMILIES[family]())


@pytest.mark.parametrize("family", ["Qwen-Image", "Flux.2 klein", "Lumina 2", "Krea 2", "CogVideoX"])
def test_at_every_site_it_is_the_other_run(family):
    """In families whose denoiser is told of the prompt by attention alone. Krea 2 has a mask, and so another kernel."""
    model, kept = loaded(family), TextOfRun()
    other = sampled(model, family, OTHER, kept)
    shown = sampled(model, family, OWN, ShowText(other[kept].texts))
    own = sampled(model, family, OWN)
    if family == "Krea 2":
        torch.testing.assert_close(shown.latents, other.latents, rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(shown.latents, other.latents)
    assert not torch.allclose(own.latents, other.latents, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["Stable Diffusion 3", "Flux.1 dev", "Z-Image"])
def test_its_own_text_changes_nothing(family):
    model, kept = loaded(family), TextOfRun()
    own = sampled(model, family, OWN, kept)
    again = sampled(model, family, OWN, ShowText(own[kept].texts))
    assert torch.equal(again.latents, own.latents)
    random = sampled(model, family, OWN, ShowText(random_texts(own[kept].texts, seed=0)))
    assert not torch.allclose(random.latents, own.latents, rtol=1e-3, atol=1e-3)


def test_a_step_that_was_not_kept_is_named():
    model = loaded("Stable Diffusion 3")
    with pytest.raises(KeyError, match=r"no text was kept at transformer_blocks\.0\.attn in step 0"):
        sampled(model, "Stable Diffusion 3", OWN, ShowText({}))


def test_a_text_of_more_tokens_than_its_own():
    model, kept = loaded("Qwen-Image"), TextOfRun()
    long = sampled(model, "Qwen-Image", "a red circle left of a large blue square", kept)
    shown = sampled(model, "Qwen-Image", OWN, ShowText(long[kept].texts))
    torch.testing.assert_close(shown.latents, long.latents, rtol=1e-4, atol=1e-4)  # rows of other lengths are padded


def test_the_texts_own_places_and_the_negative_prompt_stay():
    """What the picture looks at is replaced, and nothing that the text, or a row of another role, looks at."""

    class Outputs(sdprobe.Observer):
        kinds = ("joint",)

        def start(self, run):
            self.first = None

        def attention(self, attn, site):
            if self.first is None:
                self.first, self.site, self.rows = attn.output().clone(), site, attn.rows

    model, kept = loaded("Stable Diffusion 3"), TextOfRun()
    other = sampled(model, "Stable Diffusion 3", OTHER, kept)
    seen = []
    for hooks in ([], [ShowText(other[kept].texts)]):
        outputs = Outputs()
        seen.append(sampled(model, "Stable Diffusion 3", OWN, *hooks, outputs)[outputs])
    (a, b), site = (own.first for own in seen), seen[0].site
    cond = [k for k, row in enumerate(seen[0].rows) if row.role == "cond"]
    uncond = [k for k, row in enumerate(seen[0].rows) if row.role == "uncond"]
    assert torch.equal(a[uncond], b[uncond])
    assert torch.equal(a[cond][:, :, site.text], b[cond][:, :, site.text])
    assert not torch.allclose(a[cond][:, :, site.image], b[cond][:, :, site.image])
    key = other[kept].texts[Place.of(site)].key
    assert key.shape[1] == site.text.stop - site.text.start
