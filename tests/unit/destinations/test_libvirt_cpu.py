"""What libvirt's words about a processor become; that they are right is asked of libvirt in the contract."""

from __future__ import annotations

from typing import Any

import libvirt
import pytest

from refloat.destinations.libvirt_cpu import cpuinfo_names, guest_flags, present

MODEL = "<model fallback='forbid'>{}</model>"
HASWELL = (
    f"<cpu mode='custom' match='exact' check='full'>{MODEL.format('Haswell')}"
    "<feature policy='require' name='abm'/></cpu>"
)
DEFINED = f"<cpu mode='custom' match='exact' check='none'>{MODEL.format('Haswell')}</cpu>"
PASSTHROUGH = "<cpu mode='host-passthrough' check='none'/>"
EXPANDED = (
    "<cpu><model>x</model><feature policy='require' name='sse4.1'/><feature policy='disable' name='avx'/>"
    "<feature name='pclmuldq'/></cpu>"
)
HOST_MODEL = (
    "<domainCapabilities><cpu><mode name='host-model' supported='yes'>"
    "<model fallback='forbid'>EPYC</model><vendor>AMD</vendor></mode></cpu></domainCapabilities>"
)


def domain(cpu: str, arch: str = "x86_64") -> str:
    return (
        f"<domain type='kvm'><name>web</name><os><type arch='{arch}' machine='q35'>hvm</type></os>{cpu}"
        "<devices><emulator>/usr/bin/qemu</emulator></devices></domain>"
    )


class Connection:
    def __init__(self, error: int = 0) -> None:
        self.asked: list[Any] = []
        self.error = error

    def baselineHypervisorCPU(self, *arguments: Any) -> str:  # noqa: N802
        self.asked.append(arguments)
        if self.error:
            raise Trouble(self.error)
        return EXPANDED

    def getDomainCapabilities(self, *arguments: Any) -> str:  # noqa: N802
        assert arguments == ("/usr/bin/qemu", "x86_64", "q35", "kvm")
        return HOST_MODEL


class Trouble(libvirt.libvirtError):
    def __init__(self, code: int) -> None:
        super().__init__("trouble")
        self._code = code

    def get_error_code(self) -> int:
        return self._code

    def get_error_domain(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("live", "defined", "asked"),
    [
        (HASWELL, DEFINED, ("Haswell", "abm")),
        (HASWELL, "<cpu mode='host-model'/>", ("Haswell", "abm")),
        (PASSTHROUGH, PASSTHROUGH, ("EPYC", "AMD")),
    ],
)
def test_a_processor_that_runs_is_known(live: str, defined: str, asked: tuple[str, ...]) -> None:
    connection: Any = Connection()
    flags = guest_flags(connection, domain(live), domain(defined))
    assert flags == frozenset({"sse4_1", "pclmulqdq"})
    *hypervisor, (cpu,), expand = connection.asked[0]
    assert hypervisor == ["/usr/bin/qemu", "x86_64", "q35", "kvm"]
    assert expand == libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES
    assert all(word in cpu for word in asked)


@pytest.mark.parametrize(
    ("live", "defined"),
    [
        ("", ""),
        (DEFINED, DEFINED),  # libvirt did not ask QEMU
        (HASWELL, DEFINED.replace("Haswell", "qemu64")),  # the next start has another
        (HASWELL, DEFINED.replace("</cpu>", "<feature policy='require' name='abm'/></cpu>")),
        (PASSTHROUGH, DEFINED),
    ],
)
def test_a_processor_that_is_not_known(live: str, defined: str) -> None:
    connection: Any = Connection()
    assert guest_flags(connection, domain(live), domain(defined)) is None


def test_another_architecture_is_not_known() -> None:
    connection: Any = Connection()
    assert guest_flags(connection, domain(HASWELL, "aarch64"), domain(DEFINED, "aarch64")) is None


def test_a_libvirt_that_cannot_say_is_no_failure_but_one_that_is_away_is() -> None:
    silent: Any = Connection(libvirt.VIR_ERR_NO_SUPPORT)
    assert guest_flags(silent, domain(HASWELL), domain(DEFINED)) is None
    away: Any = Connection(libvirt.VIR_ERR_NO_CONNECT)
    with pytest.raises(libvirt.libvirtError):
        guest_flags(away, domain(HASWELL), domain(DEFINED))


def test_names() -> None:
    assert present(EXPANDED) == {"sse4.1", "pclmuldq"}
    assert cpuinfo_names(["tsc-deadline", "avx512-vpopcntdq", "lahf_lm", "sse4.2"]) == {
        "tsc_deadline_timer",
        "avx512_vpopcntdq",
        "lahf_lm",
        "sse4_2",
    }
