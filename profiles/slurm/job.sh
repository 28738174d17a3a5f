# Every Slurm job sources this file before anything else (`precommand` in config.yaml); POSIX sh.
# Yours is site.sh beside it: modules, conda, network interface. Nothing here needs a change.

. profiles/slurm/site.sh

# Output appears at once; a killed job leaves its last line.
export PYTHONUNBUFFERED=1

# Memory that has fragmented after hours of different lengths is given back (both spellings: old and new torch).
export PYTORCH_CUDA_ALLOC_CONF="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}"
export PYTORCH_ALLOC_CONF="${PYTORCH_ALLOC_CONF:-$PYTORCH_CUDA_ALLOC_CONF}"

# A rank that died ends the others instead of leaving them to wait; NCCL speaks only when something is wrong.
export TORCH_NCCL_ASYNC_ERROR_HANDLING="${TORCH_NCCL_ASYNC_ERROR_HANDLING:-1}"
export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"

# Caches on scratch where there is one: home quotas are small.
if [ -n "${SCRATCH:-}" ] && [ -d "$SCRATCH" ]; then
    export HF_HOME="${HF_HOME:-$SCRATCH/huggingface}"
    export TRITON_CACHE_DIR="${TRITON_CACHE_DIR:-$SCRATCH/triton}"
    export TORCHINDUCTOR_CACHE_DIR="${TORCHINDUCTOR_CACHE_DIR:-$SCRATCH/inductor}"
    export MPLCONFIGDIR="${MPLCONFIGDIR:-$SCRATCH/matplotlib}"
fi

# Programs say here how they ended, so that the Slurm log tells it too.
ISOTONE_JOB_LOG=$(readlink -f /proc/$$/fd/1)
export ISOTONE_JOB_LOG

# Only a job with these marks is ever put back into the queue by its own programs, and only by its newest start.
export ISOTONE_JOB_ID="$SLURM_JOB_ID" ISOTONE_JOB_RESTARTS="${SLURM_RESTART_COUNT:-0}"

# When the time limit ends this job: older Slurm does not tell the job, and a start later than asked moves it.
ISOTONE_JOB_END_TIME=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e 2>/dev/null)
case $ISOTONE_JOB_END_TIME in
[0-9]*-*T*) ISOTONE_JOB_END_TIME=$(date -d "$ISOTONE_JOB_END_TIME" +%s) ;;
*) ISOTONE_JOB_END_TIME= ;;
esac
export ISOTONE_JOB_END_TIME

# GPUs and the like per node: the inner steps do not inherit them, the launcher of several nodes passes them on.
ISOTONE_NODE_GRES=$(scontrol -o show job "$SLURM_JOB_ID" 2>/dev/null | sed -n 's/.* TresPerNode=gres[:/]\([^ ]*\).*/\1/p')
export ISOTONE_NODE_GRES

echo "isotone: job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), $(date -u +%Y-%m-%dT%H:%M:%SZ)," \
    "partition $SLURM_JOB_PARTITION, nodes $SLURM_JOB_NODELIST"
echo "isotone: host $(uname -n), $(uname -sr), ${SLURM_CPUS_ON_NODE:-?} CPUs of this job," \
    "$(awk '/^MemTotal/ {printf "%.0f GiB", $2 / 2^20}' /proc/meminfo) memory," \
    "$(df -h . | awk 'END {print $4}') free on disk, python ${ISOTONE_PYTHON:-?}"
if command -v nvidia-smi >/dev/null 2>&1; then
    nvidia-smi --query-gpu=index,name,memory.total,driver_version --format=csv,noheader | sed 's/^/isotone: GPU /'
else
    echo "isotone: no nvidia-smi on this host; GPUs of this job: ${CUDA_VISIBLE_DEVICES:-none}"
fi

# How the job ended, as its last line (a SIGKILL leaves none).
isotone_last_line() {
    [ "$1" = 0 ] && set -- "done" || set -- "$(tail -c 8192 "$ISOTONE_JOB_LOG" 2>/dev/null | grep -E '^isotone: (done|interrupted|refused|halted|failed)' | tail -n 1)"
    set -- "${1#isotone: }"
    echo "isotone: ${1:-failed; the program said nothing, see the log of the rule}"
}
trap 'isotone_last_line $?' EXIT

# A missing or outdated environment: said in the first second, before torch is imported.
if [ ! -x "${ISOTONE_PYTHON:=$(command -v python3)}" ]; then
    echo "The Python of the driver, $ISOTONE_PYTHON, does not exist on $(uname -n). Keep the environment on a file" \
        "system that the nodes share, or load it in profiles/slurm/site.sh."
    echo "isotone: failed (78): no Python on this node"
    exit 78
fi
PYTHONPATH="scripts${PYTHONPATH:+:$PYTHONPATH}" "$ISOTONE_PYTHON" -m isotone.cluster.fit || exit 78
