"""What a trust folder holds, read into one immutable snapshot; a bad file never replaces a good one.

Invariants: the list in force changes only for a verified list that is not older (roll-back) and not from the future;
a CRL is replaced only by a readable one, signed by the authority it names, that is not older (ECO.1.1.7: keep the
last good CRL); every refusal leaves an alarm text and a line in the history; when the anchors change, the list must
verify under the new ones; a practice authority is refused wherever practice is not said.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from trustspace import pem
from trustspace.history import ListHistory
from trustspace.listshape import MAX_LIST_SIZE, ListRefusal, WhiteListRefused
from trustspace.model import WhiteList
from trustspace.paths import Anchors, Online, PathValidator
from trustspace.practice import WHITE_LIST_FILE, is_practice
from trustspace.revocation import RevocationIndex, signs
from trustspace.verdict import Purpose
from trustspace.whitelist import check_signer, verify_white_list

HISTORY_FOLDER = "history"
MAX_FUTURE = timedelta(hours=1)
"""How far the list's date may run ahead of our clock."""
_MAX_CRLS = 256

Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """What does not change while the program runs: whose list, whether practice authorities may be trusted, and what
    may be asked of the network."""

    signer_cn: str
    practice: bool = False
    online: Online | None = None


@dataclass(frozen=True, slots=True)
class Crl:
    """A CRL and the date and size of its file when it was read: unchanged files are not parsed again."""

    crl: x509.CertificateRevocationList
    stamp: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the trust space. `fetched_at` dates the list in force (file date, never later than when read).

    `floor` is the date of the newest list ever in force; `alarms` are the present refusals, by file name.
    """

    anchors: Mapping[Purpose, Anchors] = field(default_factory=dict)
    crls: Mapping[str, Crl] = field(default_factory=dict)
    validators: Mapping[Purpose, PathValidator] = field(default_factory=dict)
    white_list: WhiteList | None = None
    fetched_at: datetime | None = None
    floor: datetime | None = None
    alarms: Mapping[str, str] = field(default_factory=dict)


def stamp(folder: Path) -> Stamp:
    """Name, date and size of every file that matters: equal stamps mean nothing to read again."""
    found: list[tuple[str, int, int]] = []
    own = [f"anchors/{purpose}" for purpose in Purpose]
    for part in ("anchors", *own, "intermediates", "crl", WHITE_LIST_FILE):
        path = folder / part
        for child in sorted(path.iterdir()) if path.is_dir() else [path]:
            if not child.name.startswith("."):
                with contextlib.suppress(OSError):
                    status = child.stat()
                    found.append((f"{part}/{child.name}", status.st_mtime_ns, status.st_size))
    return tuple(found)


def read_snapshot(folder: Path, previous: Snapshot, *, rules: Rules, at: datetime) -> Snapshot:
    """The next snapshot of `folder` at `at` (aware). Never raises for bad files: they end in `alarms`."""
    alarms: dict[str, str] = {}
    anchors = _read_anchors(folder, previous.anchors, rules, alarms)
    if not anchors:
        return replace(previous, alarms=alarms)
    crls = _read_crls(folder, anchors, previous.crls, alarms)
    validators = previous.validators
    if not validators or anchors != previous.anchors or dict(crls) != dict(previous.crls):
        validators = _validators(anchors, crls, previous, rules)
    state = replace(previous, anchors=anchors, crls=crls, validators=validators, alarms=alarms)
    list_anchors, before = anchors.get(Purpose.LIST), previous.anchors.get(Purpose.LIST)
    if list_anchors is None or (before is not None and list_anchors != before):
        state = replace(state, white_list=None, fetched_at=None)
    validator = validators.get(Purpose.LIST)
    if validator is None:
        alarms.setdefault("anchors", "anchors/list: no trust anchor")
        return state
    history = ListHistory(folder / HISTORY_FOLDER)
    if state.white_list is None and (kept := history.latest()) is not None:
        # A restart beside a bad download finds the last good list, and roll-back is still seen.
        with contextlib.suppress(WhiteListRefused):
            state = _taken(kept[0], kept[1], state, validator, rules, at)
    return _take_list(folder / WHITE_LIST_FILE, state, alarms, validator, rules, at, history)


def _validators(
    anchors: Mapping[Purpose, Anchors], crls: Mapping[str, Crl], previous: Snapshot, rules: Rules
) -> dict[Purpose, PathValidator]:
    """One validator for each distinct set of anchors; all share one index of CRLs."""
    lists = tuple(one.crl for one in crls.values())
    old = next(iter(previous.validators.values()), None)
    index = RevocationIndex(lists, old.index if old else None)
    made: dict[Anchors, PathValidator] = {}
    for one in anchors.values():
        if one not in made:
            made[one] = PathValidator(one, lists, index=index, online=rules.online)
    return {purpose: made[one] for purpose, one in anchors.items()}


def _read_anchors(
    folder: Path, previous: Mapping[Purpose, Anchors], rules: Rules, alarms: dict[str, str]
) -> Mapping[Purpose, Anchors]:
    """The anchors of each purpose that has some; those in force when any file is bad: a bad file is no small change."""
    common: Anchors | None = None
    try:
        with contextlib.suppress(pem.NoAnchor):
            common = Anchors.load(folder)
        found: dict[Purpose, Anchors] = {}
        for purpose in Purpose:
            own = Anchors.load(folder, purpose) if (folder / "anchors" / purpose).is_dir() else common
            if own is not None:
                found[purpose] = own
        if not rules.practice and any(is_practice(root) for one in found.values() for root in one.roots):
            raise pem.UnreadableFile("anchors: practice authority refused, trust.practice is false")
    except (pem.UnreadableFile, OSError) as error:
        alarms["anchors"] = str(error)
        return previous
    if not found:
        alarms["anchors"] = "anchors: no trust anchor"
        return previous
    return found


def _read_crls(
    folder: Path, anchors: Mapping[Purpose, Anchors], previous: Mapping[str, Crl], alarms: dict[str, str]
) -> dict[str, Crl]:
    crls: dict[str, Crl] = {}
    authorities = {ca for one in anchors.values() for ca in (*one.roots, *one.intermediates)}
    for path in pem.crl_files(folder / "crl")[:_MAX_CRLS]:
        old = previous.get(path.name)
        try:
            status = path.stat()
            current = (status.st_mtime_ns, status.st_size)
            new = old if old is not None and old.stamp == current else Crl(pem.read_crl(path), current)
            check_crl_signer(new.crl, authorities, path.name)
        except (pem.UnreadableFile, OSError) as error:
            alarms[path.name] = str(error)
            if old is not None:
                crls[path.name] = old
            continue
        if old is not None and is_older(new.crl, old.crl):
            alarms[path.name] = f"{path.name}: older than the CRL in force"
            new = old
        crls[path.name] = new
    return crls


def is_older(new: x509.CertificateRevocationList, old: x509.CertificateRevocationList) -> bool:
    """True when `new` is an earlier list of the same issuer."""
    return new.issuer == old.issuer and new.last_update_utc < old.last_update_utc


def check_crl_signer(crl: x509.CertificateRevocationList, authorities: set[x509.Certificate], name: str) -> None:
    """Raises UnreadableFile when an authority we know bears the CRL's name and none of that name signed it: CRLs travel
    by plain HTTP, and a forged one must not push the good one out."""
    known = [ca for ca in authorities if ca.subject == crl.issuer]
    if known and not any(signs(crl, ca) for ca in known):
        raise pem.UnreadableFile(f"{name}: not signed by the authority it names")


def _take_list(
    path: Path,
    state: Snapshot,
    alarms: dict[str, str],
    validator: PathValidator,
    rules: Rules,
    at: datetime,
    history: ListHistory,
) -> Snapshot:
    """`state` with the list of the file in force, or as it was with an alarm; either way written in the history."""
    try:
        modified = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        content = pem.read_bounded(path, MAX_LIST_SIZE)
    except (pem.UnreadableFile, OSError):
        alarms[path.name] = f"{ListRefusal.UNREADABLE}: the white list cannot be read"
        return state
    try:
        taken = _taken(content, modified, state, validator, rules, at)
    except WhiteListRefused as refusal:
        alarms[path.name] = str(refusal)
        # A folder we may not write in only loses its history.
        with contextlib.suppress(OSError):
            history.refuse(hashlib.sha256(content).hexdigest(), str(refusal), at)
        return state
    if (one := taken.white_list) is not None and one is not state.white_list:
        with contextlib.suppress(OSError):
            history.keep(content, generated=one.generated, entries=len(one.entries), at=min(modified, at))
    return taken


def _taken(
    content: bytes, modified: datetime, state: Snapshot, validator: PathValidator, rules: Rules, at: datetime
) -> Snapshot:
    white_list = examined(content, state, validator, rules.signer_cn, at)
    return replace(state, white_list=white_list, fetched_at=min(modified, at), floor=white_list.generated)


def examined(content: bytes, state: Snapshot, validator: PathValidator, signer_cn: str, at: datetime) -> WhiteList:
    """The list of `content`, verified, its date checked against the newest ever in force and the clock (mssante.md §1.4).

    The same octets as those in force only need another look at their signer. Raises WhiteListRefused.
    """
    current = state.white_list
    if current is not None and hashlib.sha256(content).hexdigest() == current.digest:
        check_signer(current.signer, validator, signer_cn=signer_cn, at=current.generated, revocation_at=at)
        return current
    white_list = verify_white_list(content, validator, signer_cn=signer_cn, revocation_at=at)
    if state.floor is not None and white_list.generated < state.floor:
        raise WhiteListRefused(ListRefusal.ROLLED_BACK, "the list is older than the one in force")
    if white_list.generated > at + MAX_FUTURE:
        raise WhiteListRefused(ListRefusal.FROM_THE_FUTURE, "the list is dated in the future")
    return white_list
