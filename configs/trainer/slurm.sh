#!/bin/bash
#SBATCH --job-name=flexselect
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --signal=USR1@180
# The tasks share the videos; a job that is stopped and started again continues. Three minutes before the time limit,
# SLURM sends USR1 to all tasks: they save, end, and put the job back into the queue.
# --output_dir must be on a disk that all nodes see.
srun .venv/bin/python cli.py "$@"
