"""Fit a zoo with workers on this machine.

    python examples/local_cluster.py zoo.zarr run

`eigenzoo fit zoo.zarr --out run --workers 2` does the same.
"""

import sys

from engine import fit_zoo
from engine.runners.dask_ import DaskRunner


def main(zoo: str, out: str) -> None:
    with DaskRunner(workers=2, memory_limit="2GiB") as runner:
        print("dashboard:", runner.dashboard_link)
        run = fit_zoo(zoo, out, runner=runner)
    print(len(run.matrices), "matrices in", run.path)


if __name__ == "__main__":  # workers are processes that import this file
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
