#!/bin/bash
#SBATCH --job-name=flexselect
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --signal=USR1@180
# Videos are shared out over all tasks; a job that was stopped and started again goes on where it was. USR1 comes to all
# tasks three minutes before the time limit: they save, end, and put the job back into the queue.
# Give --output_dir on a disk that all nodes see.
srun .venv/bin/python cli.py "$@"
