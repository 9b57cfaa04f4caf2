# shellcheck shell=bash
# Functions of script/setup, script/demo and script/test (bash; sourced, never run).
#
# Every check that fails says in one line what is wrong and what to do, and ends the script with 3
# (nothing was changed: the machine does not qualify) or 4 (setting up failed; it can be repeated).

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
PYTHON=$VENV/bin/python
# shellcheck disable=SC2034  # used by the scripts that source this file
REFLOAT=$VENV/bin/refloat
SETUP_LOG=${TMPDIR:-/tmp}/refloat-setup.log
LIBVIRT_URI=qemu:///system

# What Refloat and its lab run, and what the images are built with. No recommended packages: those
# would bring a desktop's worth of QEMU front ends.
DEBIAN_PACKAGES=(
    qemu-system-x86 qemu-utils seabios ipxe-qemu ovmf
    libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients
    python3 python3-venv python3-libvirt python3-libnbd python3-hivex
    mmdebstrap ca-certificates openssh-client e2fsprogs fdisk ntfs-3g mtools mount util-linux kmod cpio tar
    zstd xz-utils lz4 procps bubblewrap
)

# What the tests need beyond that. Wine (0.7 GB) runs the launcher of a recovered Windows guest for real;
# Chromium (0.3 GB) opens the hub's page; Go and govmomi (0.5 GB) build the simulated vCenter; nbdkit serves its
# disks, as it does with VDDK in production; PostgreSQL (0.1 GB) runs as a server of the tests' own, on a socket
# in a folder of theirs. ATTENTION: Debian's package also makes a cluster "main" and, where systemd runs, starts
# it on 127.0.0.1:5432. The tests never touch that one; `systemctl disable --now postgresql` where it disturbs.
DEV_PACKAGES=(wine64 chromium golang-go golang-github-vmware-govmomi-dev nbdkit postgresql)

# Room for the packages, two images, their package caches, a lab with its replica, and the tests' copies.
NEEDED_GB=12

say() { printf 'refloat: %s\n' "$*" >&2; }

die() { # STATUS MESSAGE
    printf 'refloat: %s\n' "$2" >&2
    exit "$1"
}

# --- checks: read-only, before anything is changed ------------------------------------------------

check_root() {
    [ "$(id -u)" -eq 0 ] || die 3 "must run as root (libvirt, loop devices): sudo $0"
}

check_os() {
    local os=unknown
    # shellcheck source=/dev/null
    [ ! -r "${OS_RELEASE:-/etc/os-release}" ] || os=$(. "${OS_RELEASE:-/etc/os-release}" && echo "${ID:-} ${VERSION_ID:-}")
    [ "$os" = "debian 12" ] || die 3 "needs Debian 12 (bookworm), this is '$os': use a Debian 12 machine, VM or container"
    [ "$(uname -m)" = x86_64 ] || die 3 "needs an x86-64 machine, this is $(uname -m)"
}

# The nearest folder that exists: df knows no others.
existing() {
    local path=$1
    while [ ! -d "$path" ]; do path=$(dirname "$path"); done
    echo "$path"
}

check_space() {
    local path folder free
    for path in "${XDG_CACHE_HOME:-$HOME/.cache}/refloat" /var/lib; do
        folder=$(existing "$path")
        free=$(df -Pk "$folder" | awk 'NR == 2 { print int($4 / 1048576) }')
        [ "$free" -ge "${NEEDED_GB}" ] && continue
        # The images that are already there are part of what is needed.
        [ "$((free + $(used_gb)))" -ge "$NEEDED_GB" ] ||
            die 3 "needs ${NEEDED_GB} GB free for $path, $folder has ${free} GB: free some, or set XDG_CACHE_HOME to another disk"
    done
}

used_gb() {
    local used=0 folder
    for folder in "${XDG_CACHE_HOME:-$HOME/.cache}/refloat" /var/lib/refloat*; do
        [ ! -d "$folder" ] || used=$((used + $(du -sk "$folder" | cut -f1)))
    done
    echo $((used / 1048576))
}

check_machine() {
    check_root
    check_os
    check_space
}

# --- Debian packages ------------------------------------------------------------------------------

missing_packages() {
    local found
    found=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${DEBIAN_PACKAGES[@]}" 2>/dev/null |
        awk '$2 == "installed" { print $1 }') || true
    printf '%s\n' "${DEBIAN_PACKAGES[@]}" | grep -vxF -e "${found:-none}" || true
}

ensure_packages() {
    local missing
    mapfile -t missing < <(missing_packages)
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${#missing[@]} Debian packages (log: $SETUP_LOG)"
    export DEBIAN_FRONTEND=noninteractive
    # An earlier run may have been interrupted in the middle of dpkg.
    [ -z "$(dpkg --audit 2>/dev/null)" ] || dpkg --configure -a >>"$SETUP_LOG" 2>&1 || true
    # Its status is not looked at: one dead extra repository does not matter if the packages come.
    apt-get update -o DPkg::Lock::Timeout=120 >>"$SETUP_LOG" 2>&1 </dev/null || true
    apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=120 "${missing[@]}" \
        >>"$SETUP_LOG" 2>&1 </dev/null ||
        die 4 "Debian packages could not be installed: check that 'apt-get update' reaches the Debian registry (log: $SETUP_LOG)"
}

# --- virtual environment --------------------------------------------------------------------------

# What the environment was made of. The path is part of it: scripts in a venv hold absolute paths.
venv_key() { # LOCK
    { echo "1 $ROOT"; readlink -f /usr/bin/python3; cat "$ROOT/pyproject.toml" "$1"; } | sha256sum | cut -d' ' -f1
}

# One stamp per lock, so that script/demo after script/test (which has the developers' lock too) finds its own.
venv_stamp() { echo "$VENV/.refloat-$(basename "$1").done"; } # LOCK

venv_is_done() { # LOCKS...
    local lock
    for lock in "$@"; do
        [ "$(cat "$(venv_stamp "$lock")" 2>/dev/null)" = "$(venv_key "$lock")" ] || return 1
    done
}

# ensure_venv LOCK...: the system's Python with its libvirt, libnbd and hivex, and the locked packages.
ensure_venv() {
    local lock requirements=()
    for lock in "$@"; do
        [ -r "$lock" ] || die 4 "$lock is missing: the checkout is not complete (git status)"
        requirements+=(-r "$lock")
    done
    if venv_is_done "$@"; then return 0; fi
    say "setting up the Python environment (log: $SETUP_LOG)"
    rm -f "$VENV"/.refloat-*.done # written again only when all is done
    if ! grep -qsx 'include-system-site-packages = true' "$VENV/pyvenv.cfg" ||
        ! "$PYTHON" -c 'import sys, pip; sys.exit(sys.base_prefix != "/usr")' 2>/dev/null; then
        /usr/bin/python3 -m venv --clear --system-site-packages "$VENV" >>"$SETUP_LOG" 2>&1 ||
            die 4 "cannot make $VENV: is python3-venv installed and the disk not full? (log: $SETUP_LOG)"
    fi
    "$PYTHON" -m pip install --disable-pip-version-check --no-input --quiet --require-hashes "${requirements[@]}" \
        >>"$SETUP_LOG" 2>&1 </dev/null || pip_failed
    install_project || die 4 "cannot install Refloat into $VENV (log: $SETUP_LOG)"
    for lock in "$@"; do venv_key "$lock" >"$(venv_stamp "$lock")"; done
}

pip_failed() {
    if tail -n 20 "$SETUP_LOG" | grep -q 'DO NOT MATCH THE HASHES'; then
        die 4 "a Python package is not the one that the lock file names: do not use this package index (log: $SETUP_LOG)"
    fi
    die 4 "Python packages could not be installed: check that pip reaches PyPI, or set PIP_INDEX_URL (log: $SETUP_LOG)"
}

# The project itself without a build: a path file and its commands. An editable install by pip would
# fetch a build backend that no hash covers.
install_project() {
    "$PYTHON" - "$ROOT" "$VENV" >>"$SETUP_LOG" 2>&1 <<'END'
import sys, sysconfig, tomllib
from pathlib import Path

root, venv = map(Path, sys.argv[1:])
Path(sysconfig.get_path("purelib"), "refloat.pth").write_text(f"{root}\n")
for name, target in tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"].items():
    module, function = target.split(":")
    command = venv / "bin" / name
    command.write_text(f"#!{venv}/bin/python\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    command.chmod(0o755)
END
}

# --- libvirt --------------------------------------------------------------------------------------

libvirt_answers() { timeout 30 virsh -q -c "$LIBVIRT_URI" version >/dev/null 2>&1; }

# Without systemd (containers, build machines) nobody starts the daemons or makes their folders.
start_daemons() {
    mkdir -p /var/log/libvirt/qemu /run/libvirt
    # 9: the lock of script/setup, which a daemon would hold for ever.
    pgrep -x virtlogd >/dev/null || virtlogd -d >>"$SETUP_LOG" 2>&1 9>&- || true
    pgrep -x libvirtd >/dev/null || libvirtd -d >>"$SETUP_LOG" 2>&1 9>&- || true
}

# As udev sets it wherever udev runs. With the device closed to the kvm group, libvirt 9 probes KVM as
# usable and then finds it unusable, throws its cache away and probes QEMU again: 4 to 8 s for each
# definition and each start of a VM ("KVM was enabled when probing, but it is not available now").
open_kvm_device() {
    [ -c /dev/kvm ] && [ ! -d /run/systemd/system ] || return 0
    [ "$(stat -c %G /dev/kvm)" != kvm ] || return 0
    chgrp kvm /dev/kvm && chmod 0660 /dev/kvm || true
}

ensure_libvirt() {
    local deadline=$((SECONDS + 90))
    open_kvm_device
    if pgrep -x virtlogd >/dev/null && libvirt_answers; then return 0; fi
    say "starting libvirt"
    if [ -d /run/systemd/system ]; then
        systemctl start virtlogd.service libvirtd.service >>"$SETUP_LOG" 2>&1 </dev/null || true
    else
        start_daemons
    fi
    until libvirt_answers; do
        [ "$SECONDS" -lt "$deadline" ] ||
            die 4 "libvirt does not answer at $LIBVIRT_URI: see $SETUP_LOG and 'libvirtd -v' in the foreground"
        sleep 0.5
    done
}

# --- all of it ------------------------------------------------------------------------------------

# set_up LOCK...: everything that Refloat needs on this machine; a second run takes under a second.
set_up() {
    check_machine
    trap 'die 130 "interrupted; run it again to go on"' INT TERM
    # Two set-ups at once: the second waits and finds everything done.
    mkdir -p /run/lock
    exec 9>/run/lock/refloat-setup.lock
    flock 9
    ensure_packages
    ensure_venv "$@"
    ensure_libvirt
    exec 9>&-
    trap - INT TERM
}
