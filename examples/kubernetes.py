"""Fit a zoo with workers that Kubernetes starts as they are needed; needs dask-kubernetes and its operator.

    python examples/kubernetes.py s3://my-bucket/zoo.zarr run my-image

The image has eigenzoo in the versions of this environment; the zoo lies in an object store, whose credentials the
workers find in their environment. The run is written here.
"""

import sys

from dask_kubernetes.operator import KubeCluster
from distributed import Client

from engine import fit_zoo
from engine.runners.dask_ import DaskRunner

RESOURCES = {"requests": {"cpu": "1", "memory": "8Gi"}, "limits": {"memory": "8Gi"}}


def main(zoo: str, out: str, image: str) -> None:
    worker = ["dask", "worker", "--nthreads", "1", "--memory-limit", "8GiB"]
    with KubeCluster(name="eigenzoo", image=image, n_workers=1, resources=RESOURCES, worker_command=worker) as cluster:
        cluster.adapt(minimum=1, maximum=16)
        with Client(cluster) as client, DaskRunner(client, patience=600) as runner:
            run = fit_zoo(zoo, out, runner=runner)
    print(len(run.matrices), "matrices in", run.path)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
