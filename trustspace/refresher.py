"""Downloading the white list and the CRLs into a trust folder, in the background or when asked.

Invariants: a file is replaced only by one that was checked here with the very code that will read it (signature,
signer, dates, roll-back; for a CRL: the authority's signature, in force, not older), atomically, so that the last good
one is always there (ECO.1.1.7) and nothing is ever half applied; the list comes over TLS from a host whose certificate
is trusted and not revoked, its own signature being checked as well; an unchanged file costs one conditional request;
a failure is written down with its reason and tried again. One thread at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from trustspace import pem
from trustspace.downloads import Download, read_downloads, write_downloads
from trustspace.fetch import Fetched, Fetcher, FetchFailed
from trustspace.history import ListHistory
from trustspace.listshape import MAX_LIST_SIZE, WhiteListRefused
from trustspace.loading import HISTORY_FOLDER, check_crl_signer, is_older
from trustspace.locations import crl_addresses, delta_addresses, is_usable
from trustspace.practice import WHITE_LIST_FILE
from trustspace.space import TrustSpace
from trustspace.verdict import Purpose, Usage

_MAX_CRLS = 128
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


class Kind(StrEnum):
    """What is downloaded."""

    LIST = "white-list"
    CRL = "crl"


class Result(StrEnum):
    """What a download gave."""

    NEW = "new"
    UNCHANGED = "unchanged"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One download: `detail` is why it was refused or failed, or what was taken."""

    kind: Kind
    url: str
    result: Result
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Schedule:
    """From where and how often. `list_url` "" downloads no list; `crl_urls` come beside those that certificates name.

    The cadence of the list is nowhere prescribed (mssante.md §1.4): a choice.
    """

    list_url: str = ""
    list_every: timedelta = timedelta(minutes=15)
    crl_urls: tuple[str, ...] = ()
    crl_every: timedelta = timedelta(hours=1)
    retry_after: timedelta = timedelta(minutes=5)
    seconds: float = 60.0


class Refused(Exception):
    """What came is not to be used; the text says why."""


class Refresher:
    """Keeps one trust folder up to date."""

    def __init__(
        self,
        space: TrustSpace,
        fetcher: Fetcher,
        schedule: Schedule,
        *,
        certificates: Callable[[], Sequence[x509.Certificate]] = tuple,
        wanted_crls: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """`certificates` are the operator's own, whose CRLs are wanted too; `wanted_crls`, addresses met in decisions."""
        self._space = space
        self._fetcher = fetcher
        self._schedule = schedule
        self._certificates = certificates
        self._wanted = wanted_crls
        self._lock = threading.Lock()

    def tick(self, at: datetime, *, force: bool = False) -> list[Outcome]:
        """Download what is due at `at` (aware); everything with `force`. Never raises for the network's faults.

        CRLs come first: the list's signer and host are checked against them. Raises OSError when the folder cannot be
        written.
        """
        with self._lock:
            downloads = read_downloads(self._space.folder)
            outcomes: list[Outcome] = []
            for url in self._crl_urls(downloads):
                if force or self._is_due(downloads.get(url), self._schedule.crl_every, at):
                    outcomes.append(self._one(Kind.CRL, url, downloads, at))
            url = self._schedule.list_url
            if url and (force or self._is_due(downloads.get(url), self._schedule.list_every, at)):
                self._space.refresh(at)
                outcomes.append(self._one(Kind.LIST, url, downloads, at))
            if outcomes:
                write_downloads(self._space.folder, downloads)
            return outcomes

    def install_list(self, content: bytes, at: datetime) -> bool:
        """Check a list and put it in force at once, as a download would; False when it is in force already.

        Raises WhiteListRefused (written in the history too) and OSError.
        """
        white_list = self._space.white_list
        digest = hashlib.sha256(content).hexdigest()
        try:
            self._space.examine_list(content, at)
        except WhiteListRefused as refusal:
            with contextlib.suppress(OSError):
                ListHistory(self._space.folder / HISTORY_FOLDER).refuse(digest, str(refusal), at)
            raise
        pem.write_public(self._list_path, content)
        self._confirm_list(at)
        return white_list is None or white_list.digest != digest

    def _one(self, kind: Kind, url: str, downloads: dict[str, Download], at: datetime) -> Outcome:
        before = downloads.get(url) or Download(self._file_name(kind, url, downloads))
        path = self._list_path if kind is Kind.LIST else self._space.folder / "crl" / before.file
        valid = before.digest and before.digest == _digest_of(path)
        try:
            answer = self._fetcher.get(
                url,
                size=MAX_LIST_SIZE if kind is Kind.LIST else pem.MAX_CRL_FILE,
                seconds=self._schedule.seconds,
                etag=before.etag if valid else "",
                modified=before.modified if valid else "",
            )
            if kind is Kind.LIST:
                self._check_host(answer, at)
                result = self._take_list(answer, at)
            else:
                result = self._take_crl(answer, path, at)
        except (FetchFailed, Refused, WhiteListRefused, pem.UnreadableFile) as error:
            downloads[url] = before.failed(str(error), at)
            return Outcome(kind, url, Result.FAILED if isinstance(error, FetchFailed) else Result.REFUSED, str(error))
        downloads[url] = Download(before.file, answer.etag, answer.modified, _digest_of(path), at, at)
        return Outcome(kind, url, result)

    def _take_list(self, answer: Fetched, at: datetime) -> Result:
        if answer.content is None:
            self._confirm_list(at)
            return Result.UNCHANGED
        return Result.NEW if self.install_list(answer.content, at) else Result.UNCHANGED

    def _confirm_list(self, at: datetime) -> None:
        """The age of a list is counted from the date of its file: the last time it was brought or confirmed."""
        os.utime(self._list_path, (at.timestamp(), at.timestamp()))
        self._space.refresh(at)

    def _check_host(self, answer: Fetched, at: datetime) -> None:
        """ECO.1.1.6: the revocation of the host's certificate counts too; chain and name were checked by TLS."""
        if answer.peer is None:
            return
        verdict = self._space.path_checker(Usage.TLS_SERVER, Purpose.DOWNLOAD)(answer.peer, (), at)
        if not verdict.trusted:
            raise Refused(f"certificate of the list's host: {verdict.reason} {verdict.failing_subject}")

    def _take_crl(self, answer: Fetched, path: Path, at: datetime) -> Result:
        if answer.content is None:
            return Result.UNCHANGED
        new = pem.crl_of(answer.content, path.name)
        authorities = self._authorities()
        if not any(ca.subject == new.issuer for ca in authorities):
            raise Refused(f"{path.name}: of an authority we do not know")
        check_crl_signer(new, authorities, path.name)
        if new.next_update_utc is None or new.next_update_utc <= at:
            raise Refused(f"{path.name}: out of date")
        old = _held(path)
        if old is not None and is_older(new, old):
            raise Refused(f"{path.name}: older than the CRL in force")
        if old == new:
            return Result.UNCHANGED
        path.parent.mkdir(exist_ok=True)
        pem.write_public(path, new.public_bytes(Encoding.DER))
        return Result.NEW

    def _crl_urls(self, downloads: dict[str, Download]) -> list[str]:
        """Addresses from the settings, from our certificates and authorities, and from certificates met (kept)."""
        listed = self._space.white_list
        own = [*self._authorities(), *self._certificates(), *((listed.signer,) if listed else ())]
        named = [address for one in own for find in (crl_addresses, delta_addresses) for address in find(one)]
        kept = [url for url, one in downloads.items() if one.file.endswith(".crl")]
        every = dict.fromkeys([*self._schedule.crl_urls, *named, *self._wanted(), *kept])
        return [url for url in every if is_usable(url)][:_MAX_CRLS]

    def _authorities(self) -> set[x509.Certificate]:
        found: set[x509.Certificate] = set()
        for purpose in Purpose:
            validator = self._space.validator(purpose)
            if validator is not None:
                found |= {*validator.anchors.roots, *validator.anchors.intermediates}
        return found

    def _is_due(self, download: Download | None, every: timedelta, at: datetime) -> bool:
        if download is None or download.tried is None:
            return True
        return abs(at - download.tried) >= (min(self._schedule.retry_after, every) if download.error else every)

    def _file_name(self, kind: Kind, url: str, downloads: dict[str, Download]) -> str:
        """The last step of the address, so that a CRL put there by hand is the one replaced; never another's."""
        if kind is Kind.LIST:
            return WHITE_LIST_FILE
        last = _UNSAFE.sub("_", url.partition("?")[0].rpartition("/")[2]).lstrip(".")[:80]
        name = (last.removesuffix(".crl") or "crl") + ".crl"
        if any(one.file == name for other, one in downloads.items() if other != url):
            name = f"{name.removesuffix('.crl')}-{hashlib.sha256(url.encode()).hexdigest()[:8]}.crl"
        return name

    @property
    def _list_path(self) -> Path:
        return self._space.folder / WHITE_LIST_FILE


def _held(path: Path) -> x509.CertificateRevocationList | None:
    try:
        return pem.read_crl(path)
    except pem.UnreadableFile:
        return None


def _digest_of(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
