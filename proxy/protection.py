"""Protection of a message on its sender's behalf: check the send code, sign, encrypt (DESIGN, journey step 2).

Invariants: the send code is gone before anything else happens; nothing leaves when the directory cannot answer; a clear
message leaves only signed; a signature that came with the message is kept byte for byte, and must be its owner's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

import mime
import smime
from directory import Directory, DirectoryError, DirectoryUnavailable
from mailstore import Account, Event, OutgoingCopy, Store
from proxy import codes
from proxy.keys import KeyRing
from proxy.model import Opened, Protected, Refusal
from proxy.policy import EncryptPolicy, ProxyPolicy, SignPolicy
from proxy.results import authentication_results

_CODE_REFUSED = Refusal(
    550,
    "5.7.8",
    f"code d'envoi absent ou refuse : verifier le champ {codes.CODE_FIELD} ou demander un nouveau code a l'operateur",
    f"send code missing or refused: check the {codes.CODE_FIELD} field or ask the operator for a new code",
)
_DIRECTORY_DOWN = Refusal(
    451,
    "4.4.3",
    "annuaire injoignable, le message n'a pas ete pris : reessayer",
    "directory unreachable, message not taken: try again",
)


@dataclass(frozen=True, slots=True)
class _Recipients:
    """Who can be encrypted to. Addresses keep the sender's order."""

    certificates: dict[str, x509.Certificate]
    without: tuple[str, ...]


class Protector:
    """The proxy of one operator. Thread safe: all state is in the store and the directory.

    `signers` and `recipients` check certificate paths for signing and for being encrypted to.
    """

    def __init__(
        self,
        store: Store,
        directory: Directory,
        policy: ProxyPolicy,
        *,
        signers: smime.PathChecker,
        recipients: smime.PathChecker,
        is_local: Callable[[str], bool],
    ) -> None:
        self._store = store
        self._keys = KeyRing(store)
        self._directory = directory
        self._policy = policy
        self._signers = signers
        self._encryption = recipients
        self._is_local = is_local

    def protect(self, raw: bytes, *, sender: Account, recipients: Sequence[str], at: datetime) -> Protected | Refusal:
        """Sign and encrypt `raw` (RFC 5322, CRLF) for its recipients, or say why not.

        Raises mailstore.StoreError when the store cannot answer; smime errors never leave.
        """
        shown = mime.parse(raw).get_all(codes.CODE_FIELD)
        clear = mime.without_fields(raw, {codes.CODE_FIELD})
        kind = smime.outermost(clear).kind
        if kind is smime.LayerKind.ENVELOPED:
            return self._as_is(clear, recipients)
        if kind is not smime.LayerKind.CLEAR:
            return self._already_signed(clear, sender, recipients, at)
        code_id = self._matching_code(shown, sender, at)
        needed = self._policy.sign[sender.kind] is SignPolicy.WITH_CODE
        if code_id is None and needed:
            return _code_refused(sender, "refused" if shown else "absent")
        answer = self._sign_and_encrypt(clear, sender, recipients, at, code_id or "")
        # Counted last: a message put off (directory down) comes back with the same code.
        if isinstance(answer, Protected) and code_id and not self._store.use_send_code(code_id, at) and needed:
            return _code_refused(sender, "refused")
        return answer

    def _sign_and_encrypt(
        self, clear: bytes, sender: Account, recipients: Sequence[str], at: datetime, code_id: str
    ) -> Protected | Refusal:
        signer = self._keys.signer(sender.address)
        # A signature made with a certificate out of date would be refused by every reader, after the 250.
        if signer is None or not signer.chain[0].not_valid_before_utc <= at <= signer.chain[0].not_valid_after_utc:
            return Refusal(
                550,
                "5.7.5",
                f"aucune cle de signature en cours de validite pour {sender.address} : demander a l'operateur d'en creer une",
                f"no valid signing key for {sender.address}: ask the operator to create one",
            )
        signed = smime.sign_message(clear, signer, at=at)
        event = Event("message.signed", {"dn": signer.chain[0].subject.rfc4514_string(), "code_id": code_id})
        return self._encrypt(clear, signed, recipients, at, event)

    def _already_signed(
        self, raw: bytes, sender: Account, recipients: Sequence[str], at: datetime
    ) -> Protected | Refusal:
        """A message signed at the desk: its signer must be the mailbox's owner (national id, or address for a structure)."""
        try:
            verifications = smime.verify_message(raw, at=at, path=self._signers)
        except smime.SmimeError as error:
            return _signature_refused(sender, error.code)
        clear = smime.clear_entity(raw)
        for one in verifications:
            certificate = one.signer_certificate
            if certificate is None or one.verdict is not smime.Verdict.VALID:
                continue
            if smime.speaks_for(certificate, sender.address, owner_id=sender.national_id):
                dn = certificate.subject.rfc4514_string()
                return self._encrypt(clear, raw, recipients, at, Event("message.signed_by_sender", {"dn": dn}))
        return _signature_refused(sender, ",".join(one.verdict for one in verifications) or "none")

    def _encrypt(
        self, clear: bytes, signed: bytes, recipients: Sequence[str], at: datetime, event: Event
    ) -> Protected | Refusal:
        try:
            found = self._find_certificates(recipients, at)
        except (DirectoryUnavailable, DirectoryError):
            return _DIRECTORY_DOWN
        if found.without and self._policy.encrypt is EncryptPolicy.REQUIRED:
            names = ", ".join(found.without)
            return Refusal(
                550,
                "5.7.5",
                f"pas de certificat dans l'annuaire pour {names}",
                f"no certificate in the directory for {names}",
            )
        encrypted = smime.encrypt_message(signed, list(found.certificates.values())) if found.certificates else b""
        local = {
            address: encrypted if address in found.certificates and not self._keys.opens_for(address) else signed
            for address in recipients
            if self._is_local(address)
        }
        away = [address for address in recipients if address not in local]
        groups = (
            (tuple(a for a in away if a in found.certificates), encrypted),
            (tuple(a for a in away if a not in found.certificates), signed),
        )
        copies = tuple(OutgoingCopy(names, content) for names, content in groups if names)
        done = Event(
            "message.encrypted",
            {
                "encrypted": ", ".join(name for name in found.certificates if local.get(name) is not signed),
                "signed_only": ", ".join(
                    name for name in recipients if name in found.without or local.get(name) is signed
                ),
            },
        )
        return Protected(clear, local, copies, (event, done))

    def _as_is(self, raw: bytes, recipients: Sequence[str]) -> Protected:
        """Encrypted by the sender: nothing can be looked at, and nothing is changed."""
        local = {address: raw for address in recipients if self._is_local(address)}
        away = tuple(address for address in recipients if address not in local)
        copies = (OutgoingCopy(away, raw),) if away else ()
        return Protected(b"", local, copies, (Event("message.encrypted_by_sender"),))

    def _find_certificates(self, recipients: Sequence[str], at: datetime) -> _Recipients:
        certificates: dict[str, x509.Certificate] = {}
        without: list[str] = []
        for address in recipients:
            usable = [
                certificate
                for certificate in self._directory.encryption_certificates(address, at)
                if smime.speaks_for(certificate, address)
                and self._encryption(certificate, (), at).trusted
                and _can_receive(certificate)
            ]
            if usable:
                certificates[address] = usable[0]
            else:
                without.append(address)
        return _Recipients(certificates, tuple(without))

    def _matching_code(self, shown: Sequence[str], sender: Account, at: datetime) -> str | None:
        """The identifier of the code shown, when it is this sender's, in force, and right. Its use is not yet counted."""
        letters = codes.normalise(shown[0]) if len(shown) == 1 else None
        if letters is None:
            return None
        for stored in self._store.send_codes(sender.id):
            if stored.code_id == codes.code_id(letters) and codes.matches(letters, stored.digest):
                used_up = stored.max_uses is not None and stored.uses >= stored.max_uses
                return None if used_up or stored.revoked_at is not None or stored.expires_at <= at else stored.code_id
        return None

    def open(self, raw: bytes, *, recipient: Account, sender: str, at: datetime) -> Opened:
        """Remove the encryption this operator holds the key of, and verify what is signed (journey step 6).

        Never raises on a bad message: it is then delivered as it came, with the verdict in `results`.
        """
        try:
            opened = smime.open_message(raw, self._keys.decryptors(recipient.address), at=at, path=self._signers)
        except smime.SmimeError as error:
            event = Event("message.not_opened", {"reason": error.code, "account": recipient.address})
            return Opened(raw, (f"smime=permerror reason={error.code}",), None, (event,))
        readable = opened.opened or not opened.encrypted
        detail = {
            "account": recipient.address,
            "encrypted": "yes" if opened.encrypted else "no",
            "opened": "yes" if opened.opened else "no",
            "verdicts": ", ".join(one.verdict for one in opened.verifications) or "unsigned",
            "problems": ", ".join(opened.problems),
        }
        return Opened(
            opened.content,
            authentication_results(
                opened.verifications, sender, owner_id=self._owner(sender) if opened.verifications else None
            ),
            smime.clear_entity(opened.content) if readable else None,
            (Event("message.opened", detail),),
        )

    def _owner(self, address: str) -> str | None:
        """The national identifier of a mailbox's owner; None when the directory does not know it or cannot answer."""
        try:
            entry = self._directory.by_address(address)
        except (DirectoryUnavailable, DirectoryError):
            return None
        return (entry.national_id or entry.structure_id) if entry is not None else None


def _can_receive(certificate: x509.Certificate) -> bool:
    """False for what the directory rightly publishes and our encryption does not do, such as elliptic curve keys."""
    try:
        smime.encrypt_entity(b"", [certificate])
    except (smime.UnsuitableCertificate, UnsupportedAlgorithm):
        return False
    return True


def _code_refused(sender: Account, reason: str) -> Refusal:
    return replace(_CODE_REFUSED, events=(Event("code.refused", {"account": sender.address, "reason": reason}),))


def _signature_refused(sender: Account, reason: str) -> Refusal:
    return Refusal(
        550,
        "5.7.7",
        f"la signature du message n'est pas valable ou n'est pas celle de {sender.address}",
        f"the message's signature is not valid or is not that of {sender.address}",
        (Event("signature.refused", {"account": sender.address, "reason": reason}),),
    )
