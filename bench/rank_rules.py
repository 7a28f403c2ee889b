"""Every rule's K against the truth, on planted spectra in white noise and in noise that is not.

    python bench/rank_rules.py             20,000 × 1000 and smaller, two minutes on two cores
    python bench/rank_rules.py --quick     the smaller ones

Noise as `bench/planted.py` states it (white, lognormal levels per adapter and per column, 60 % zero columns or nearly
zero ones, AR(1) rows, rank-deficient), of standard deviation about 1, alone and with ten directions of 3 to 1.5 times
the white noise's edge. Prints a table and writes JSON. Fails where, on noise alone that is not white, the K of Gavish
and Donoho is above 0 and the whiteness test lets it stand, or where ScreeNOT (upper bound 50) answers over a fifth of
it where the width allows that bound, from 200 columns on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SHAPES = [(400, 100), (2000, 200), (20000, 1000)]
PLANTED, STRENGTHS, SEED = 10, (3.0, 1.5), 0
BOUND, LOOSE = 50, 4  # a bound is at most a quarter of the width: narrower matrices cannot have this one
RULES = (
    "gavish-donoho",
    "gavish-donoho:1",
    "bulk-edge",
    "screenot",
    "shrinkage",
    "shrinkage:nuclear",
    "elbow",
    "ev:0.5",
    "ev:0.8",
    "parallel",
)


def main() -> int:
    from bench.planted import NOISES, WHITE

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave 20,000 × 1000 out")
    parser.add_argument("--draws", type=int, default=9, help="of parallel analysis")
    parser.add_argument("--out", default=str(ROOT / "bench" / "results" / "rank_rules.json"))
    arguments = parser.parse_args()
    begin, rows = time.perf_counter(), []
    head = ["shape", "noise", "true K", *RULES, "noise is", "distance", "critical"]
    print("  ".join(f"{name:>{max(9, len(name))}}" for name in head))
    for n, d in SHAPES[:-1] if arguments.quick else SHAPES:
        for kind in NOISES:
            for k in (0, PLANTED):
                row = measured(kind, n, d, k, arguments.draws)
                rows.append(row)
                white = {True: "white", False: "not white", None: "?"}[row["white"]]
                cells = [f"{n} × {d}", kind, k, *(row["k"][name] for name in RULES), white]
                cells += [f"{row['distance']:.4f}", f"{row['critical']:.4f}"]
                print(
                    "  ".join(
                        f"{'–' if cell is None else cell:>{max(9, len(name))}}"
                        for cell, name in zip(cells, head, strict=True)
                    ),
                    flush=True,
                )
    failures = [
        f"{row['noise']} {row['shape']}: {what}"
        for row in rows
        if row["true"] == 0 and row["noise"] not in WHITE
        for what in broken(row)
    ]
    figures = {"planted": PLANTED, "strengths": STRENGTHS, "seed": SEED, "draws": arguments.draws, "rows": rows}
    Path(arguments.out).write_text(json.dumps(figures, indent=1) + "\n")
    print(f"{len(rows)} matrices, {time.perf_counter() - begin:.0f} s; {'; '.join(failures) or 'nothing failed'}")
    return 1 if failures else 0


def measured(kind: str, n: int, d: int, k: int, draws: int) -> dict[str, Any]:
    """One matrix: K by every rule, and whether its noise is white."""
    from bench.planted import planted, spectrum_of
    from engine.analysis.parallel import parallel_analysis
    from engine.rank import read_rule
    from engine.rank.compare import answer
    from engine.rank.needs_rows import Parallel
    from engine.rank.whiteness import whiteness

    x = planted(kind, n, d, k, STRENGTHS, SEED)
    spectrum = spectrum_of(x)
    found = {}
    for name in RULES:
        rule = read_rule(name)
        choice = parallel_analysis(x, n_draws=draws) if isinstance(rule, Parallel) else answer(spectrum, rule)
        found[name] = choice.k
    verdict = whiteness(spectrum, found["gavish-donoho"] or 0)
    return {
        "noise": kind,
        "shape": [n, d],
        "true": k,
        "k": found,
        "white": verdict.white,
        "distance": verdict.distance,
        "critical": verdict.critical,
    }


def broken(row: dict[str, Any]) -> list[str]:
    """Which of the promises on noise that is not white a row of noise alone breaks."""
    hard, screenot = row["k"]["gavish-donoho"] or 0, row["k"]["screenot"] or 0
    unflagged = hard > 0 and row["white"] is not False
    said = [f"K {hard} by Gavish and Donoho is not flagged"] if unflagged else []
    loose = row["shape"][1] < LOOSE * BOUND
    return said + ([f"ScreeNOT says {screenot} of {hard}"] if 5 * screenot > hard > 0 and not loose else [])


if __name__ == "__main__":
    sys.exit(main())
