"""Whether one sampler is better than others: paired tests over seeds, corrected for their number, with effect sizes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon

from autocompress.planning.problem import Floats

N_RESAMPLES = 10_000


@dataclass(frozen=True)
class Comparison:
    """One sampler against another one, on the same seeds.

    Attributes:
        rival: Name of the other one.
        median: Of the differences, ours minus theirs.
        low: Lower end of the 95 % bootstrap interval of the mean difference.
        high: Upper end of the same.
        wins: Seeds in which ours is better; equal ones count half.
        n_seeds: How many there are.
        p_value: One-sided, of the signed-rank test that ours is better, after Holm's correction, in [0, 1].
        effect: Vargha and Delaney's A12, in [0, 1]: the chance that ours is better in two runs drawn at random.
    """

    rival: str
    median: float
    low: float
    high: float
    wins: float
    n_seeds: int
    p_value: float
    effect: float


def compare(ours: Floats, rivals: Mapping[str, Floats]) -> list[Comparison]:
    """Ours against each rival; larger is better.

    Args:
        ours: One value a seed, shape (seeds,).
        rivals: The same of each rival, in the same order of seeds, by name.
    """
    corrected = holm([signed_rank(ours - theirs) for theirs in rivals.values()])
    return [_comparison(ours, n, t, p) for (n, t), p in zip(rivals.items(), corrected, strict=True)]


def _comparison(ours: Floats, name: str, theirs: Floats, p_value: float) -> Comparison:
    differences = ours - theirs
    low, high = bootstrap(differences)
    return Comparison(
        rival=name,
        median=float(np.median(differences)),
        low=low,
        high=high,
        wins=float((differences > 0).sum() + (differences == 0).sum() / 2),
        n_seeds=len(differences),
        p_value=p_value,
        effect=a12(ours, theirs),
    )


def signed_rank(differences: Floats) -> float:
    """One-sided p-value that differences are above 0 (Wilcoxon 1945, with Pratt's treatment of zeros); 1 if all are 0.

    >>> round(signed_rank(np.arange(1.0, 11.0)), 6)
    0.000977
    """
    if not np.any(differences):
        return 1.0
    has_zeros = bool((differences == 0).any())
    return float(wilcoxon(differences, alternative="greater", zero_method="pratt" if has_zeros else "wilcox").pvalue)


def holm(p_values: list[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979): the k-th smallest of m times m - k + 1, made rising.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def a12(ours: Floats, theirs: Floats) -> float:
    """Vargha and Delaney (2000), equation 14: the share of pairs in which ours is larger, equal ones counting half.

    >>> a12(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    differences = ours[:, None] - theirs[None]
    return float(((differences > 0) + (differences == 0) / 2).mean())


def bootstrap(differences: Floats, seed: int = 0) -> tuple[float, float]:
    """Ends of the 95 % percentile bootstrap interval of the mean (Efron 1979)."""
    rng = np.random.default_rng(seed)
    drawn = rng.choice(differences, (N_RESAMPLES, len(differences))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
