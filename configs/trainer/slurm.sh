#!/bin/bash
#SBATCH --job-name=flexselect
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --requeue
# Videos are shared out over all tasks; a job that was stopped and started again goes on where it was.
# Give --output_dir on a disk that all nodes see.
srun .venv/bin/python cli.py "$@"
