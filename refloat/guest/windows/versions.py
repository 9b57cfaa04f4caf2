"""The versions of Windows that can be adapted, as rows of data.

A guest is matched by its build number and by whether it is a server; never by its product name: Windows 11
calls itself "Windows 10". Without a match it is refused: never a silent default.
"""

from __future__ import annotations

from dataclasses import dataclass

from refloat.errors import Refused

# pnputil learned /add-driver in 1607, /remove-device in 2004: Microsoft's reference of its command line.
PNPUTIL_ADD_DRIVER = 14393
PNPUTIL_REMOVE_DEVICE = 19041


@dataclass(frozen=True)
class Version:
    """Releases that boot and take drivers alike: those of the builds `build` to `last`, both included.

    `folders` are the names that virtio-win has for it, in any case, today's first; `architectures` are
    those that Windows was released for, as virtio-win names them. `powershell` is what the release came with.
    `sata` and `nvme` are the services of Windows' own storage drivers, `nvme` empty where it has none.
    `sha1`: without later updates it knows SHA-1 signatures only. `cmdlets`: networking and disks can be set
    by PowerShell's own commands.
    """

    name: str
    build: int
    last: int
    server: bool
    folders: tuple[str, ...]
    powershell: str
    architectures: tuple[str, ...]
    sata: str = "storahci"
    nvme: str = "stornvme"
    sha1: bool = False
    cmdlets: bool = True

    @property
    def title(self) -> str:
        return f"Windows Server {self.name}" if self.server else f"Windows {self.name}"


_AMD64 = ("amd64",)
_PC = ("amd64", "x86")

VERSIONS = (
    Version(
        "2008 R2", 7601, 7601, True, ("2k8R2", "win2008r2"), "2.0", _AMD64,
        sata="msahci", nvme="", sha1=True, cmdlets=False,
    ),
    Version(
        "7", 7601, 7601, False, ("w7", "win7"), "2.0", _PC,
        sata="msahci", nvme="", sha1=True, cmdlets=False,
    ),
    Version("2012", 9200, 9200, True, ("2k12", "win2012"), "3.0", _AMD64, nvme=""),
    Version("8", 9200, 9200, False, ("w8", "win8"), "3.0", _PC, nvme=""),
    Version("2012 R2", 9600, 9600, True, ("2k12R2", "win2012r2"), "4.0", _AMD64),
    Version("8.1", 9600, 9600, False, ("w8.1", "win8.1"), "4.0", _PC),
    Version("2016", 14393, 14393, True, ("2k16", "win2016"), "5.1", _AMD64),
    Version("2019", 17763, 17763, True, ("2k19", "win2019"), "5.1", _AMD64),
    Version("2022", 20348, 20348, True, ("2k22", "win2022"), "5.1", _AMD64),
    Version("2025", 26100, 26100, True, ("2k25", "win2025"), "5.1", ("amd64", "ARM64")),
    # The last build of 10 is 19045; from 22000 on it is 11. Those between were previews.
    Version("10", 10240, 19045, False, ("w10", "win10"), "5.1", ("amd64", "x86", "ARM64")),
    Version("11", 22000, 99999, False, ("w11", "win11"), "5.1", ("amd64", "ARM64")),
)  # fmt: skip


def version_of(build: int, server: bool) -> Version:
    """The row for a guest. Raises Refused (windows_version) with what to do for one that is not known."""
    for row in VERSIONS:
        if row.server is server and row.build <= build <= row.last:
            return row
    kind = "server" if server else "client"
    if build == 7600:
        hint = "install Service Pack 1 at the source: virtio-win's drivers need it"
    else:
        hint = f"Refloat knows the builds {', '.join(_builds(server))} of {kind}s"
    raise Refused(
        f"this Windows is a {kind} of build {build}, for which no drivers are known",
        code="windows_version",
        hint=hint,
    )


def row_of(name: str) -> Version:
    """The row that WindowsFacts.version names. Raises Refused (windows_version)."""
    row = next((row for row in VERSIONS if row.name == name), None)
    if row is None:
        raise Refused(
            f"no version of Windows is called {name!r} here",
            code="windows_version",
            hint="let the guest be inspected again",
        )
    return row


def _builds(server: bool) -> list[str]:
    rows = (row for row in VERSIONS if row.server is server)
    return [str(row.build) if row.build == row.last else f"{row.build} to {row.last}" for row in rows]
