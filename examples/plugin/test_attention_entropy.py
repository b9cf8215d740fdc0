from sdprobe_attention_entropy import AttentionEntropy

from sdprobe.testing import check_hook


def test_it_keeps_the_laws():
    check_hook(AttentionEntropy)
