"""A vCenter with two VMs on one host, in a process that ends with the test."""

from __future__ import annotations

import datetime
import ipaddress
import json
import select
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from refloat.secret import SecretRef
from refloat.sources.vsphere import VsphereSource
from refloat.sources.vsphere_settings import VsphereSettings
from tests.vcsim.build import binary

USER, PASSWORD = "refloat@vsphere.local", "s3cret-ö'\"&<"
MIB = 1 << 20
_STAND_IN = Path(__file__).parent / "stand_in.py"
_STARTS_WITHIN = 30.0


class Certificate:
    """A self-signed one for 127.0.0.1, which is its own authority."""

    def __init__(self, directory: Path, name: str) -> None:
        self.file, self.key = directory / f"{name}.pem", directory / f"{name}.key"
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(key, hashes.SHA256())
        )
        self.sha256, self.sha1 = (
            made.fingerprint(hashes.SHA256()).hex(),
            made.fingerprint(hashes.SHA1()).hex(),
        )
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        form = serialization.PrivateFormat.PKCS8
        self.key.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        )


class VcSim:
    """`vm` is the protected VM: two disks with content in `files`, one adapter, Tools that run."""

    vm = "DC0_H0_VM0"
    other = "DC0_H0_VM1"
    path = "DC0/vm/DC0_H0_VM0"

    def __init__(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="refloat-vcsim-")
        self.directory = Path(self._scratch.name)
        self.certificate = Certificate(self.directory, "first")
        self.password_file = self.directory / "password"
        self.password_file.write_text(f"{PASSWORD}\n")
        argv = [str(binary()), str(self.directory), str(self.certificate.file), str(self.certificate.key)]
        self._process = subprocess.Popen(
            [*argv, USER, PASSWORD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        if not select.select([self._process.stdout], [], [], _STARTS_WITHIN)[0]:
            raise AssertionError("the simulator does not start")
        places = json.loads(self._process.stdout.readline())
        self.port, self._control = int(places["port"]), str(places["control"])
        self.files = {"2000": self.directory / "sda.raw", "2001": self.directory / "sdb.raw"}
        self._sources: list[VsphereSource] = []
        self.reset()

    # ------------------------------------------------------------ the driver

    def settings(self, **changes: Any) -> VsphereSettings:
        reader = (sys.executable, str(_STAND_IN), str(self.directory), PASSWORD)
        places = ("{socket}", "{password_file}", "{vm}", "{snapshot}", "{disk}")
        plain = VsphereSettings(
            "127.0.0.1",
            self.port,
            USER,
            SecretRef(file=str(self.password_file)),
            self.certificate.sha256,
            reader=(*reader, *places),
            timeout=10,
            task_timeout=20,
        )
        return replace(plain, **changes)

    def source(self, **changes: Any) -> VsphereSource:
        made = VsphereSource(self.settings(**changes))
        self._sources.append(made)
        return made

    # ------------------------------------------------------------ what the world does

    def reset(self) -> None:
        """The protected VM as every test finds it first."""
        for key, size in (("2000", 4 * MIB + 65536), ("2001", 2 * MIB)):
            self.files[key].write_bytes(bytes(size))
        self.set(
            Firmware="efi",
            SecureBoot=True,
            CPUs=4,
            Cores=2,
            Memory=4096,
            Tools="guestToolsRunning",
            Tracking=True,
            Power="poweredOn",
            Disks=[self.disk("2000", unit=0), self.disk("2001", unit=1)],
            Nics=[{"Kind": "vmxnet3", "Mac": "00:50:56:AA:BB:CC", "Network": "VM Network", "Slot": 192}],
            Guest=[self.guest()],
            Routes=[{"Device": "0", "Network": "0.0.0.0", "Prefix": 0, "Gateway": "10.20.30.1"}],
        )

    def disk(self, key: str, *, unit: int, **changes: Any) -> dict[str, Any]:
        plain = {
            "Controller": "pvscsi",
            "Unit": unit,
            "Capacity": self.files[key].stat().st_size,
            "File": str(self.files[key]),
            "Mode": "persistent",
            "UUID": f"6000C29{key}",
            "Name": f"[LocalDS_0] web/web-{key}.vmdk",
        }
        return {**plain, **changes}

    def guest(self, **changes: Any) -> dict[str, Any]:
        plain = {
            "Key": 4000,
            "Mac": "00:50:56:aa:bb:cc",
            "Addresses": [
                {"Address": "10.20.30.40", "Prefix": 24, "Origin": "manual"},
                {"Address": "fe80::250:56ff:feaa:bbcc", "Prefix": 64, "Origin": "linklayer"},
            ],
            "DHCP": False,
            "DNS": ["10.20.30.2"],
            "Search": ["example.org"],
        }
        return {**plain, **changes}

    def set(self, vm: str | None = None, **what: Any) -> str:
        """The VM's managed object id."""
        return str(self.order("vm", {"VM": vm or self.vm, **what}))

    def fault(self, method: str, **what: Any) -> None:
        self.order("fault", {"Method": method, **what})

    def write(self, key: str, offset: int, length: int, value: int) -> None:
        """As the guest would."""
        with self.files[key].open("r+b") as file:
            file.seek(offset)
            file.write(bytes([value]) * length)

    def calls(self) -> list[str]:
        """The API's methods that were called since the last time."""
        return list(self.order("calls", None))

    def order(self, verb: str, what: Any) -> Any:
        body = what.encode() if isinstance(what, str) else json.dumps(what).encode()
        with urllib.request.urlopen(f"http://{self._control}/{verb}", data=body, timeout=20) as answer:
            return json.loads(answer.read())

    def readers(self) -> list[dict[str, Any]]:
        """What the readers were told, so far."""
        log = self.directory / "readers.log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def stop(self) -> None:
        """vCenter goes down."""
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(20)

    def close(self) -> None:
        for source in self._sources:
            source.close()
        if self._process.poll() is None:
            self.stop()
        assert self._process.stdout
        self._process.stdout.close()
        self._scratch.cleanup()
