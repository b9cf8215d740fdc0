"""What one attention call costs on a GPU: the kernel, the kernel with log Σ exp, and columns of its probabilities.

    python tests/benchmarks/gpu_kernels.py

Microseconds per call, medians over calls timed by CUDA events. Without a CUDA device nothing is measured.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from measure import table

from sdprobe.core.attention_columns import HAS_TRITON
from sdprobe.model.denoiser.kernel_logsumexp import KERNELS, run_with_logsumexp
from sdprobe.model.denoiser.sdpa_call import read_sdpa_call

CALLS = 50
# By name: rows, heads, queries, keys, width, type, and the columns asked for.
SHAPES = {
    "SD 1.5 64²": (2, 8, 4096, 77, 40, torch.float16, 77),
    "SD 1.5 8²": (2, 8, 64, 77, 160, torch.float16, 77),
    "SD 1.5 64² fp32": (2, 8, 4096, 77, 40, torch.float32, 77),
    "SDXL 32²": (2, 20, 1024, 77, 64, torch.float16, 77),
    "SD 3 64²": (2, 24, 4250, 4250, 64, torch.bfloat16, 154),
    "Flux 64²": (1, 24, 4608, 4608, 128, torch.bfloat16, 512),
    "Flux 64², 2 words": (1, 24, 4608, 4608, 128, torch.bfloat16, 2),
}


def microseconds(work: Callable[[], object]) -> float:
    """The time of one call on the GPU, without that of its launch."""
    for _ in range(5):
        work()
    times = []
    for _ in range(CALLS):
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        work()
        ended.record()
        ended.synchronize()
        times.append(begun.elapsed_time(ended) * 1e3)
    return statistics.median(times)


def row(name: str) -> list[object]:
    """The row of the table for one shape."""
    rows, heads, queries, keys, width, dtype, columns = SHAPES[name]
    query, key, value = (
        torch.randn(rows, count, heads, width, device="cuda", dtype=dtype).transpose(1, 2)
        for count in (queries, keys, keys)
    )
    choice = torch._fused_sdp_choice(query, key, value)
    kernel = KERNELS["cuda"].get(choice)
    made = run_with_logsumexp(query, key, value, None, None)
    plain = F.scaled_dot_product_attention(query, key, value)
    tokens = slice(0, columns)
    total = torch.zeros(rows, queries, columns, device="cuda")

    def looked_at() -> None:
        read_sdpa_call(query, key, value).add_mean_probs(total, tokens=tokens)

    part = slice(0, 64)
    scores = query.double()[:, :, part] @ key.double().mT * width**-0.5
    expected = scores.softmax(-1)[..., tokens].mean(1)
    looked_at()
    return [
        name,
        "none" if kernel is None else kernel.__name__.lstrip("_"),
        made is not None and torch.equal(made.output, plain),
        f"{(total[:, part] - expected).abs().max():.1e} of {expected.max():.1e}",
        f"{microseconds(lambda: F.scaled_dot_product_attention(query, key, value)):.0f}",
        f"{microseconds(lambda: run_with_logsumexp(query, key, value, None, None)):.0f}",
        f"{microseconds(looked_at):.0f}",
    ]


def main() -> int:
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing was measured")
        return 0
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Triton: {'yes' if HAS_TRITON else 'no'}")
    head = ["shape", "kernel", "equal to SDPA", "error", "SDPA, µs", "with log Σ exp, µs", "and columns added, µs"]
    print(table(head, [row(name) for name in SHAPES]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
