"""Fit a zoo with workers that SLURM starts as they are needed; needs dask-jobqueue.

    python examples/slurm.py /shared/zoo.zarr run

The zoo lies where every node sees it. Jobs are queued when there is work and given back when there is none; a job is
one worker, because Dask cancels a queued job of which it wants only some workers. `patience` is how many seconds a
cluster without any worker may stay in the queue.
"""

import sys

from dask_jobqueue import SLURMCluster
from distributed import Client

from engine import fit_zoo
from engine.runners.dask_ import DaskRunner


def main(zoo: str, out: str) -> None:
    with SLURMCluster(cores=1, processes=1, memory="8GiB", walltime="02:00:00") as cluster:
        cluster.adapt(minimum_jobs=0, maximum_jobs=32)
        with Client(cluster) as client, DaskRunner(client, patience=3600) as runner:
            run = fit_zoo(zoo, out, runner=runner)
    print(len(run.matrices), "matrices in", run.path)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
