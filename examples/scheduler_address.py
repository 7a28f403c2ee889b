"""Fit a zoo on a Dask cluster that is already running.

    dask scheduler &
    dask worker tcp://127.0.0.1:8786 --nworkers 4 --nthreads 1 --memory-limit 8GiB &
    python examples/scheduler_address.py zoo.zarr run tcp://127.0.0.1:8786

Every worker must see the zoo under the same path, or it is a URL such as s3://bucket/zoo.zarr.
`eigenzoo fit zoo.zarr --out run --scheduler tcp://127.0.0.1:8786` does the same.
"""

import sys

from engine import fit_zoo
from engine.runners.dask_ import DaskRunner


def main(zoo: str, out: str, address: str) -> None:
    with DaskRunner(address) as runner:  # the cluster stays when the fit is done
        run = fit_zoo(zoo, out, runner=runner)
    print(len(run.matrices), "matrices in", run.path)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
