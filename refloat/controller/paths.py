"""Where the controller keeps things. A plain class: `health` must start fast under emulation."""

from __future__ import annotations

import os


class Paths:
    """`root` is on the controller's own disk; the others say where the kernel shows the data disks.

    Tests point all of them elsewhere, by the environment.
    """

    def __init__(
        self,
        root: str = "/var/lib/refloat",
        sys_block: str = "/sys/block",
        dev: str = "/dev",
        port: int = 10809,
    ) -> None:
        self.root = root
        self.sys_block = sys_block
        self.dev = dev
        self.port = port  # of the first export, on the loopback

    @staticmethod
    def from_environment() -> Paths:
        get = os.environ.get
        return Paths(
            get("REFLOAT_CONTROLLER_ROOT", "/var/lib/refloat"),
            get("REFLOAT_SYS_BLOCK", "/sys/block"),
            get("REFLOAT_DEV", "/dev"),
            int(get("REFLOAT_EXPORT_PORT", "10809")),
        )

    @property
    def sync(self) -> str:
        return self._made("sync")

    @property
    def jobs(self) -> str:
        return self._made("jobs")

    @property
    def drivers(self) -> str:
        """Driver files for Windows guests, a folder for each list of them."""
        return self._made("drivers")

    @property
    def scratch(self) -> str:
        """For copy-on-write views; nothing in it is worth keeping."""
        return self._made("scratch")

    @property
    def sync_lock(self) -> str:
        return os.path.join(self.sync, "lock")

    @property
    def merge_lock(self) -> str:
        return os.path.join(self.sync, "merge.lock")

    @property
    def adapt_lock(self) -> str:
        return os.path.join(self.jobs, "adapt.lock")

    def free(self) -> int:
        """Bytes that the controller's own disk can still take."""
        room = os.statvfs(self.root)
        return room.f_bavail * room.f_frsize

    def _made(self, name: str) -> str:
        path = os.path.join(self.root, name)
        os.makedirs(path, mode=0o700, exist_ok=True)
        return path
