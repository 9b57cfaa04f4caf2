"""Builds the simulator from Debian's Go packages (golang-go, golang-github-vmware-govmomi-dev), once: the
binary is kept by the content of our sources and the version of govmomi."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CACHE = Path.home() / ".cache" / "refloat" / "vcsim"
GOPATH = Path("/usr/share/gocode")
SIMULATOR = GOPATH / "src/github.com/vmware/govmomi/simulator"


def missing() -> str:
    """Why it cannot be built here, or ""."""
    if not Path("/usr/bin/go").exists() or not SIMULATOR.is_dir():
        return "Debian's golang-go and golang-github-vmware-govmomi-dev are not installed: script/setup --dev"
    return ""


def binary() -> Path:
    """The built simulator. The first build takes about a minute, later calls nothing."""
    sources = sorted(HERE.glob("*.go"))
    digest = hashlib.sha256()
    for file in (*sources, SIMULATOR / "virtual_machine.go", SIMULATOR / "simulator.go"):
        digest.update(file.read_bytes())
    CACHE.mkdir(parents=True, exist_ok=True)
    made = CACHE / f"vcsim-{digest.hexdigest()[:16]}"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers come at once
        if not made.exists():
            for old in CACHE.glob("vcsim-*"):
                old.unlink()
            _build(sources, made)
    return made


def _build(sources: list[Path], made: Path) -> None:
    draft = made.with_suffix(".new")
    environment = {
        **os.environ,
        "GO111MODULE": "off",
        "GOPROXY": "off",
        "GOPATH": str(GOPATH),
        "CGO_ENABLED": "0",
        "GOCACHE": str(CACHE / "go"),
    }
    argv = ["go", "build", "-o", str(draft), *map(str, sources)]
    subprocess.run(argv, check=True, env=environment, timeout=600)
    draft.rename(made)


if __name__ == "__main__":
    if missing():
        sys.exit(missing())
    binary()
