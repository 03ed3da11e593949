"""Protection of a message on its sender's behalf: check the send code, sign, encrypt (DESIGN, journey step 2).

Invariants: send codes are gone before anything else happens, quoted ones too; nothing leaves when the directory cannot
answer; a clear message leaves unsigned only for a mailbox whose policy says so; a signature that came with the message
is kept byte for byte, and must be its owner's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography import x509

import smime
from directory import Directory, DirectoryError, DirectoryUnavailable
from mailstore import Account, Event, OutgoingCopy, Store
from proxy import scrub
from proxy.checking import CodeDesk, CodeState, refused
from proxy.confirmation import confirmation
from proxy.keys import HeldSigner, KeyRing, Tokens
from proxy.model import Opened, Protected, Refusal
from proxy.policy import (
    ConfirmPolicy,
    CustodyPolicy,
    Effective,
    EncryptPolicy,
    HeaderPolicy,
    ProxyPolicy,
    SignPolicy,
    WithoutCertificate,
    effective,
)
from proxy.results import authentication_results

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


@dataclass(frozen=True, slots=True)
class _Handover:
    """One message being protected. `raw` has lost its codes; `accepts_clear` is what its sender said in the subject."""

    raw: bytes
    sender: Account
    recipients: Sequence[str]
    at: datetime
    policy: Effective
    accepts_clear: bool


class Protector:
    """The proxy of one operator. Thread safe: all state is in the store and the directory.

    `signers` and `recipients` check certificate paths for signing and for being encrypted to. `tokens` gives the keys
    that live in PKCS#11 tokens.
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
        tokens: Tokens | None = None,
    ) -> None:
        self._store = store
        self._keys = KeyRing(store, tokens)
        self._codes = CodeDesk(store)
        self._directory = directory
        self._policy = policy
        self._signers = signers
        self._encryption = recipients
        self._is_local = is_local
        self._heard = smime.CapabilityMemory()

    def protect(
        self,
        raw: bytes,
        *,
        sender: Account,
        recipients: Sequence[str],
        at: datetime,
        peer: str = "",
        vouched: bool = False,
    ) -> Protected | Refusal:
        """Sign and encrypt `raw` (RFC 5322, CRLF) for its recipients, or say why not.

        `peer` is the address the message came from, for codes limited to a network ("" when unknown). `vouched`: the road
        it came by proves whose it is (a hospital's feed known by its certificate), no code is asked for. Raises
        mailstore.StoreError when the store cannot answer; smime errors never leave.
        """
        policy = self.policy_of(sender)
        taken, given = scrub.take(raw)
        check = self._codes.check(given.codes, sender=sender, recipients=recipients, peer=peer, at=at)
        if isinstance(check, Refusal):
            return check
        clear = self._scrubbed(taken)
        case = _Handover(clear, sender, recipients, at, policy, given.accepts_clear)
        kind = smime.outermost(clear).kind
        if kind is smime.LayerKind.ENVELOPED:
            return self._as_is(clear, recipients)
        if kind is not smime.LayerKind.CLEAR:
            return self._already_signed(case, taken)
        needed = policy.sign is SignPolicy.WITH_CODE and not vouched
        if needed and check.state is CodeState.NONE:
            return refused(events=(Event("code.refused", {"account": sender.address, "reason": "absent"}),))
        if needed and check.state is CodeState.STALE:
            return self._codes.refuse(sender, "expired", at, check.code_id)
        answer = self._protect_clear(case, check.code_id)
        # Counted last: a message put off (directory down) comes back with the same code.
        good = isinstance(answer, Protected) and check.state is CodeState.GOOD
        if good and not self._codes.use(check.code_id, at) and needed:
            return self._codes.refuse(sender, "used up", at, check.code_id)
        return answer

    def policy_of(self, account: Account) -> Effective:
        """The policy in force for a mailbox, with the origin of each value. Raises BadPolicy, mailstore.StoreError."""
        domain = account.address.rpartition("@")[2]
        asked = self._store.policies((account.address, domain))
        return effective(account.address, account.kind, self._policy, asked)

    def _scrubbed(self, raw: bytes) -> bytes:
        """The message without the codes it quotes, from its sender's own earlier messages for instance."""
        candidates = scrub.quoted(raw)
        known = self._store.find_send_codes(candidates) if candidates else {}
        return scrub.without(raw, {name: candidates[name] for name in known})

    def _protect_clear(self, case: _Handover, code_id: str) -> Protected | Refusal:
        origin = case.policy.origins["sign"]
        if case.policy.sign is SignPolicy.OWN:
            return Refusal(
                550,
                "5.7.5",
                f"{case.sender.address} signe avec sa propre cle : signer le message avant de l'envoyer",
                f"{case.sender.address} signs with its own key: sign the message before sending it",
                (Event("signature.refused", {"account": case.sender.address, "reason": "unsigned", "rule": origin}),),
            )
        if case.policy.sign is SignPolicy.NEVER:
            return self._encrypt(case, case.raw, case.raw, Event("message.unsigned", {"rule": origin}))
        held = self._keys.signer(case.sender)
        # A signature made with a certificate out of date would be refused by every reader, after the 250.
        if held is None or not _in_force(held.signer.chain[0], case.at):
            return Refusal(
                550,
                "5.7.5",
                f"aucune cle de signature en cours de validite pour {case.sender.address} : "
                "demander a l'operateur d'en creer une",
                f"no valid signing key for {case.sender.address}: ask the operator to create one",
            )
        try:
            signed, to_seal = self._signed(case, held)
        except smime.SmimeError as error:
            return _key_failed(case.sender, error.code, held.key_id)
        detail = {
            "dn": held.signer.chain[0].subject.rfc4514_string(),
            "key_id": str(held.key_id),
            "code_id": code_id,
            "rule": f"{case.policy.sign.value} ({origin})",
        }
        return self._encrypt(case, case.raw, signed, Event("message.signed", detail), to_seal)

    def _signed(self, case: _Handover, held: HeldSigner) -> tuple[bytes, bytes]:
        """(signed message, the same to be encrypted: where the policy hides its Subject, another). What it states to read is
        what opens the mailbox's messages: this program, or one of which nothing is known."""
        signer, reads = held.signer, smime.OURS if held.opens else smime.COMMON
        headers = self._policy.headers
        mode = None if headers is HeaderPolicy.NONE else smime.HeaderMode.CLEAR
        signed = smime.sign_message(case.raw, signer, at=case.at, protect=mode, reads=reads)
        if headers is not HeaderPolicy.ENCRYPTED or case.policy.encrypt is EncryptPolicy.NEVER:
            return signed, signed
        return signed, smime.sign_message(case.raw, signer, at=case.at, protect=smime.HeaderMode.CIPHER, reads=reads)

    def _already_signed(self, case: _Handover, taken: bytes) -> Protected | Refusal:
        """A message signed at the desk: its signer must be the mailbox's owner (national id, or address for a structure)."""
        try:
            verifications = smime.verify_message(taken, at=case.at, path=self._signers)
            inside = smime.clear_entity(taken)
        except smime.SmimeError as error:
            return _signature_refused(case.sender, error.code)
        if self._scrubbed(inside) != inside:
            return _code_inside_signature(case.sender)
        raw = case.raw if smime.clear_entity(case.raw) == inside else taken
        self._heard.learn(verifications)
        for one in verifications:
            certificate = one.signer_certificate
            if certificate is None or one.verdict is not smime.Verdict.VALID:
                continue
            if smime.speaks_for(certificate, case.sender.address, owner_id=case.sender.national_id):
                dn = certificate.subject.rfc4514_string()
                return self._encrypt(case, inside, raw, Event("message.signed_by_sender", {"dn": dn}))
        return _signature_refused(case.sender, ",".join(one.verdict for one in verifications) or "none")

    def _encrypt(
        self, case: _Handover, clear: bytes, signed: bytes, event: Event, to_seal: bytes | None = None
    ) -> Protected | Refusal:
        try:
            found = self._recipients(case)
        except (DirectoryUnavailable, DirectoryError):
            return _DIRECTORY_DOWN
        objection = _without_certificate(case, found.without)
        if objection is not None:
            return objection
        encrypted = self._encrypted(case, to_seal or signed, found) if found.certificates else b""
        local = {
            address: encrypted if address in found.certificates and not self._opens_for(address) else signed
            for address in case.recipients
            if self._is_local(address)
        }
        away = [address for address in case.recipients if address not in local]
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
                    name for name in case.recipients if name in found.without or local.get(name) is signed
                ),
                "rule": f"{case.policy.encrypt.value} ({case.policy.origins['encrypt']})",
            },
        )
        told = case.policy.confirm is ConfirmPolicy.ALWAYS or (
            case.policy.confirm is ConfirmPolicy.UNENCRYPTED and bool(found.without)
        )
        note = b""
        if told:
            note = confirmation(case.raw, event, case.sender, tuple(found.certificates), found.without, case.at)
        return Protected(clear, local, copies, (event, done), note, case.raw)

    def _as_is(self, raw: bytes, recipients: Sequence[str]) -> Protected:
        """Encrypted by the sender: nothing can be looked at, and nothing is changed."""
        local = {address: raw for address in recipients if self._is_local(address)}
        away = tuple(address for address in recipients if address not in local)
        copies = (OutgoingCopy(away, raw),) if away else ()
        return Protected(b"", local, copies, (Event("message.encrypted_by_sender"),))

    def _recipients(self, case: _Handover) -> _Recipients:
        if case.policy.encrypt is EncryptPolicy.NEVER:
            return _Recipients({}, tuple(case.recipients))
        return self._find_certificates(case.recipients, case.at)

    def _encrypted(self, case: _Handover, signed: bytes, found: _Recipients) -> bytes:
        """`signed` encrypted to its recipients, and to its sender when the policy says so: algorithms are those that all
        read, as far as is known, and never below the policy."""
        policy = self._policy.encryption
        sender = self._find_certificates([case.sender.address], case.at).certificates if policy.to_sender else {}
        known = [self._heard.recipient(certificate) for certificate in found.certificates.values()]
        own = [self._heard.recipient(certificate) for certificate in sender.values()]
        return smime.encrypt_message(signed, known, policy=policy, sender=own[0] if own else None)

    def _opens_for(self, address: str) -> bool:
        return self._keys.opens_for(address) and self._custody(address)

    def _custody(self, address: str) -> bool:
        """Whether the policy of a mailbox of ours lets the operator open its messages."""
        account = self._store.find_account(address)
        return account is not None and self.policy_of(account).custody is CustodyPolicy.OPERATOR

    def _find_certificates(self, recipients: Sequence[str], at: datetime) -> _Recipients:
        certificates: dict[str, x509.Certificate] = {}
        without: list[str] = []
        for address in recipients:
            usable = [
                certificate
                for certificate in self._directory.encryption_certificates(address, at)
                if smime.speaks_for(certificate, address)
                and self._encryption(certificate, (), at).trusted
                and smime.can_receive(certificate)
            ]
            if usable:
                certificates[address] = usable[0]
            else:
                without.append(address)
        return _Recipients(certificates, tuple(without))

    def open(self, raw: bytes, *, recipient: Account, sender: str, at: datetime) -> Opened:
        """Remove the encryption this operator holds the key of, and verify what is signed (journey step 6).

        Never raises on a bad message: it is then delivered as it came, with the verdict in `results`.
        """
        keys = self._keys.decryptors(recipient.address) if self._custody(recipient.address) else ()
        try:
            opened = smime.open_message(raw, keys, at=at, path=self._signers)
        except smime.SmimeError as error:
            event = Event("message.not_opened", {"reason": error.code, "account": recipient.address})
            result = "temperror" if isinstance(error, smime.KeyUnavailable) else "permerror"
            return Opened(raw, (f"smime={result} reason={error.code}",), None, (event,))
        self._heard.learn(opened.verifications)
        readable = opened.opened or not opened.encrypted
        content = opened.revealed()
        detail = {
            "account": recipient.address,
            "encrypted": "yes" if opened.encrypted else "no",
            "opened": "yes" if opened.opened else "no",
            "verdicts": ", ".join(one.verdict for one in opened.verifications) or "unsigned",
            "problems": ", ".join(opened.problems),
            "cause": ", ".join(opened.audit),
            "key_id": ", ".join(str(key.key_id) for key in keys if key.used),
        }
        return Opened(
            content,
            authentication_results(
                opened.verifications, sender, owner_id=self._owner(sender) if opened.verifications else None
            ),
            smime.clear_entity(content) if readable else None,
            (Event("message.opened", detail),),
        )

    def _owner(self, address: str) -> str | None:
        """The national identifier of a mailbox's owner; None when the directory does not know it or cannot answer."""
        try:
            entry = self._directory.by_address(address)
        except (DirectoryUnavailable, DirectoryError):
            return None
        return (entry.national_id or entry.structure_id) if entry is not None else None


def _in_force(certificate: x509.Certificate, at: datetime) -> bool:
    return certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc


def _without_certificate(case: _Handover, without: Sequence[str]) -> Refusal | None:
    """What the policy answers when these recipients cannot be encrypted to; None lets the message leave."""
    policy = case.policy
    if not without or policy.encrypt is EncryptPolicy.NEVER:
        return None
    asking = policy.encrypt is EncryptPolicy.WHEN_POSSIBLE and policy.without_certificate is WithoutCertificate.ASK
    if asking and case.accepts_clear:
        return None
    if policy.encrypt is EncryptPolicy.WHEN_POSSIBLE and policy.without_certificate is WithoutCertificate.TRUST_SPACE:
        return None
    names = ", ".join(without)
    hint_fr = " : renvoyer avec [sans chiffrement] au debut du sujet pour l'accepter" if asking else ""
    hint_en = ": send again with [unencrypted] at the start of the subject to accept that" if asking else ""
    origin = policy.origins["without_certificate" if policy.encrypt is EncryptPolicy.WHEN_POSSIBLE else "encrypt"]
    return Refusal(
        550,
        "5.7.5",
        f"pas de certificat dans l'annuaire pour {names}{hint_fr}",
        f"no certificate in the directory for {names}{hint_en}",
        (Event("encryption.refused", {"account": case.sender.address, "recipients": names, "rule": origin}),),
    )


def _key_failed(sender: Account, reason: str, key_id: int) -> Refusal:
    return Refusal(
        451,
        "4.7.5",
        "la cle de signature ne repond pas, le message n'a pas ete pris : reessayer",
        "the signing key does not answer, message not taken: try again",
        (Event("key.failed", {"account": sender.address, "reason": reason, "key_id": str(key_id)}),),
    )


def _code_inside_signature(sender: Account) -> Refusal:
    return replace(
        refused(events=(Event("code.refused", {"account": sender.address, "reason": "inside a signature"}),)),
        text_fr="le texte signe contient un code d'envoi : l'enlever, signer, puis envoyer",
        text_en="the signed text holds a send code: remove it, sign, then send",
    )


def _signature_refused(sender: Account, reason: str) -> Refusal:
    return Refusal(
        550,
        "5.7.7",
        f"la signature du message n'est pas valable ou n'est pas celle de {sender.address}",
        f"the message's signature is not valid or is not that of {sender.address}",
        (Event("signature.refused", {"account": sender.address, "reason": reason}),),
    )
