"""Workers as SLURM jobs, through dask-jobqueue (pip install dask-jobqueue). Tried on a SLURM of one node without GPUs,
where the lines about them were left out.

The jobs need the same folders and packages under the same paths. A job that reaches its time limit takes the run that
it was at with it; another job does that run again. Adapt partition, time and memory, then from the login node:

    .venv/bin/python notebooks/sweeps/slurm.py
"""

from dask_jobqueue import SLURMCluster

from ptlib.sweep.engine import run_sweep

cluster = SLURMCluster(
    queue="gpu", walltime="04:00:00", cores=1, processes=1, memory="32GB",
    job_cpu=8, job_extra_directives=["--gres=gpu:1"], job_script_prologue=["export OMP_NUM_THREADS=8"],
    # A worker asks for one GPU and offers one slot; its own memory is not the kernel's, so it sets no limit.
    worker_extra_args=["--resources", "GPU=1", "--memory-limit", "0"],
)
cluster.scale(jobs=8)
with cluster:
    report = run_sweep("notebooks/05_baselines.ipynb", "notebooks/sweeps/grid.yaml", "runs/lengths",
                   scheduler=cluster.scheduler_address)
print(report)
