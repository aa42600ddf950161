"""Certificates of the secure line: X.509 on ECDSA P-256, made and read.

An authority signs one certificate for each peer. Who a peer is stands in its certificate, as a URI among
the subject's alternative names, `tmrl://worker/robot-1`: one string has name and role, it means nothing to
any other program, and gRPC hands it out as it is. The common name repeats the name for other tools, and is
not relied on. The extended key usage keeps a worker from posing as the server, and the server from posing
as one.

Robots boot with clocks that are wrong, so a certificate is valid from a day before it was made.

This is the one module that loads `cryptography`; it is imported where it is used.
"""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tmrl.errors import CredentialError

AUTHORITY_DAYS = 3652
"""Ten years."""
BACKDATED = timedelta(days=1)

_URI = re.compile(r"tmrl://(worker|trainer|server)/([A-Za-z0-9._-]{1,64})")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key; the key is in no repr."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate = field(repr=False)

    @property
    def key_pem(self) -> bytes:
        """The private key, PKCS #8 without a password."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @property
    def cert_pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def make_authority(now: datetime) -> KeyPair:
    """Makes a certificate authority of its own, which signs peers and no other authorities."""
    key = ec.generate_private_key(ec.SECP256R1())
    # A random part, so that two authorities are never taken for one another.
    name = _named(f"tmrl authority {secrets.token_hex(4)}")
    builder = (
        _builder(name, name, key, now, now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(is_authority=True), critical=True)
    )
    return KeyPair(key, builder.sign(key, hashes.SHA256()))


def issue(
    authority: KeyPair, role: str, name: str, days: int, now: datetime, hosts: Sequence[str] = ()
) -> KeyPair:
    """Makes a key and a certificate for a peer.

    Args:
        authority: Who signs.
        role: "worker", "trainer" or "server".
        name: The peer's name, 1 to 64 of `[A-Za-z0-9._-]`.
        days: How long it is valid.
        now: The time, with its zone.
        hosts: Of a server: the DNS names and IP addresses at which it is reached.

    Raises:
        ValueError: It would be valid for no day, or longer than the authority.
    """
    left = (authority.certificate.not_valid_after_utc - now).days
    if not 1 <= days <= left:
        raise ValueError(
            f"days must be at least 1 and at most {left}, when the authority expires, got {days}; "
            "give other --days, or make new credentials in another folder"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate.subject
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if role == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
    names = [x509.UniformResourceIdentifier(f"tmrl://{role}/{name}"), *map(_alternative, hosts)]
    by = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = (
        _builder(_named(name), issuer, key, now, now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(is_authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(by, critical=False)
    )
    return KeyPair(key, builder.sign(authority.key, hashes.SHA256()))


def read_certificate(pem: bytes, what: str, remedy: str) -> x509.Certificate:
    """Parses a certificate.

    Raises:
        CredentialError: It is none; the message begins with `what` and ends with `remedy`.
    """
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise CredentialError(f"{what} is damaged: it holds no certificate; {remedy}") from error


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER bytes, 64 hexadecimal digits."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def read_pair(key_pem: bytes, certificate: x509.Certificate, what: str, remedy: str) -> KeyPair:
    """Parses a private key and checks that it is that of a certificate.

    Raises:
        CredentialError: It is no key on P-256, or that of another certificate.
    """
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Not `from error`: nothing that saw the key goes into a traceback.
        raise CredentialError(f"{what} is damaged: it holds no private key; {remedy}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise CredentialError(f"{what} is damaged: its key is that of another certificate; {remedy}")
    return KeyPair(key, certificate)


def check_signed(certificate: x509.Certificate, authority: x509.Certificate, what: str, remedy: str) -> None:
    """Checks that an authority signed a certificate.

    Raises:
        CredentialError: It did not.
    """
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise CredentialError(f"{what} is signed by another authority; {remedy}") from error


def check_time(certificate: x509.Certificate, now: datetime, what: str, remedy: str) -> None:
    """Checks that a certificate is valid at a time.

    Raises:
        CredentialError: It is not yet, or no more.
    """
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begin:
        raise CredentialError(
            f"{what} is not yet valid: it begins {begin:%Y-%m-%d %H:%M} UTC, and this machine's clock says "
            f"{now:%Y-%m-%d %H:%M} UTC; set the clock"
        )
    if now > end:
        raise CredentialError(
            f"{what} expired {end:%Y-%m-%d %H:%M} UTC; {remedy}, or set the clock if it is wrong"
        )


def role_and_name(certificate: x509.Certificate, what: str, remedy: str) -> tuple[str, str]:
    """The role and the name that a certificate gives its owner.

    Raises:
        CredentialError: It gives none, or several.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        uris = []
    found = [match for uri in uris if (match := _URI.fullmatch(uri))]
    if len(uris) != 1 or not found:
        raise CredentialError(f"{what} must name one tmrl worker, trainer or server, and does not; {remedy}")
    return found[0][1], found[0][2]


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)
