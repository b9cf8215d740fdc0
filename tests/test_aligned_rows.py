"""`AlignedRows`: images that follow texts of different lengths, at the same positions."""

import torch
import torch.nn.functional as F

from sdprobe.model.denoiser.aligned_rows import AlignedRows

ROWS = AlignedRows((1, 3), 2)


def test_the_image_comes_last_and_padding_before_it():
    own = torch.tensor([[10, 20, 21, 0, 0], [10, 11, 12, 20, 21]])
    shown = torch.tensor([[10, 0, 0, 20, 21], [10, 11, 12, 20, 21]])
    assert torch.equal(ROWS.shown(own, 1), shown)
    assert torch.equal(ROWS.own(shown, 1), own)
    heads = torch.randn(2, 3, 5, 4)
    assert torch.equal(ROWS.own(ROWS.shown(heads, 2), 2), heads)


def test_which_tensors_are_of_these_rows():
    assert ROWS.fits(torch.zeros(2, 5, 7))
    assert not any(ROWS.fits(torch.zeros(shape)) for shape in [(2, 4, 7), (1, 5, 7), (2, 5)])


def test_an_attention_call_has_the_stock_output_to_the_last_bit():
    query, key, value = torch.randn(3, 2, 4, 5, 8)
    mask = torch.arange(5) < torch.tensor([[[[3]]], [[[5]]]])
    shown_query, shown_key, (shown_value, shown_mask), named, called = ROWS.call(
        F.scaled_dot_product_attention, query, key, value, mask, scale=0.5
    )
    assert shown_mask.flatten(1).tolist() == [[True, False, False, True, True], [True] * 5]
    given = {"attn_mask": shown_mask, **named}
    found = ROWS.own(called(shown_query, shown_key, shown_value, **given), 2)
    stock = F.scaled_dot_product_attention(query, key, value, mask, scale=0.5)
    assert torch.equal(found, stock)
    reordered = F.scaled_dot_product_attention(shown_query, shown_key, shown_value, shown_mask, scale=0.5)
    assert torch.allclose(ROWS.own(reordered, 2)[:, :, :3], stock[:, :, :3], atol=1e-6)
