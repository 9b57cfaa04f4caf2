"""What goes wrong at vSphere, as errors of ours with a hint."""

from __future__ import annotations

import socket
import ssl
from typing import Any

from pyVmomi import vim, vmodl

from refloat.errors import Busy, Failed, NotFound, RefloatError, Refused, Unreachable
from refloat.sources.vsphere_settings import VsphereSettings


class CertificateDiffers(Exception):
    """`seen` is the thumbprint of the certificate that the server showed."""

    def __init__(self, seen: str) -> None:
        super().__init__(seen)
        self.seen = seen


class BadAnswer(Exception):
    """An answer that does not say what the API's description promises."""


_HOST_LOST = (
    vim.fault.HostConnectFault,
    vmodl.fault.HostNotConnected,
    vmodl.fault.HostNotReachable,
    vmodl.fault.HostCommunication,
)


def translate(error: Any, what: str, settings: VsphereSettings) -> RefloatError:
    """The error of ours for one of vSphere's, of TLS or of the network; `what` says what was tried.

    Who cannot log in knows nothing of the VM's state, as little as who gets no answer: that is Unreachable.
    """
    site = settings.name
    if isinstance(error, CertificateDiffers):
        return Unreachable(
            f"{what}: {site} shows a certificate with the thumbprint {error.seen}: not the pinned one",
            code="vsphere_certificate",
            hint="find out why first; a renewed certificate needs its thumbprint in the estate file",
        )
    if isinstance(error, BadAnswer):
        return Failed(
            f"{what}: {site} gave an answer that cannot be understood: {error}",
            code="vsphere_answer",
            hint="this is a defect: please report it with the version of vCenter",
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return Unreachable(
            f"{what}: the certificate of {site} is not trusted: {error.verify_message}",
            code="vsphere_certificate",
            hint="name the authority's file as ca_file, or pin the certificate's thumbprint: docs/vsphere.md",
        )
    if isinstance(error, TimeoutError | socket.timeout):
        return Unreachable(
            f"{what}: {site} did not answer within {settings.timeout:.0f} s",
            hint="is vCenter up? The site's `timeout` may be raised",
        )
    if not isinstance(error, vmodl.MethodFault):
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Unreachable(
            f"{what}: no answer from {site}: {reason}", hint="is it up, and reachable from the hub?"
        )
    return _of_fault(error, what, settings)


def _of_fault(error: Any, what: str, settings: VsphereSettings) -> RefloatError:
    name = type(error).__name__.rpartition(".")[2]
    message = f"{what}: {settings.name} says {name}: {error.msg or 'no message'}"
    if isinstance(error, vim.fault.InvalidLogin):
        return Unreachable(
            f"{what}: {settings.name} does not accept the user {settings.user} with the password in "
            f"{settings.password}",
            code="vsphere_login",
            hint="mend the password there; several wrong ones may lock the account",
        )
    if isinstance(error, vim.fault.NotAuthenticated):
        return Unreachable(
            message, code="vsphere_login", hint="its sessions end at once: look at vCenter's log"
        )
    if isinstance(error, vim.fault.NoPermission):
        return Refused(
            f"{what}: {settings.user} lacks the privilege {error.privilegeId} on {_moid(error.object)}",
            code="vsphere_permission",
            hint="give the role this privilege: docs/vsphere.md lists all that are needed",
        )
    if isinstance(error, vmodl.fault.ManagedObjectNotFound):
        return NotFound(message, code="no_such_vm", hint="was it deleted or unregistered meanwhile?")
    if isinstance(error, _HOST_LOST):
        return Unreachable(
            message, code="host_disconnected", hint="the ESXi host does not answer its vCenter"
        )
    if isinstance(error, vim.fault.TaskInProgress | vim.fault.ConcurrentAccess):
        return Busy(
            message, code="vsphere_busy", hint="another task works on this VM: try again when it has ended"
        )
    return Failed(
        message,
        code=f"vsphere_{name}",
        hint="the VM's tasks and events in vCenter say more",
    )


def _moid(thing: Any) -> str:
    return getattr(thing, "_moId", None) or "an object"
