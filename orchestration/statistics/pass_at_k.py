"""pass@k from n samples of one problem, without bias.

In: numbers of samples and of right samples. Out: the probability that k of them, drawn without replacement, hold a
right one; its expectation over the samples is the true pass@k for every n >= k (arXiv 2107.03374, section 2.1).
"""

from math import comb


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Share of the k-subsets of the samples that hold a right one: 1 - C(n - c, k) / C(n, k), in [0, 1]."""
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"num_correct={num_correct}: must lie in 0..num_samples={num_samples}")
    if not 1 <= k <= num_samples:
        raise ValueError(f"k={k}: must lie in 1..num_samples={num_samples}; draw more samples or lower k")
    return 1.0 - comb(num_samples - num_correct, k) / comb(num_samples, k)
