#!/usr/bin/env bash
# The Slurm of another Debian release, in a folder of its own; this machine's Python and this checkout are mounted into it.
#
#   tests/slurm/other.sh make          make it, once (needs root, debootstrap and Debian's packages; some minutes, 1 GB)
#   tests/slurm/other.sh run COMMAND   run a command in it, here, with this Python first on PATH
#   tests/slurm/other.sh missing       why it cannot be used now, in words; nothing if it can
#
# Debian 12 has Slurm 22.05, Debian 13 has 24.11: it is the one that this machine has not. ISOTONE_LAB_OTHER names the
# folder. Mounts live in a namespace of the command's own and end with its last process.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
PYTHON=${ISOTONE_LAB_PYTHON:-$ROOT/.venv/bin/python}
# Slurm, what the lab starts beside it, and the libraries that a Python of the host may be linked to.
PACKAGES=slurm-wlm,slurmdbd,mariadb-server,munge,procps,libffi8,libsqlite3-0,libbz2-1.0,liblzma5,libgomp1,libstdc++6,libexpat1,zlib1g

here() { (PATH=$PATH:/usr/sbin; slurmctld -V 2>/dev/null | grep -oE '[0-9]+' | head -n 1 || true); }
if [ "$(here)" ] && [ "$(here)" -ge 24 ]; then RELEASE=bookworm; else RELEASE=trixie; fi
[ $RELEASE = trixie ] && PACKAGES+=,libssl3t64,libreadline8t64 || PACKAGES+=,libssl3,libreadline8
PLACE=${ISOTONE_LAB_OTHER:-/var/cache/isotone/slurm-$RELEASE}

missing() {
    [ "$(id -u)" = 0 ] || { echo "not root"; return; }
    if [ -e "$PLACE/isotone-ready" ]; then
        unshare --mount true 2>/dev/null || echo "mounts are not allowed here"
    elif ! command -v debootstrap >/dev/null; then
        echo "$PLACE is not there, and debootstrap is not installed to make it"
    else
        echo "$PLACE is not there (bash tests/slurm/other.sh make)"
    fi
}

make() {
    [ ! -e "$PLACE/isotone-ready" ] || { echo "other: $(chroot "$PLACE" /usr/sbin/slurmctld -V) is ready in $PLACE"; return; }
    command -v debootstrap >/dev/null || { echo "other: debootstrap is not installed" >&2; return 3; }
    rm -rf "$PLACE" # the rest of an attempt that was cut short; nothing is ever mounted in it outside of a namespace
    mkdir -p "$PLACE"
    # shellcheck disable=SC2086
    debootstrap --variant=minbase --include="$PACKAGES" $RELEASE "$PLACE" ${ISOTONE_LAB_MIRROR:-} >"$PLACE.log" 2>&1 ||
        { echo "other: debootstrap $RELEASE failed: $(tail -n 1 "$PLACE.log")" >&2; return 3; }
    rm -rf "$PLACE"/var/cache/apt/archives "$PLACE"/var/lib/apt/lists
    touch "$PLACE/isotone-ready"
    echo "other: $(chroot "$PLACE" /usr/sbin/slurmctld -V) is ready in $PLACE"
}

run() {
    local why
    why=$(missing)
    [ -z "$why" ] || { echo "other: $why" >&2; return 3; }
    PATHS=$("$PYTHON" -c 'import os, sys, sysconfig
paths = [os.path.realpath(path) for path in ("/proc", "/sys", "/dev", "/tmp", sys.argv[1], sys.prefix)]
if sys.base_prefix in ("/", "/usr"):  # a Python of the distribution: only what is its own
    paths.append(sysconfig.get_path("stdlib"))
    program = sys.executable
    while os.path.islink(program):
        program = os.path.join(os.path.dirname(program), os.readlink(program))
        paths.append(program)
else:
    paths.append(sys.base_prefix)
print(*dict.fromkeys(path for path in paths if not path.startswith(sys.prefix + "/")), sep="\n")' "$ROOT")
    export PLACE PATHS
    # shellcheck disable=SC2016
    # The inner shell expands these.
    exec unshare --mount --propagation private bash -euc '
        while read -r path; do
            if [ -d "$path" ]; then mkdir -p "$PLACE$path"; else mkdir -p "$PLACE${path%/*}"; touch "$PLACE$path"; fi
            mount --rbind "$path" "$PLACE$path"
        done <<<"$PATHS"
        cat /etc/hosts >"$PLACE/etc/hosts"
        exec chroot "$PLACE" /usr/bin/env -C "$PWD" "$@"' other "$@"
}

case ${1:-} in
make) make ;;
missing) missing ;;
run)
    shift
    run "$@"
    ;;
*)
    sed -n '2,9s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
