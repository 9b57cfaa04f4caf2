"""The seed: what makes one controller out of the image that all share, written into its own disk.

It lies in the gap before the first partition, where the image's boot loader does not reach, so that a
platform's API for volumes is enough to write it: no mount, no user data, no second disk. The image unpacks it
at its first boot (lab/recipes/controller.sh), before it starts sshd, and only while it has no host key.

    one line: "REFLOAT-SEED-1 LENGTH SHA256\\n", then LENGTH bytes of a tar, then zeros
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping

from refloat.errors import Refused

OFFSET = 512 * 1024  # bytes from the start of the disk
SIZE = 64 * 1024
MAGIC = "REFLOAT-SEED-1"


def render_seed(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    """SIZE bytes. `files`: absolute path in the controller -> (content, mode). Raises Refused
    for too much."""
    packed = _tar(files)
    digest = hashlib.sha256(packed).hexdigest()
    seed = f"{MAGIC} {len(packed)} {digest}\n".encode() + packed
    if len(seed) > SIZE:
        raise Refused(f"the controller's seed has {len(seed)} bytes, {SIZE} at most", code="seed_too_large")
    return seed.ljust(SIZE, b"\0")


def controller_seed(authorized_key: str, host_key: bytes, host_key_pub: str, network: str = "") -> bytes:
    """The seed of a controller: whose key it accepts, which host key it shows, and, unless it shall ask for
    its address by DHCP, networkd's file."""
    files = {
        "/root/.ssh/authorized_keys": (f"{authorized_key.strip()}\n".encode(), 0o600),
        "/etc/ssh/ssh_host_ed25519_key.pub": (f"{host_key_pub.strip()}\n".encode(), 0o644),
        "/etc/ssh/ssh_host_ed25519_key": (host_key, 0o600),
    }
    if network:
        files["/etc/systemd/network/05-refloat.network"] = (network.encode(), 0o644)
    return render_seed(files)


def static_network(address: str, gateway: str) -> str:
    """networkd's file for a static address ("10.0.0.5/24"); no gateway is fine: the hub comes to it."""
    route = f"Gateway={gateway}\n" if gateway else ""
    return (
        "[Match]\nType=ether\n\n"
        "[Network]\nDHCP=no\nLinkLocalAddressing=no\nIPv6AcceptRA=no\nConfigureWithoutCarrier=yes\n"
        f"Address={address}\n{route}"
    )


def _tar(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    """In the order given: the host key, whose presence says that the seed was used, comes last."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, (content, mode) in files.items():
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size, member.mode = len(content), mode
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
