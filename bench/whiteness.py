"""Where the critical value of the whiteness test comes from: ranks by which white noise strays from its law.

    python bench/whiteness.py              ten minutes on one core
    python bench/whiteness.py --quick      a minute

For Gaussian and kaiming-uniform entries, shapes from 60 × 40 to 4000 × 1000, without and with planted directions (8
of them well above the noise, and 4 of them between the edge and the threshold of Gavish and Donoho), each matrix is
centred and its distance D taken below Gavish and Donoho's K. Prints the 50, 99 and 100 % quantiles of m·D by shape, the
critical value in the same unit, and the share of false alarms. Writes JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SHAPES = [
    ((60, 40), 1000),
    ((200, 40), 1000),
    ((2000, 40), 500),
    ((100, 100), 600),
    ((300, 100), 600),
    ((3000, 100), 100),
    ((300, 300), 100),
    ((1200, 300), 100),
    ((100, 300), 400),
    ((1000, 1000), 12),
    ((4000, 1000), 8),
]
SIGNALS = {"noise alone": 0, "8 strong": 8, "8 strong, 4 weak": 8}


def main() -> None:
    import numpy as np

    from bench.planted import planted, spectrum_of
    from engine.rank.gavish_donoho import gavish_donoho
    from engine.rank.whiteness import whiteness

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few of the matrices")
    parser.add_argument("--out", default=str(ROOT / "bench" / "results" / "whiteness.json"))
    arguments = parser.parse_args()
    rows, begin = [], time.perf_counter()
    print(f"{'shape':>12} {'noise':8} {'signal':18} drawn  m·D:   50 %   99 %   most  critical  alarms")
    for (n, d), count in SHAPES:
        count = max(4, count // 25) if arguments.quick else count
        for noise in ("white", "uniform"):
            for signal, k in SIGNALS.items():
                strays, alarms, critical = [], 0, 0.0
                for seed in range(count):
                    x = planted(noise, n, d, k, (3.0, 1.5), seed)
                    if "weak" in signal:
                        x = x + weak(n, d, 4, seed)
                    spectrum = spectrum_of(x)
                    found = gavish_donoho(spectrum.singular_values, spectrum.effective_shape).k or 0
                    verdict = whiteness(spectrum, found)
                    if verdict.distance is None or verdict.critical is None:
                        continue
                    m = min(spectrum.effective_shape) - found
                    strays.append(m * verdict.distance)
                    critical = m * verdict.critical
                    alarms += verdict.white is False
                half, high, most = np.quantile(strays, [0.5, 0.99, 1.0]).tolist()
                rows.append(
                    {
                        "shape": [n, d],
                        "noise": noise,
                        "signal": signal,
                        "drawn": len(strays),
                        "median": half,
                        "q99": high,
                        "most": most,
                        "critical": critical,
                        "alarms": alarms,
                    }
                )
                print(
                    f"{f'{n} × {d}':>12} {noise:8} {signal:18} {len(strays):5}      {half:6.2f} {high:6.2f} {most:6.2f}"
                    f" {critical:9.2f} {alarms:7}",
                    flush=True,
                )
    drawn, alarms = sum(r["drawn"] for r in rows), sum(r["alarms"] for r in rows)
    share, took = 100 * alarms / drawn, time.perf_counter() - begin
    print(f"{alarms} false alarms in {drawn} matrices ({share:.2f} %), {took:.0f} s")
    Path(arguments.out).write_text(json.dumps({"rows": rows, "alarms": alarms, "drawn": drawn}, indent=1) + "\n")


def weak(n: int, d: int, k: int, seed: int):  # type: ignore[no-untyped-def]
    """Directions between what can be detected, (nd)^¼, and 1.3 times that."""
    import numpy as np

    rng = np.random.default_rng((seed, 1))
    u = np.linalg.qr(rng.standard_normal((n, k)))[0]
    v = np.linalg.qr(rng.standard_normal((d, k)))[0]
    return (u * (np.linspace(1.3, 1.05, k) * (n * d) ** 0.25)) @ v.T


if __name__ == "__main__":
    main()
