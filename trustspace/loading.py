"""What a trust folder holds, read into one immutable snapshot; a bad file never replaces a good one.

Invariants: the list in force changes only for a verified list that is not older (roll-back) and not from the future;
a CRL is replaced only by a readable one, signed by the authority it names, that is not older (ECO.1.1.7: keep the
last good CRL); every refusal leaves an alarm text; when the anchors change, the list must verify under the new ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from trustspace import pem
from trustspace.listshape import MAX_LIST_SIZE, ListRefusal, WhiteListRefused
from trustspace.model import WhiteList
from trustspace.paths import Anchors, PathValidator
from trustspace.revocation import signs
from trustspace.whitelist import check_signer, verify_white_list

WHITE_LIST_FILE = "listeblanche.xml"
ACCEPTED_FILE = "listeblanche.accepted.xml"
"""Copy of the last list that verified: a restart beside a bad download finds it, and roll-back is still seen."""
_MAX_FUTURE = timedelta(hours=1)

Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the trust space. `fetched_at` dates the list in force (file date, never later than when read).

    `floor` is the date of the newest list ever in force; `alarms` are the present refusals, by file name.
    """

    anchors: Anchors | None = None
    crls: Mapping[str, x509.CertificateRevocationList] = field(default_factory=dict)
    validator: PathValidator | None = None
    white_list: WhiteList | None = None
    fetched_at: datetime | None = None
    floor: datetime | None = None
    alarms: Mapping[str, str] = field(default_factory=dict)


def stamp(folder: Path) -> Stamp:
    """Name, date and size of every file that matters: equal stamps mean nothing to read again."""
    found: list[tuple[str, int, int]] = []
    for part in ("anchors", "intermediates", "crl", WHITE_LIST_FILE):
        path = folder / part
        for child in sorted(path.iterdir()) if path.is_dir() else [path]:
            if not child.name.startswith("."):
                with contextlib.suppress(OSError):
                    status = child.stat()
                    found.append((f"{part}/{child.name}", status.st_mtime_ns, status.st_size))
    return tuple(found)


def read_snapshot(folder: Path, previous: Snapshot, *, signer_cn: str, at: datetime) -> Snapshot:
    """The next snapshot of `folder` at `at` (aware). Never raises for bad files: they end in `alarms`."""
    alarms: dict[str, str] = {}
    anchors = _read_anchors(folder, previous.anchors, alarms)
    if anchors is None:
        return replace(previous, alarms=alarms)
    crls = _read_crls(folder, anchors, previous.crls, alarms)
    validator = previous.validator
    if validator is None or anchors != previous.anchors or dict(crls) != dict(previous.crls):
        validator = PathValidator(anchors, tuple(crls.values()))
    state = replace(previous, anchors=anchors, crls=crls, validator=validator, alarms=alarms)
    if previous.anchors is not None and anchors != previous.anchors:
        state = replace(state, white_list=None, fetched_at=None)
    if state.white_list is None:
        state = _take_list(folder / ACCEPTED_FILE, state, {}, validator, signer_cn, at)
    taken = _take_list(folder / WHITE_LIST_FILE, state, alarms, validator, signer_cn, at)
    if taken.white_list is not state.white_list:
        _keep_accepted(folder)
    return taken


def _read_anchors(folder: Path, previous: Anchors | None, alarms: dict[str, str]) -> Anchors | None:
    try:
        return Anchors.load(folder)
    except (pem.UnreadableFile, OSError) as error:
        alarms["anchors"] = str(error)
        return previous


def _read_crls(
    folder: Path, anchors: Anchors, previous: Mapping[str, x509.CertificateRevocationList], alarms: dict[str, str]
) -> dict[str, x509.CertificateRevocationList]:
    crls: dict[str, x509.CertificateRevocationList] = {}
    for path in pem.crl_files(folder / "crl"):
        old = previous.get(path.name)
        try:
            new = pem.read_crl(path)
            _check_signer(new, anchors, path.name)
        except pem.UnreadableFile as error:
            alarms[path.name] = str(error)
            if old is not None:
                crls[path.name] = old
            continue
        if old is not None and new.issuer == old.issuer and new.last_update_utc < old.last_update_utc:
            alarms[path.name] = f"{path.name}: older than the CRL in force"
            new = old
        crls[path.name] = new
    return crls


def _check_signer(crl: x509.CertificateRevocationList, anchors: Anchors, name: str) -> None:
    """Raises UnreadableFile when an authority we know bears the CRL's name and none of that name signed it: CRLs travel
    by plain HTTP, and a forged one must not push the good one out."""
    known = [ca for ca in (*anchors.roots, *anchors.intermediates) if ca.subject == crl.issuer]
    if known and not any(signs(crl, ca) for ca in known):
        raise pem.UnreadableFile(f"{name}: not signed by the authority it names")


def _take_list(
    path: Path,
    state: Snapshot,
    alarms: dict[str, str],
    validator: PathValidator,
    signer_cn: str,
    at: datetime,
) -> Snapshot:
    """`state` with the list of the file in force, or as it was with an alarm."""
    try:
        modified = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        content = pem.read_bounded(path, MAX_LIST_SIZE)
    except (pem.UnreadableFile, OSError):
        alarms[path.name] = f"{ListRefusal.UNREADABLE}: the white list cannot be read"
        return state
    try:
        white_list = _verify(content, state.white_list, validator, signer_cn, at)
        _check_date(white_list, state.floor, at)
    except WhiteListRefused as refusal:
        alarms[path.name] = str(refusal)
        return state
    return replace(state, white_list=white_list, fetched_at=min(modified, at), floor=white_list.generated)


def _verify(
    content: bytes, current: WhiteList | None, validator: PathValidator, signer_cn: str, at: datetime
) -> WhiteList:
    """The list of `content`; the same octets as those in force only need another look at their signer."""
    if current is not None and hashlib.sha256(content).hexdigest() == current.digest:
        check_signer(current.signer, validator, signer_cn=signer_cn, at=current.generated, revocation_at=at)
        return current
    return verify_white_list(content, validator, signer_cn=signer_cn, revocation_at=at)


def _check_date(white_list: WhiteList, floor: datetime | None, at: datetime) -> None:
    if floor is not None and white_list.generated < floor:
        raise WhiteListRefused(ListRefusal.ROLLED_BACK, "the list is older than the one in force")
    if white_list.generated > at + _MAX_FUTURE:
        raise WhiteListRefused(ListRefusal.FROM_THE_FUTURE, "the list is dated in the future")


def _keep_accepted(folder: Path) -> None:
    """Copy the list just accepted, with its date. A folder we may not write in only loses this comfort."""
    source, target = folder / WHITE_LIST_FILE, folder / ACCEPTED_FILE
    with contextlib.suppress(OSError):
        status = source.stat()
        pem.write_public(target, source.read_bytes())
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
