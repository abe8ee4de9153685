"""Keeps workers for radloom in SLURM's queue until Ctrl-C, which takes them out again."""

import time
from pathlib import Path

from dask_jobqueue import SLURMCluster
from distributed import Client

JOBS = 2

if __name__ == "__main__":
    cluster = SLURMCluster(
        queue="main",  # the partition
        walltime="08:00:00",
        memory="8GB",  # of each job
        job_cpu=4,  # cores of each job
        cores=1,  # Dask's word for how many studies a job handles at a time
        processes=1,
        log_directory="slurm-logs",
    )
    cluster.adapt(minimum_jobs=JOBS, maximum_jobs=JOBS)  # a job that ends is submitted again
    file = Path("scheduler.json")
    with cluster, Client(cluster) as client:
        client.write_scheduler_file(str(file))
        print(f"radloom run STUDIES OUT --scheduler file:{file}", flush=True)
        try:
            while True:
                time.sleep(1)
        finally:
            file.unlink()
