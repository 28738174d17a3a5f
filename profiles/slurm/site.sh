# Your site's environment, sourced by profiles/slurm/job.sh at the start of each Slurm job (POSIX sh, no bash).
# The driver's own environment is passed to the jobs anyway: often this file may stay empty. Examples:

# module load cuda/12.8
# . "$HOME/miniforge3/etc/profile.d/conda.sh" && conda activate isotone
# export NCCL_SOCKET_IFNAME=ib0            # several nodes: the interface between them
# export SCRATCH=/scratch/$USER            # caches go there
# export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True,garbage_collection_threshold:0.8
