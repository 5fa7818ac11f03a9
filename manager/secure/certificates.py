"""A fleet's private certificate authority, and Redis's certificate."""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from manager.errors import SettingsError
from manager.system import atomic_file

CA_CERT: Final = "ca.crt"
CA_KEY: Final = "ca.key"
REDIS_CERT: Final = "redis.crt"
REDIS_KEY: Final = "redis.key"

#: Certificates are valid from this long before now, because the clocks of hosts differ.
_EARLIER: Final = timedelta(minutes=5)
_CA_DAYS: Final = 3650


def make_certificates(directory: Path, names: Sequence[str], days: int) -> list[Path]:
    """Write a new certificate for Redis, and a certificate authority if none exists.

    The certificate has these names and addresses and is valid for `days`. Returns the written files. Raises
    SettingsError if the package `cryptography` is missing, or if the authority's files are missing, invalid
    or expired.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
    except ImportError:
        raise SettingsError(
            "certificates need the package cryptography: run pip install 'worker-manager[secure]'"
        ) from None

    now = datetime.now(UTC)
    written: list[Path] = []

    def pem(key: Any) -> bytes:
        found: bytes = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return found

    def named(text: str) -> Any:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def builder(subject: Any, issuer: Any, key: Any, life: timedelta) -> Any:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _EARLIER)
            .not_valid_after(now + life)
        )

    cert_path, key_path = directory / CA_CERT, directory / CA_KEY
    if cert_path.exists() != key_path.exists():
        present, missing = (cert_path, key_path) if cert_path.exists() else (key_path, cert_path)
        raise SettingsError(
            f"{present} exists but {missing.name} is missing: restore it, or move {present.name} away to "
            "create a new authority (then copy the new ca.crt to every host)"
        )
    if cert_path.exists():
        try:
            authority = x509.load_pem_x509_certificate(cert_path.read_bytes())
            loaded = serialization.load_pem_private_key(key_path.read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            raise SettingsError(
                f"{cert_path} and {key_path} are not a readable authority ({error}): restore them from a "
                "backup"
            ) from None
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise SettingsError(f"{key_path} was not created by this command: restore the original key")
        if loaded.public_key() != authority.public_key():
            raise SettingsError(
                f"{cert_path} and {key_path} do not belong together: restore the matching files"
            )
        if authority.not_valid_after_utc <= now + timedelta(days=1):
            raise SettingsError(
                f"{cert_path} expires on {authority.not_valid_after_utc:%Y-%m-%d}: move it and "
                f"{key_path.name} away to create a new authority, then copy the new ca.crt to every host"
            )
        authority_key = loaded
    else:
        authority_key = ec.generate_private_key(ec.SECP256R1())
        subject = named("Worker Manager fleet")
        authority = (
            builder(subject, subject, authority_key, timedelta(days=_CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(x509, signs=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False
            )
            .sign(authority_key, hashes.SHA256())
        )
        written.append(atomic_file.write(key_path, pem(authority_key), durable=True))
        written.append(
            atomic_file.write(cert_path, authority.public_bytes(serialization.Encoding.PEM), durable=True)
        )
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        builder(named(names[0][:64]), authority.subject, key, timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(x509, signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_alternative(x509, name) for name in names]), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    written.append(atomic_file.write(directory / REDIS_KEY, pem(key), durable=True))
    written.append(
        atomic_file.write(
            directory / REDIS_CERT, certificate.public_bytes(serialization.Encoding.PEM), durable=True
        )
    )
    return written


def certificate_names(directory: Path) -> tuple[str, ...]:
    """Return the names and addresses in Redis's certificate; empty without a file."""
    try:
        from cryptography import x509

        certificate = x509.load_pem_x509_certificate((directory / REDIS_CERT).read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ImportError, OSError, ValueError, LookupError):
        return ()
    return tuple(str(name.value) for name in names)


def _usage(x509: Any, *, signs: bool) -> Any:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(x509: Any, name: str) -> Any:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
