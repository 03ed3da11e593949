"""The header fields this room reads, removes and adds. Pure functions over bytes.

Invariants: no octet of the body ever changes; what claims to come from this operator and does not is removed
(Authentication-Results, X-Caducee-*), except the send code, which belongs to the proxy; fields are only ever added on top.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime
from email.utils import format_datetime

import mime
import smime
from smtp.intake import Scan
from smtp.replies import to_ascii

_OURS = "x-caducee-"
SEND_CODE_FIELD = "x-caducee-code"
_REMOVED = (b"authentication-results", b"return-path", b"bcc", _OURS.encode("ascii"))
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*+"')
_COMMENT = re.compile(r"\([^()]*+\)")
_MESSAGE_ID = re.compile(r"<[^<>\s]{1,250}>", re.ASCII)


def _plain(text: str) -> str:
    """Safe inside a header field's comment or quoted value: printable ASCII, without what would end it."""
    return re.sub(r'[()<>"\\;]', " ", to_ascii(text))[:400]


def token(text: str) -> str:
    """`text` reduced to what may stand unquoted in a result clause."""
    return re.sub(r"[^A-Za-z0-9.@_-]", "", text)[:255] or "none"


def rfc5322_date(at: datetime) -> str:
    """`at` as a Date field's value (RFC 5322 §3.3)."""
    return format_datetime(at)


def _named(raw: bytes, name: str) -> list[str]:
    """The text of every field called `name` of the whole header: none hides behind padding."""
    last, _ = mime.header_end(raw)
    return mime.values_of(raw[:last], name)


def message_id(raw: bytes) -> str | None:
    """The Message-ID with its brackets, when there is exactly one and it is well formed."""
    found = _named(raw, "message-id")
    if len(found) != 1:
        return None
    match = _MESSAGE_ID.fullmatch(found[0])
    return match.group() if match else None


def addresses_of(raw: bytes, name: str) -> list[str]:
    """Every address of every field of this name, lower case."""
    return [address for text in _named(raw, name) for _, address in mime.addresses(text)]


def from_addresses(raw: bytes) -> list[str]:
    """Every address of every From field, lower case; read before encoded words are decoded (RFC 2047 §6.2)."""
    return [address for text in _named(raw, "from") for _, address in mime.addresses(text)]


def from_mailboxes(raw: bytes) -> list[tuple[str, str]]:
    """(display name, address) of each mailbox of every From field."""
    return [one for text in _named(raw, "from") for one in mime.addresses(text)]


def has(raw: bytes, name: str) -> bool:
    """True when the header has this field."""
    return bool(_named(raw, name.lower()))


def authors_are(raw: bytes, allowed: Collection[str]) -> bool:
    """True when the one From field names one of these addresses and nobody else, and no Sender or Reply-To says otherwise."""
    authors, senders, answers = _named(raw, "from"), _named(raw, "sender"), _named(raw, "reply-to")
    if len(authors) != 1 or len(senders) > 1 or len(answers) > 1:
        return False
    single = all(_names_only(text, allowed) for text in (*authors, *senders))
    return single and all(_names_only(text, allowed, several=True) for text in answers)


def author_is(raw: bytes, address: str) -> bool:
    """True when the one From field names this address and nobody else, and no Sender or Reply-To says otherwise."""
    return authors_are(raw, (address,))


def mes_is_fit(raw: bytes) -> bool:
    """True when X-MSS-MES, if there, is the one value it can have (ECO.2.2.8)."""
    found = _named(raw, "x-mss-mes")
    return not found or (len(found) == 1 and found[0].strip() == "FIN")


def fit_lines(raw: bytes) -> bytes:
    """`raw` with binary parts and over-long lines re-encoded (RFC 6409 §8, RFC 3030 §3); unchanged when it is fit.

    Raises ValueError for what cannot be: a signed part, a header line.
    """
    if _is_fit(raw):
        return raw
    repaired = mime.to_seven_bit(raw)
    if not _is_fit(repaired):
        raise ValueError("not convertible")
    return repaired


def _is_fit(raw: bytes) -> bool:
    scan = Scan()
    scan.feed(raw)
    scan.finish()
    return not (scan.bare or scan.null or scan.long_line)


def _names_only(text: str, allowed: Collection[str], *, several: bool = False) -> bool:
    """True for one plain mailbox, or `several`. `mime.addresses` leaves out broken entries and groups; a reader may show
    them: as many entries as addresses, then."""
    rest, comments = _QUOTED.sub("", text), 1
    while comments:
        rest, comments = _COMMENT.subn("", rest)
    found = [address for _, address in mime.addresses(text)]
    if set(rest) & set(';:"()') or (not several and "," in rest):
        return False
    return bool(found) and len(found) == rest.count(",") + 1 and all(address in allowed for address in found)


def is_notification(raw: bytes) -> bool:
    """True for a receipt (RFC 8098): the only submission that may have the null sender."""
    part = mime.parse(raw, max_parts=1)
    kind = part.parameters.get("report-type", "").lower()
    return part.media_type == "multipart/report" and kind == "disposition-notification"


def is_enveloped(raw: bytes) -> bool:
    """True for what is an S/MIME envelope by its octets, not by its label."""
    return smime.outermost(raw).kind is smime.LayerKind.ENVELOPED


def count_received(raw: bytes) -> int:
    """How many servers the message says it went through."""
    return len(_named(raw, "received"))


def cleaned(raw: bytes, *, keep_send_code: bool) -> bytes:
    """`raw` without the fields that only this operator may write, and without Return-Path and blind copies."""
    last, _ = mime.header_end(raw)
    header = raw[:last].lower()
    if not any(name in header for name in _REMOVED):
        return raw
    ours = {
        field.name.lower() for field in mime.iter_fields(raw, 0, last) if field.name.lower().strip().startswith(_OURS)
    }
    if keep_send_code:
        ours.discard(SEND_CODE_FIELD)
    return mime.without_fields(raw, {"authentication-results", "return-path", "bcc", "resent-bcc", *ours})


def completed(raw: bytes, *, identifier: str, hostname: str, at: datetime, nil: str = "") -> tuple[bytes, str]:
    """Add Message-ID and Date when missing or unusable (RFC 6409 §8.2, §8.3; ECO.2.2.1), and X-MSS-NIL (ECO.2.4.3).

    Answers the message and its Message-ID with brackets.
    """
    present = message_id(raw)
    missing: list[tuple[str, str]] = []
    if present is None:
        raw = mime.without_fields(raw, {"message-id"})
        present = f"<{identifier}@{hostname}>"
        missing.append(("Message-ID", present))
    if not _named(raw, "date"):
        missing.append(("Date", rfc5322_date(at)))
    if nil and not _named(raw, "x-mss-nil"):
        missing.append(("X-MSS-NIL", nil))
    return (mime.prepend_fields(raw, missing) if missing else raw), present


def received(*, peer: str, greeted: str, hostname: str, protocol: str, identifier: str, tls: str, at: datetime) -> str:
    """The value of a Received field (RFC 5321 §4.4; the protocol name is of RFC 3848)."""
    source = f"from {_plain(greeted)} ([{_plain(peer)}])" if peer else f"from {_plain(greeted)}"
    return f"{source} ({_plain(tls)}) by {hostname} with {protocol} id {identifier}; {rfc5322_date(at)}"


def trust_result(name: str, domain: str, digest: str) -> str:
    """The Authentication-Results clause of the trust space: which certificate (by its full name, RFC 4514) spoke for which
    domain, by which list."""
    dn = re.sub(r'["\\;]', " ", to_ascii(name))[:400]
    return f'x-mss-trust=pass smtp.mailfrom={domain or "null"} policy.dn="{dn}" policy.list={digest[:16] or "none"}'


def delivered(raw: bytes, *, hostname: str, results: tuple[str, ...], trace: str, mail_from: str) -> bytes:
    """`raw` as it enters a mailbox: forged results removed once more (decryption may have uncovered some), ours on top."""
    verdicts = "; ".join(results) if results else "none"
    own = [
        ("Return-Path", f"<{mail_from}>"),
        ("Authentication-Results", f"{hostname}; {verdicts}"),
        ("Received", trace),
    ]
    return mime.prepend_fields(cleaned(raw, keep_send_code=False), own)


def diagnostic(text: str) -> str:
    """`text` as one line of a delivery status: printable ASCII, at most 500 octets."""
    return to_ascii(text)[:500]
