"""A practice public key infrastructure in the shape of IGC-Santé, for demonstrations, tests and training.

Invariants: every authority's name says TEST and PRATIQUE, so that no certificate can be taken for a real one; private
keys are 0600 in a 0700 folder; what is issued carries the extensions that real certificates carry (mssante.md §1.1,
§2; cps-card.md §3.8), so that code written against it meets no surprise later. The folder is laid out like an
operator's trust folder (anchors/, intermediates/, crl/, listeblanche.xml), with private/ beside.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trustspace import pem
from trustspace.issuing import (
    PRACTICE_ORGANISATION,
    CaPlan,
    Issued,
    Profile,
    build_crl,
    issue,
    key_usage,
    new_authority,
    professional_name,
    structure_name,
)
from trustspace.model import ListedDomain, TrustSpaceError, canonical_domain
from trustspace.revocation import issued_by
from trustspace.signing import sign_white_list

PRACTICE_SIGNER_CN = "alb.practice"
"""Common name of the practice list's signer (the real one is alb.mssante.fr)."""
WHITE_LIST_FILE = "listeblanche.xml"

OrganisationUsage = Literal["auth", "sign", "smime"]
ProfessionalUsage = Literal["auth", "sign", "encrypt"]

_PLANS = (
    CaPlan("TEST-ACR-EL", "TEST AC RACINE IGC-SANTE ELEMENTAIRE", None),
    CaPlan("TEST-ACR-FO", "TEST AC RACINE IGC-SANTE FORT", None),
    CaPlan("TEST-ACI-EL-ORG", "TEST AC IGC-SANTE ELEMENTAIRE ORGANISATIONS", "TEST-ACR-EL"),
    CaPlan("TEST-ACI-FO-PP", "TEST AC IGC-SANTE FORT PERSONNES", "TEST-ACR-FO"),
)
_ORGANISATIONS = "TEST-ACI-EL-ORG"
_PERSONS = "TEST-ACI-FO-PP"

_AUTHENTICATION = key_usage(digital_signature=True, key_encipherment=True)
_SIGNATURE = key_usage(digital_signature=True, content_commitment=True)
_SERVER = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
_CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)
_EMAIL = (ExtendedKeyUsageOID.EMAIL_PROTECTION,)


def is_practice(certificate: x509.Certificate) -> bool:
    """Whether a certificate is a practice authority's own, which no production trust space may hold."""
    names = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return any(name.value == PRACTICE_ORGANISATION for name in names)


class PracticeAuthority:
    """The practice authorities: issues, revokes, writes CRLs and signs white lists. Thread safe."""

    def __init__(self, folder: Path, authorities: Mapping[str, Issued], signer: Issued) -> None:
        """Use `create` or `open`."""
        self.folder = folder
        self._authorities = dict(authorities)
        self._signer = signer
        self._lock = threading.Lock()

    @classmethod
    def create(cls, folder: Path, *, at: datetime, ca_key_size: int = 2048) -> Self:
        """Make the authorities, their folder and first CRLs, valid from `at` (aware UTC).

        RSA 2048 authorities by default, to be quick; the real ones are RSA 4096. Raises TrustSpaceError when the
        folder holds a practice authority already.
        """
        private = pem.private_folder(folder / "private")
        if (private / "state.json").exists():
            raise TrustSpaceError("there is a practice authority in this folder already")
        for name in ("anchors", "intermediates", "crl"):
            (folder / name).mkdir(exist_ok=True)
        authorities: dict[str, Issued] = {}
        for plan in _PLANS:
            parent = authorities[plan.parent] if plan.parent else None
            issued = authorities[plan.file] = new_authority(plan, parent, at, ca_key_size)
            pem.write_private(private / f"{plan.file}.key", pem.key_to_pem(issued.key))
            pem.write_public(_certificate_path(folder, plan), pem.chain_to_pem(issued.chain))
        subject = structure_name(PRACTICE_SIGNER_CN, PRACTICE_ORGANISATION, "300000000000000", "Paris (75)")
        profile = Profile(_SIGNATURE, _EMAIL, (x509.RFC822Name("alb@practice.invalid"),))
        signer = issue(authorities[_ORGANISATIONS], _ORGANISATIONS, subject, profile, at)
        signer.write(private, "list-signer")
        authority = cls(folder, authorities, signer)
        pem.write_private(authority._state_path, json.dumps({"crl_number": 0, "revoked": []}).encode())
        authority.write_crls(at)
        return authority

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The authorities made in `folder` by `create`. Raises pem.UnreadableFile."""
        private = folder / "private"
        authorities = {
            plan.file: Issued.read(_certificate_path(folder, plan), private / f"{plan.file}.key") for plan in _PLANS
        }
        return cls(folder, authorities, Issued.read(private / "list-signer.pem", private / "list-signer.key"))

    @property
    def anchors(self) -> tuple[x509.Certificate, ...]:
        """The root certificates."""
        return tuple(self._authorities[plan.file].certificate for plan in _PLANS if plan.parent is None)

    @property
    def intermediates(self) -> tuple[x509.Certificate, ...]:
        """The intermediate certificates."""
        return tuple(self._authorities[plan.file].certificate for plan in _PLANS if plan.parent is not None)

    @property
    def list_signer(self) -> x509.Certificate:
        """The certificate that signs the white list."""
        return self._signer.certificate

    @property
    def signer(self) -> Issued:
        """The pair that signs the white list."""
        return self._signer

    def issue_server(
        self,
        cn: str,
        organisation: str,
        structure_id: str,
        department: str,
        *,
        dns: Sequence[str] = (),
        ips: Sequence[str] = (),
        at: datetime,
    ) -> Issued:
        """A server certificate (SSL_SERV) for both roles of an operator, subject as mssante.md §2.

        `structure_id` is type digit + number (`1`+FINESS, `3`+SIRET); `department` like "Paris (75)". The common name
        is also a DNS alternative name when it is a host name.
        """
        hosts = dict.fromkeys([*([cn] if _is_host(cn) else []), *dns])
        names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
        names += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips]
        subject = structure_name(cn, organisation, structure_id, department)
        return self._issue(_ORGANISATIONS, subject, Profile(_AUTHENTICATION, _SERVER, tuple(names)), at)

    def issue_organisation(
        self,
        cn: str,
        organisation: str,
        structure_id: str,
        department: str,
        *,
        usage: OrganisationUsage,
        email: str | None = None,
        at: datetime,
    ) -> Issued:
        """An organisation certificate: `auth` (AUTH_CLI), `sign` (SIGN) or `smime` (signs, and is encrypted to)."""
        names = (x509.RFC822Name(email),) if email else ()
        both = key_usage(digital_signature=True, content_commitment=True, key_encipherment=True)
        profiles = {
            "auth": Profile(_AUTHENTICATION, _CLIENT, names),
            "sign": Profile(_SIGNATURE, (), names),
            "smime": Profile(both, _EMAIL, names),
        }
        subject = structure_name(cn, organisation, structure_id, department)
        return self._issue(_ORGANISATIONS, subject, profiles[usage], at)

    def issue_professional(
        self,
        national_id: str,
        surname: str,
        given_name: str,
        profession: str,
        *,
        usage: ProfessionalUsage,
        email: str | None,
        at: datetime,
    ) -> Issued:
        """A professional's certificate as on a CPS card (cps-card.md §3.8): CN, SN and GN share one RDN.

        `national_id` is "8" + RPPS (12 digits) or "0" + ADELI; `profession` is the French title.
        """
        names = (x509.RFC822Name(email),) if email else ()
        profiles = {
            "auth": Profile(_AUTHENTICATION, _CLIENT, names),
            "sign": Profile(_SIGNATURE, _EMAIL, names),
            "encrypt": Profile(key_usage(key_encipherment=True), _EMAIL, names),
        }
        subject = professional_name(national_id, surname, given_name, profession)
        return self._issue(_PERSONS, subject, profiles[usage], at)

    def revoke(self, certificate: x509.Certificate, at: datetime) -> None:
        """Revoke a certificate issued here, and write new CRLs at once. Raises TrustSpaceError for a foreign one."""
        issuers = [file for file, ca in self._authorities.items() if issued_by(certificate, ca.certificate)]
        if not issuers:
            raise TrustSpaceError("not a certificate of this practice authority")
        entry = {"issuer": issuers[0], "serial": str(certificate.serial_number), "at": at.astimezone(UTC).isoformat()}
        with self._lock:
            state = self._state()
            state["revoked"].append(entry)
            pem.write_private(self._state_path, json.dumps(state).encode())
        self.write_crls(at)

    def write_crls(self, at: datetime, days: float = 30) -> None:
        """Write one CRL (DER) per authority in crl/, valid from `at` for `days`, each with a higher number."""
        with self._lock:
            state = self._state()
            state["crl_number"] += 1
            pem.write_private(self._state_path, json.dumps(state).encode())
            for file, authority in self._authorities.items():
                revoked = [
                    (int(entry["serial"]), datetime.fromisoformat(entry["at"]))
                    for entry in state["revoked"]
                    if entry["issuer"] == file
                ]
                crl = build_crl(authority, revoked, at, days, state["crl_number"])
                pem.write_public(self.folder / "crl" / f"{file}.crl", crl.public_bytes(Encoding.DER))

    def publish_white_list(self, entries: Sequence[ListedDomain], at: datetime) -> bytes:
        """Sign a white list of `entries`, dated `at`, write it as listeblanche.xml in the folder, and return it."""
        xml = sign_white_list(entries, at=at, key=self._signer.key, certificate=self._signer.certificate)
        path = self.folder / WHITE_LIST_FILE
        pem.write_public(path, xml)
        # TrustSpace measures staleness from the file's date: a list published "then" is as old as it says.
        os.utime(path, (at.timestamp(), at.timestamp()))
        return xml

    def copy_trust(self, target: Path) -> None:
        """Give an operator what it needs to trust this authority: anchors, intermediates, CRLs and the white list."""
        for name in ("anchors", "intermediates", "crl"):
            (target / name).mkdir(parents=True, exist_ok=True)
            for source in sorted((self.folder / name).iterdir()):
                if not source.name.startswith("."):
                    pem.write_public(target / name / source.name, source.read_bytes())
        white_list = self.folder / WHITE_LIST_FILE
        if white_list.exists():
            pem.write_public(target / WHITE_LIST_FILE, white_list.read_bytes())
            shutil.copystat(white_list, target / WHITE_LIST_FILE)

    def _issue(self, file: str, subject: x509.Name, profile: Profile, at: datetime) -> Issued:
        return issue(self._authorities[file], file, subject, profile, at)

    @property
    def _state_path(self) -> Path:
        return self.folder / "private" / "state.json"

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self._state_path.read_bytes())
        return state


def _certificate_path(folder: Path, plan: CaPlan) -> Path:
    return folder / ("intermediates" if plan.parent else "anchors") / f"{plan.file}.pem"


def _is_host(name: str) -> bool:
    try:
        return canonical_domain(name) == name.lower()
    except ValueError:
        return False
