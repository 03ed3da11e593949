"""Puts the bridge together for one operator: policy, desk (schemas, schematrons, oppositions), register, outlet, feeds."""

from __future__ import annotations

from caducee.errors import UsageError
from caducee.folder import DMP_AUTHENTICATION, DMP_SIGNATURE, OperatorFolder
from caducee.sections import FeedSection
from caducee.settings import Settings
from caducee.trust_parts import open_trust, own_certificate
from dmp_bridge import Desk, DmpOutlet, Outlet
from dmp_bridge.fhir import FhirOutlet
from dmp_bridge.gateway import FeedSettings
from dmp_bridge.policy import Mode, Policy
from dmp_bridge.register import Register, RegisterUnavailable
from dmp_bridge.schematron import Schematrons, SchematronUnusable
from dmp_bridge.tell import Feed
from dmp_bridge.understand import Check, Schema, SchemaUnusable
from ihe.vihf import VihfSettings
from mailstore import read_master_key
from trustspace import Issued, Purpose, client_tls


def deposit_policy(settings: Settings) -> Policy:
    """Which mailboxes deposit, and when."""
    section = settings.dmp
    return Policy(
        Mode(section.policy),
        {address.lower(): Mode(mode) for address, mode in section.mailboxes.items()},
        {structure: Mode(mode) for structure, mode in section.structures.items()},
    )


def open_register(folder: OperatorFolder, settings: Settings) -> Register:
    """The bridge's register: a file of its own, or the operator's database when that is a server. Raises UsageError."""
    url = settings.database.url
    if not url or url.startswith("sqlite"):
        url = f"sqlite:///{folder.bridge.resolve()}"
    try:
        return Register(url, read_master_key(folder.master_key))
    except RegisterUnavailable as error:
        raise UsageError(str(error)) from None


def make_checks(folder: OperatorFolder, settings: Settings) -> tuple[Check, ...]:
    """The schema and schematrons that the operator installed. Raises UsageError naming the setting."""
    section, checks = settings.dmp, list[Check]()
    try:
        if section.schemas:
            checks.append(Schema(folder.resolve(section.schemas)))
    except SchemaUnusable as error:
        raise UsageError(f"dmp.schemas: {error}") from None
    try:
        if section.schematrons:
            checks.append(Schematrons(folder.resolve(section.schematrons)))
    except SchematronUnusable as error:
        raise UsageError(f"dmp.schematrons: {error}") from None
    return tuple(checks)


def make_desk(folder: OperatorFolder, settings: Settings, register: Register) -> Desk:
    """How this operator decides."""

    def opposed(ins: str, oid: str) -> bool:
        told = register.state(ins, oid)
        return told is not None and told.opposed

    return Desk(make_checks(folder, settings), opposed, settings.dmp.schematron == "hold")


def make_outlet(folder: OperatorFolder, settings: Settings) -> Outlet:
    """The way to the record."""
    trust, section = open_trust(folder, settings), settings.dmp
    tls = client_tls(trust, own_certificate(folder, DMP_AUTHENTICATION), Purpose.DMP)
    if section.outlet == "fhir":
        return FhirOutlet(section.url.rstrip("/"), tls, section.source_id)
    signature = Issued.read(folder.keys / f"{DMP_SIGNATURE}.pem", folder.keys / f"{DMP_SIGNATURE}.key")
    return DmpOutlet(
        url=f"{section.url.rstrip('/')}/repository",
        tls=tls,
        key=signature.key,
        chain=signature.chain,
        source_id=section.source_id,
        software=VihfSettings(
            version=section.vihf_version,
            mode_attribute=section.vihf_mode_attribute,
            homologation_id=section.homologation,
        ),
        existence_test=section.existence_test,
        deposit_unknown_target=section.unknown_replacement == "deposit",
    )


def _pair(value: str, key: str) -> tuple[str, str]:
    left, bar, right = value.partition("|")
    if not (left and bar and right):
        raise UsageError(f"{key}: écrire application|structure / write application|facility (MSH-3|MSH-4)")
    return left, right


def feeds_in(settings: Settings) -> list[FeedSettings]:
    """The feeds as the listener knows them. Raises UsageError."""
    return [
        FeedSettings(
            name,
            _pair(feed.application, f"hl7.feeds.{name}.application"),
            feed.mailbox.lower(),
            feed.certificate_key,
            feed.strict,
        )
        for name, feed in settings.hl7.feeds.items()
    ]


def feeds_out(settings: Settings) -> dict[str, Feed]:
    """The feeds as they are answered. Raises UsageError."""
    ours = _pair(settings.hl7.application, "hl7.application")
    return {
        name: Feed(name, ours, _pair(feed.application, f"hl7.feeds.{name}.application"))
        for name, feed in settings.hl7.feeds.items()
        if feed.acknowledgements
    }


def acknowledgement_place(feed: FeedSection) -> tuple[str, int]:
    """Host and port of a feed's MLLP listener. Raises UsageError."""
    host, _, port = feed.acknowledgements.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError("hl7.feeds.*.acknowledgements: écrire hôte:port / write host:port")
    return host, int(port)


__all__ = [
    "acknowledgement_place",
    "deposit_policy",
    "feeds_in",
    "feeds_out",
    "make_checks",
    "make_desk",
    "make_outlet",
    "open_register",
]
