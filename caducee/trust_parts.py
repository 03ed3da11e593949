"""Puts an operator's trust space together: the space, what may be asked of the network, and what keeps it up to date."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from caducee.errors import UsageError
from caducee.folder import SERVER, OperatorFolder
from caducee.settings import Settings
from trustspace import (
    Fetcher,
    Freshness,
    OnlineRules,
    OnlineSources,
    OwnCertificate,
    Purpose,
    Refresher,
    Schedule,
    TrustSpace,
    client_context,
    is_practice,
    pem,
)


@dataclass(frozen=True, slots=True)
class TrustParts:
    """The trust space of an operator and its refresher."""

    space: TrustSpace
    refresher: Refresher


def open_trust(folder: OperatorFolder, settings: Settings) -> TrustSpace:
    """The trust space of this operator: its anchors, CRLs and white list. Raises UsageError when nobody is trusted."""
    return open_trust_parts(folder, settings).space


def open_trust_parts(folder: OperatorFolder, settings: Settings, *, first: bool = True) -> TrustParts:
    """The trust space with what downloads its files; a process that is not the `first` of its folder downloads nothing but
    the CRLs that its own decisions asked for. Raises UsageError when nobody is trusted."""
    _check_anchors(folder, settings)
    section = settings.trust
    # Authorities and OCSP answers travel by plain HTTP: they are signed.
    rules = OnlineRules(ocsp=section.ocsp, aia=section.fetch_issuers, hosts=frozenset(section.fetch_hosts))
    online = OnlineSources(Fetcher(proxy=section.proxy), rules)
    space = TrustSpace(
        folder.trust,
        signer_cn=section.signer_cn,
        practice=section.practice,
        warn_after=timedelta(hours=section.warn_after_hours),
        stale_after=timedelta(hours=section.stop_after_hours),
        online=online,
    )

    def tls() -> ssl.SSLContext:
        return client_context(None, None, space.anchors_for(Purpose.DOWNLOAD), check_hostname=True)

    schedule = Schedule(
        list_url=section.list_url if first else "",
        list_every=timedelta(minutes=section.list_every_minutes),
        crl_urls=section.crl_urls if first else (),
        crl_every=timedelta(minutes=section.crl_every_minutes),
    )
    fetcher = Fetcher(tls=tls, proxy=section.proxy)

    def own() -> Sequence[x509.Certificate]:
        return own_certificates(folder) if first else ()

    refresher = Refresher(space, fetcher, schedule, certificates=own, wanted_crls=online.wanted_crls)
    return TrustParts(space, refresher)


def own_certificates(folder: OperatorFolder) -> Sequence[x509.Certificate]:
    """The certificates under keys/, chains included; what cannot be read is passed over: it has its own errors."""
    try:
        return pem.read_certificate_folder(folder.keys)
    except pem.UnreadableFile:
        return ()


def own_certificate(folder: OperatorFolder, name: str = SERVER) -> OwnCertificate:
    """The files of one of our certificates, for contexts that follow their renewal."""
    return OwnCertificate(folder.keys / f"{name}.pem", folder.keys / f"{name}.key")


def trust_state(trust: TrustSpace, at: datetime) -> tuple[Freshness, str]:
    """How old the white list in force is, and why a newer one was refused ("" when none was)."""
    return trust.freshness(at), trust.alarm or ""


def _check_anchors(folder: OperatorFolder, settings: Settings) -> None:
    anchors = folder.trust / "anchors"
    files = [path for path in anchors.glob("**/*.*") if path.is_file()]
    if not files:
        raise UsageError(
            f"{anchors}: aucune autorité de confiance ; y poser les racines de l'IGC-Santé (.pem ou .cer), "
            "et dans intermediates/, crl/ ce qui va avec / no trust anchor: put the IGC-Santé roots there"
        )
    if not settings.trust.practice and any(is_practice(one) for path in files for one in pem.read_certificates(path)):
        raise UsageError(
            f"{anchors}: autorité d'exercice refusée, trust.practice = false / practice authority refused in production"
        )
