"""Certificates for tests of TLS: two CAs, a server, and clients with and without a right to connect."""

import datetime
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LONG_AGO = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
ROLES = """
# who may do what
DNS:Reader.example       read
email:writer@example.org write

  # indented
URI:urn:shop:admin       admin
"""


@dataclass(frozen=True)
class Certificates:
    """A folder with files in PEM form. Those of servers and clients hold the key, too."""

    folder: Path

    def __call__(self, name: str) -> str:
        """Return the path of `ca`, `other-ca`, `server`, `reader` and so on."""
        return str(self.folder / f"{name}.pem")

    @property
    def roles(self) -> str:
        """The path of a list of roles."""
        return str(self.folder / "roles")


def make_certificates(folder: Path) -> Certificates:
    """Write `ca`, `server`, `reader`, `writer`, `admin`, `unnamed`, `expired`, `other-ca` and `stranger`."""
    made = Certificates(folder)
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(made("ca"))
    other.cert_pem.write_to_path(made("other-ca"))
    for name, names in {
        "server": ("localhost", "127.0.0.1"),
        "reader": ("reader.example",),
        "writer": ("writer@example.org", "not-named.example"),
        "unnamed": ("unnamed.example",),
    }.items():
        ca.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(made(name))
    expired = ca.issue_cert("reader.example", not_before=LONG_AGO, not_after=LONG_AGO + datetime.timedelta(days=9))
    expired.private_key_and_cert_chain_pem.write_to_path(made("expired"))
    other.issue_cert("reader.example").private_key_and_cert_chain_pem.write_to_path(made("stranger"))
    Path(made("admin")).write_bytes(issue(ca, [x509.UniformResourceIdentifier("urn:shop:admin")]))
    Path(made.roles).write_text(ROLES)
    return made


def issue(ca: trustme.CA, names: list[x509.GeneralName], common_name: str = "") -> bytes:
    """Return a certificate of any names, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
    issuer = x509.load_pem_x509_certificate(ca.cert_pem.bytes())
    ca_key = serialization.load_pem_private_key(ca.private_key_pem.bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(issuer.subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not common_name)
    certificate = builder.sign(ca_key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)
