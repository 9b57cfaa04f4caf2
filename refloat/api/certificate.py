"""The certificate that the hub shows to guests: the operator's, or one that it makes for itself.

Guests trust that one certificate and nothing else, so nobody has to sign it. It is valid from 2000 on: the
clock of a machine that was just recovered may be years behind.
"""

from __future__ import annotations

import ipaddress
import os
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from refloat.durable import write_durably

_FROM = datetime(2000, 1, 1, tzinfo=UTC)
_UNTIL = datetime(2049, 12, 31, tzinfo=UTC)


def own_certificate(directory: Path, host: str) -> tuple[Path, Path]:
    """Certificate and key (PEM files) for this host name or address; made where there are none for it."""
    certificate, key = directory / "reports.crt", directory / "reports.key"
    if not (certificate.exists() and key.exists() and _is_for(certificate, host)):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        private = ec.generate_private_key(ec.SECP256R1())
        form = serialization.PrivateFormat.PKCS8
        content = private.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        write_durably(key, content)
        os.chmod(key, 0o600)
        write_durably(certificate, _make(private, host).public_bytes(serialization.Encoding.PEM))
    return certificate, key


def _is_for(file: Path, host: str) -> bool:
    names = x509.load_pem_x509_certificate(file.read_bytes()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    return list(names.value) == [_name(host)]


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _make(private: ec.EllipticCurvePrivateKey, host: str) -> x509.Certificate:
    """Self-signed, with all that strict verifiers want of an authority and of a server."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Refloat reports")])
    public = private.public_key()
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder(name, name, public, x509.random_serial_number(), _FROM, _UNTIL)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_name(host)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
    )
    return builder.sign(private, hashes.SHA256())
