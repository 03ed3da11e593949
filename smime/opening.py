"""Opening and verifying whole messages.

Invariants: encryption is taken off, signed octets are left alone; only an envelope that is the whole message is opened;
size and number of layers are bounded; what cannot be opened is reported in `problems`, by fixed words. Memory: the
message, what is inside, and one more copy at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from cryptography import x509

import mime
from smime import enveloped, headers, judge
from smime.algorithms import ContentCipher
from smime.coverage import Coverage, Survey, Through, survey
from smime.errors import DecryptionFailed, KeyUnavailable, SmimeError, TooLarge
from smime.headers import ProtectedHeaders
from smime.keys import Decryptor
from smime.layers import (
    MAX_LAYERS,
    Header,
    Layer,
    LayerKind,
    around,
    glance,
    opaque_content,
    outermost,
    split_fields,
    split_header,
)
from smime.policy import STRICT, ReadingPolicy
from smime.verdict import Judging, PathChecker, Reason, Verdict, Verification

MAX_SIZE = 100 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Opened:
    """`content`: the message without the encryption layers that could be opened; a signature inside is left in place,
    byte exact. A signature *round* an opened envelope is taken off, since its content is gone; its verification stays.
    `encrypted`: there was an envelope. `opened`: and every one found was opened. `verifications`: outermost first.
    `problems`: `code` words of SmimeError. `Verification.layer` counts signatures from outside.

    `ciphers`: of the envelopes opened. `audit`: where opening failed, for the audit trail alone. `coverage`: what each
    signature layer covers of `content`. `headers`: protected header fields, None without."""

    content: bytes
    encrypted: bool
    opened: bool
    verifications: tuple[Verification, ...]
    problems: tuple[str, ...]
    ciphers: tuple[ContentCipher, ...] = ()
    audit: tuple[str, ...] = ()
    coverage: tuple[Coverage, ...] = ()
    headers: ProtectedHeaders | None = None
    judging: Judging | None = field(default=None, repr=False, compare=False)

    def revealed(self) -> bytes:
        """`content` with the fields that its writer hid from transport shown again (RFC 9788 §4.3), for those who may read
        it; `content` itself when none was."""
        if self.headers is None or not self.opened:
            return self.content
        outside, inside, body = split_fields(self.content)
        shown = headers.reveal(outside, self.headers)
        return self.content if shown == outside else b"".join((shown, inside, b"\r\n", memoryview(self.content)[body:]))

    def survey(self) -> Survey:
        """Part by part, what is covered by which signature, those of nested parts included; what is outside."""
        if self.judging is None:
            raise ValueError("only what open_message gives can be surveyed")
        protected = () if self.headers is None else [one.name for one in self.headers.fields]
        judging = replace(self.judging, sender=_sender(split_fields(self.content)[0], self.headers))
        return survey(self.content, self.coverage, judging, protected=protected)


def open_message(
    raw: bytes,
    decryptors: Sequence[Decryptor],
    *,
    at: datetime,
    path: PathChecker | None,
    max_size: int = MAX_SIZE,
    policy: ReadingPolicy = STRICT,
    certificates: Sequence[x509.Certificate] = (),
    owner: Callable[[str], str | None] | None = None,
) -> Opened:
    """Opens what `decryptors` can open and verifies every signature on the way. Raises TooLarge, and KeyUnavailable when
    an HSM or card does not answer.

    Without `path` no signature is better than UNTRUSTED. An envelope proves nothing about the sender by itself.
    `certificates`: found elsewhere, for signatures that come without theirs. `owner`: see `Judging`."""
    if len(raw) > max_size:
        raise TooLarge("the message is longer than allowed")
    return _Opening(raw, decryptors, Judging(at, path, policy, tuple(certificates), None, owner)).run()


def verify_message(
    raw: bytes,
    *,
    at: datetime,
    path: PathChecker | None,
    max_size: int = MAX_SIZE,
    policy: ReadingPolicy = STRICT,
    certificates: Sequence[x509.Certificate] = (),
    owner: Callable[[str], str | None] | None = None,
) -> tuple[Verification, ...]:
    """One Verification per signer of every signature layer that can be reached without a key, outermost first; empty
    for a message that does not claim to be signed. Raises TooLarge only. See `open_message`."""
    opened = open_message(
        raw, (), at=at, path=path, max_size=max_size, policy=policy, certificates=certificates, owner=owner
    )
    return opened.verifications


@dataclass(frozen=True, slots=True)
class _Pending:
    """A signature layer met on the way, judged once the From inside is known. `place` is in `raw`."""

    layer: Layer
    raw: bytes


class _Opening:
    """The layers of one message, peeled from outside. `_current[_start:_end]` is the entity looked at; `_opaque` is the
    place in `_kept` of the CMS it came out of, None while it stands in `_kept` itself."""

    def __init__(self, raw: bytes, decryptors: Sequence[Decryptor], judging: Judging) -> None:
        self._decryptors, self._judging = decryptors, judging
        self._header: Header | None = glance(raw, 0, len(raw))
        self._outside, _ = split_header(raw, self._header.fields, self._header.last)
        self._kept = self._current = raw
        self._start, self._end = 0, len(raw)
        self._opaque: tuple[int, int] | None = None
        self._pending: list[_Pending] = []
        self._coverage: list[Coverage] = []
        self._ciphers: list[ContentCipher] = []
        self._head = b""  # the header of the entity that came out of an envelope, whose own fields `around` leaves out
        self._encrypted = self._failed = False
        self._problems: tuple[str, ...] = ()
        self._audit: tuple[str, ...] = ()

    def run(self) -> Opened:
        """Peels, then judges."""
        is_clear = False
        for _ in range(MAX_LAYERS):
            layer = outermost(self._current, self._start, self._end, self._header)
            self._header = None
            is_clear = layer.kind is LayerKind.CLEAR
            if is_clear or not self._peel(layer):
                break
        else:
            # What lies deeper was not looked at: never report it as opened or verified.
            self._failed, self._problems = True, ("too-many-layers",)
        protected = None
        if is_clear and (self._pending or self._encrypted):
            protected = headers.read(self._payload_header(), self._outside, encrypted=self._encrypted)
        return Opened(
            self._kept,
            self._encrypted,
            bool(self._ciphers) and not self._failed,
            self._verifications(protected),
            self._problems,
            tuple(self._ciphers),
            self._audit,
            tuple(self._coverage),
            protected,
            self._judging,
        )

    def _payload_header(self) -> bytes:
        if self._head:
            return self._head
        return self._current[self._start : mime.header_end(self._current, self._start, self._end)[1]]

    def _peel(self, layer: Layer) -> bool:
        """Goes one layer in; False when there is no way further."""
        if layer.kind is LayerKind.ENVELOPED:
            self._encrypted = True
            return self._open(layer)
        self._pending.append(_Pending(layer, self._current))
        self._head = b""
        if layer.kind is LayerKind.BROKEN:
            self._problems = ("malformed-cms",)
            return False
        if layer.kind is LayerKind.DETACHED:
            self._cover(Through.DIRECT, layer)
            self._start, self._end = layer.start, layer.end
            return True
        content = opaque_content(layer.cms)
        if content is None:
            return False
        self._cover(Through.OPAQUE, layer)
        self._opaque = self._opaque or (layer.start, layer.end)
        self._current = b"".join(content)
        self._start, self._end = 0, len(self._current)
        return True

    def _cover(self, through: Through, layer: Layer) -> None:
        start, end = self._opaque or (layer.start, layer.end)
        through = Through.OPAQUE if self._opaque else through
        self._coverage.append(Coverage(len(self._pending) - 1, through, start, end))

    def _open(self, layer: Layer) -> bool:
        try:
            unsealed = enveloped.decrypt(layer.cms, self._decryptors, policy=self._judging.policy)
        except KeyUnavailable:
            raise
        except SmimeError as error:
            self._failed, self._problems = True, (error.code,)
            if isinstance(error, DecryptionFailed):
                self._audit = (error.cause.value,)
            return False
        self._kept, self._header, self._head = around(self._outside, unsealed.pieces)
        self._current = self._kept
        self._start, self._end, self._opaque = 0, len(self._kept), None
        self._ciphers.append(unsealed.cipher)
        if self._coverage:
            # Signatures round this envelope cover the ciphertext, which is gone.
            body, through = mime.header_end(self._kept)[1], Through.CIPHERTEXT
            self._coverage = [replace(one, through=through, start=body, end=self._end) for one in self._coverage]
        return True

    def _verifications(self, protected: ProtectedHeaders | None) -> tuple[Verification, ...]:
        if not self._pending:
            return ()
        given = self._judging
        sender = _sender(self._outside, protected)
        judging = Judging(given.at, given.path, given.policy, given.certificates, sender, given.owner)
        found: list[Verification] = []
        for index, pending in enumerate(self._pending):
            layer = pending.layer
            if layer.kind is LayerKind.BROKEN:
                found.append(Verification(None, Verdict.INVALID, (Reason.STRUCTURE,), layer=index))
                continue
            detached = layer.kind is LayerKind.DETACHED
            content = memoryview(pending.raw)[layer.start : layer.end] if detached else None
            found += judge.verify(layer.cms, content, judging, layer=index, micalg=layer.micalg)
        return tuple(found)


def _sender(outside: bytes, protected: ProtectedHeaders | None) -> tuple[str, ...] | None:
    """Every address of From, outside and, when protected, inside; None without any From."""
    fields = mime.values_of(outside, "from")
    if not fields:
        return None
    found = [address for value in fields for _, address in mime.addresses(value)]
    inner = None if protected is None else protected.text("from")
    if inner is not None:
        found += [address for _, address in mime.addresses(inner)]
    return tuple(dict.fromkeys(found))
