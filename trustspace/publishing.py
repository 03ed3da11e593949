"""Publishing a white list: for practice, and for a private trust space. Same format as the national one, with its schema.

Invariants: what is published was read back by our own reader, against the anchors of those who will read it, and is
valid under the schema published beside it; it is dated later than the list it replaces, which is otherwise kept; it is
replaced atomically, the schema first.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path

from lxml import etree

from trustspace import pem
from trustspace.dn import DnSyntaxError, parse
from trustspace.issuing import Issued
from trustspace.listdiff import Change, diff_lists
from trustspace.listshape import MAX_LIST_SIZE, WhiteListRefused, parse_bounded
from trustspace.model import ListedDomain, TrustSpaceError, WhiteList, canonical_domain
from trustspace.paths import Anchors
from trustspace.signing import sign_white_list
from trustspace.whitelist import load_white_list

PUBLISHED_LIST = "listeblanchemssante.xml"
PUBLISHED_SCHEMA = "listeblanche.xsd"
MAX_ENTRIES_FILE = 32 * 1024 * 1024
COLUMNS = ("domain", "operator", "description", "contact", "support")
"""Columns of the entries' CSV; `operator` is a DN (RFC 4514) or the path of the certificate that bears it."""
_MAX_TEXT = 255


class NotPublishable(TrustSpaceError):
    """The list must not be published; the text says what to mend."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What was published, and what it changes for its readers (None for a first list)."""

    white_list: WhiteList
    path: Path
    changes: list[Change] | None


def schema() -> bytes:
    """Our XSD of the list (UTF-8)."""
    return resources.files("trustspace").joinpath(PUBLISHED_SCHEMA).read_bytes()


def schema_errors(xml: bytes) -> list[str]:
    """What the XSD says against a list, "line: message" each; [] when it is valid. Raises WhiteListRefused."""
    judge = etree.XMLSchema(etree.fromstring(schema()))
    judge.validate(parse_bounded(xml))
    return [f"{error.line}: {error.message}" for error in judge.error_log]  # type: ignore[attr-defined]


def read_entries(path: Path) -> list[ListedDomain]:
    """The entries of a CSV file (UTF-8, `;` or `,`, header: domain, operator, then description, contact, support).

    A relative certificate path is taken from the file's folder. Raises NotPublishable naming every bad line,
    pem.UnreadableFile.
    """
    text = _decoded(pem.read_bounded(path, MAX_ENTRIES_FILE), path)
    delimiter = ";" if ";" in text.partition("\n")[0] else ","
    rows = csv.DictReader(io.StringIO(text), delimiter=delimiter, strict=True)
    header = [name.strip().lower() for name in rows.fieldnames or ()]
    if not {"domain", "operator"} <= set(header) or not set(header) <= set(COLUMNS):
        raise NotPublishable(f"{path.name}: header expected: {';'.join(COLUMNS)}")
    rows.fieldnames = header
    entries, wrong = [], []
    try:
        for row in rows:
            try:
                entries.append(_entry({key: (row.get(key) or "").strip() for key in COLUMNS}, path.parent))
            except (ValueError, pem.UnreadableFile) as error:
                wrong.append(f"{path.name}:{rows.line_num}: {error}")
    except csv.Error as error:
        raise NotPublishable(f"{path.name}:{rows.line_num}: {error}") from None
    if wrong:
        raise NotPublishable("\n".join(wrong[:20]))
    return entries


def publish(
    entries: Sequence[ListedDomain], signer: Issued, folder: Path, *, anchors: Anchors, signer_cn: str, at: datetime
) -> Publication:
    """Sign `entries` at `at` (aware), check, and write the list and its schema in `folder`.

    `anchors` and `signer_cn` are what the readers are configured with. Raises NotPublishable, OSError.
    """
    if not entries:
        raise NotPublishable("no entry")
    seen: set[tuple[str, str]] = set()
    for entry in entries:
        pair = (canonical_domain(entry.domain), str(parse(entry.operator_dn)))
        if pair in seen:
            raise NotPublishable(f"{entry.domain}: listed twice for the same certificate")
        seen.add(pair)
    try:
        xml = sign_white_list(entries, at=at, key=signer.key, certificate=signer.certificate)
        white_list = load_white_list(xml, anchors=anchors, signer_cn=signer_cn)
        wrong = [f"{problem.domain}: {problem.reason}" for problem in white_list.problems] + schema_errors(xml)
    except WhiteListRefused as refusal:
        raise NotPublishable(f"readers would refuse it: {refusal}") from refusal
    except ValueError as error:
        raise NotPublishable(f"a text that XML cannot hold: {error}") from error
    if wrong:
        raise NotPublishable("\n".join(wrong[:20]))
    path = folder / PUBLISHED_LIST
    before = _published(path, anchors, signer_cn)
    if before is not None and white_list.generated <= before.generated:
        raise NotPublishable(f"dated {white_list.generated:%Y-%m-%dT%H:%M:%SZ}, not later than the one published")
    folder.mkdir(parents=True, exist_ok=True)
    pem.write_public(folder / PUBLISHED_SCHEMA, schema())
    pem.write_public(path, xml)
    return Publication(white_list, path, diff_lists(before, white_list) if before is not None else None)


def _published(path: Path, anchors: Anchors, signer_cn: str) -> WhiteList | None:
    """The list that is there now; one that no reader would accept any more hinders nothing."""
    try:
        return load_white_list(pem.read_bounded(path, MAX_LIST_SIZE), anchors=anchors, signer_cn=signer_cn)
    except (pem.UnreadableFile, WhiteListRefused):
        return None


def _entry(row: dict[str, str], folder: Path) -> ListedDomain:
    operator = row["operator"]
    if "=" not in operator:
        certificate = pem.read_certificates(folder / operator)[0]
        operator = certificate.subject.rfc4514_string()
    try:
        parse(operator)
    except DnSyntaxError as error:
        raise ValueError(f"operator: {error}") from error
    domain = canonical_domain(row["domain"])
    for key in COLUMNS:
        if len(row[key]) > _MAX_TEXT:
            raise ValueError(f"{key}: more than {_MAX_TEXT} characters")
    return ListedDomain(domain, operator, row["description"], row["contact"], row["support"])


def _decoded(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise NotPublishable(f"{path.name}: not UTF-8") from None
