# Every PBS job sources this file before anything else (`precommand` in config.yaml); POSIX sh.
# Your site's environment goes here. Examples:

# module load cuda/12.8
# . "$HOME/miniforge3/etc/profile.d/conda.sh" && conda activate isotone

cd "${PBS_O_WORKDIR:-.}" || exit 78
export PYTHONUNBUFFERED=1

# The trainer saves in time for the limit that `submit` asked for.
[ -z "${ISOTONE_JOB_SECONDS:-}" ] || export ISOTONE_JOB_END_TIME=$(($(date +%s) + ISOTONE_JOB_SECONDS))

echo "isotone: PBS job ${PBS_JOBID:-?}, $(date -u +%Y-%m-%dT%H:%M:%SZ), host $(uname -n)," \
    "$(awk '/^MemTotal/ {printf "%.0f GiB", $2 / 2^20}' /proc/meminfo) memory, $(df -h . | awk 'END {print $4}') free on disk"
