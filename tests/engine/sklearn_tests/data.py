"""The matrices of the restated tests, made here so that scikit-learn need not be installed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Fisher's irises (Annals of Eugenics 7, 1936, Table I), 150 flowers: four lengths each, two digits of millimetres.
_FLOWERS = """
51351402 49301402 47321302 46311502 50361402 54391704 46341403 50341502 44291402 49311501 54371502 48341602
48301401 43301101 58401202 57441504 54391304 51351403 57381703 51381503 54341702 51371504 46361002 51331705
48341902 50301602 50341604 52351502 52341402 47321602 48311602 54341504 52411501 55421402 49311502 50321202
55351302 49361401 44301302 51341502 50351303 45231303 44321302 50351606 51381904 48301403 51381602 46321402
53371502 50331402 70324714 64324515 69314915 55234013 65284615 57284513 63334716 49243310 66294613 52273914
50203510 59304215 60224010 61294714 56293613 67314414 56304515 58274110 62224515 56253911 59324818 61284013
63254915 61284712 64294313 66304414 68284814 67305017 60294515 57263510 55243811 55243710 58273912 60275116
54304515 60344516 67314715 63234413 56304113 55254013 55264412 61304614 58264012 50233310 56274213 57304212
57294213 62294313 51253011 57284113 63336025 58275119 71305921 63295618 65305822 76306621 49254517 73296318
67255818 72366125 65325120 64275319 68305521 57255020 58285124 64325323 65305518 77386722 77266923 60225015
69325723 56284920 77286720 63274918 67335721 72326018 62284818 61304918 64285621 72305816 74286119 79386420
64285622 63285115 61265614 77306123 63345624 64315518 60304818 69315421 67315624 69315123 58275119 68325923
67335725 67305223 63255019 65305220 62345423 59305118
"""


def iris() -> NDArray[np.float64]:
    """(150, 4), centimetres."""
    return np.array([[int(flower[i : i + 2]) for i in range(0, 8, 2)] for flower in _FLOWERS.split()]) / 10


def low_rank(n: int, width: int, effective_rank: float = 10, tail: float = 0.5, seed: int = 42) -> NDArray[np.float64]:
    """(n, width) with a bell of large singular values over a fat tail, scikit-learn's `make_low_rank_matrix`:
    σᵢ = (1 − tail)·exp(−(i/r)²) + tail·exp(−0.1·i/r)."""
    rng = np.random.default_rng(seed)
    k = min(n, width)
    u, v = (np.linalg.qr(rng.standard_normal((side, k)))[0] for side in (n, width))
    i = np.arange(k) / effective_rank
    return np.asarray((u * ((1 - tail) * np.exp(-(i**2)) + tail * np.exp(-0.1 * i))) @ v.T)


def correlated(n: int, width: int, n_informative: int, seed: int = 0) -> NDArray[np.float64]:
    """(n, width) of rank `n_informative`: four clouds of mixed columns, the rest combinations of them.

    Stands in for `make_classification`, of which the originals use only the correlation of its columns.
    """
    rng = np.random.default_rng(seed)
    centres = rng.choice([-1.0, 1.0], (4, n_informative))
    x = rng.standard_normal((n, n_informative)) @ rng.uniform(-1, 1, (n_informative, n_informative))
    x += centres[rng.integers(4, size=n)]
    return np.hstack([x, x @ rng.uniform(-1, 1, (n_informative, width - n_informative))])


def pictures(n: int = 1797, side: int = 8, seed: int = 0) -> NDArray[np.float64]:
    """(n, side²) whole numbers 0 … 16 with dead pixels on the rim, shaped like the digits of the originals."""
    rng = np.random.default_rng(seed)
    strokes = rng.standard_normal((20, side * side)) * np.linspace(3, 0.5, 20)[:, None]
    x = np.clip(np.rint(5 + rng.standard_normal((n, 20)) @ strokes + rng.standard_normal((n, side * side))), 0, 16)
    x[:, ::side] = 0
    return x
