"""The sections of `caducee.toml`, as data: every key with its type, bounds, default and the line that explains it.

Relative paths are taken from the operator's folder; nothing is ever written outside it.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from directory.identifiers import parse_structure_id

_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})+")


def _domain(value: str) -> str:
    name = value.strip().lower().rstrip(".")
    if not _DOMAIN.fullmatch(name):
        raise ValueError(f"« {value} » n'est pas un domaine / is not a domain")
    return name


def _endpoint(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"« {value} » : écrire hôte:port / write host:port")
    return value


def _structure(value: str) -> str:
    if value:
        parse_structure_id(value)
    return value


def _https(value: str) -> str:
    if value and not re.fullmatch(r"https://[^\s/]+\.?[^\s/]*/\S+", value):
        raise ValueError(f"« {value} » : écrire https://hôte/chemin / write https://host/path")
    return value


def _proxy(value: str) -> str:
    if value and not re.fullmatch(r"https?://[^\s/]+/?", value):
        raise ValueError(f"« {value} » : écrire http://hôte:port / write http://host:port")
    return value


Domain = Annotated[str, AfterValidator(_domain)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OperatorSection(Section):
    """Who this operator is."""

    hostname: Domain = Field(
        default="mss.exemple.mssante.fr",
        description="Name said in EHLO and written in Received; the CN of the TLS certificate.",
    )
    domains: tuple[Domain, ...] = Field(default=(), description="Mail domains whose mailboxes are here.")
    organisation: str = Field(default="", description="Legal name of the structure, as in its certificates (O).")
    structure_id: Annotated[str, AfterValidator(_structure)] = Field(
        default="", description="National identifier of the structure: 1 + FINESS or 3 + SIRET."
    )
    department: str = Field(default="", description="Department as in certificates (ST), such as Rhône (69).")
    sector: str = Field(default="SA01", description="Sector of activity (TRE_R02), sent in the VIHF.")


class ServicesSection(Section):
    """Which services `caducee serve` runs in this folder."""

    mail: bool = Field(default=True, description="Submission, reception, sending, IMAP and auto-configuration.")
    deposits: bool = Field(default=True, description="The worker that deposits documents in the patient's record.")
    directory: bool = Field(
        default=False, description="A private slapd, child of this program. Otherwise give [directory] url."
    )
    record: bool = Field(
        default=False,
        description="The embedded patient's record (practice and tests; the real one is the national DMP).",
    )
    own_processor: bool = Field(
        default=True,
        description="Keep each process to one processor, in turn: quicker, unless other programs need the same ones.",
    )


class ListenSection(Section):
    """Addresses and ports. 0 switches a listener off."""

    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    submissions: Port = Field(default=465, description="Submission over TLS (RFC 8314).")
    submission: Port = Field(default=587, description="Submission with STARTTLS (RFC 6409).")
    reception: Port = Field(default=25, description="Reception from the other operators.")
    imaps: Port = Field(default=993, description="IMAP over TLS.")
    imap: Port = Field(default=143, description="IMAP with STARTTLS.")
    web: Port = Field(default=443, description="HTTPS: auto-configuration of mail clients, health.")
    ldap: Port = Field(
        default=10389,
        description="The directory, when it runs here (loopback, clear; slapd has no privilege: 1024 at least).",
    )
    ldaps: Port = Field(default=10636, description="The directory over TLS.")
    record: Port = Field(default=8443, description="The embedded record (mutual TLS).")
    monitor: Port = Field(
        default=0, description="HTTP in clear, on local_host only: /metrics (Prometheus), /healthz, /readyz."
    )
    deposits_monitor: Port = Field(
        default=0, description="HTTP in clear, on 127.0.0.1 only: /metrics of the process that deposits documents."
    )
    hl7: Port = Field(default=0, description="HL7 v2 hand-overs of hospitals' software (MLLP, see [hl7]).")

    @property
    def local_host(self) -> str:
        """Where programs of this machine reach the listeners."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not bound

    @classmethod
    def above(cls, base: int, host: str = "127.0.0.1") -> ListenSection:
        """The usual ports shifted by `base` (a multiple of 1000 that leaves them under 65536), for practice."""
        return cls(
            host=host,
            submissions=base + 465,
            submission=base + 587,
            reception=base + 25,
            imaps=base + 993,
            imap=base + 143,
            web=base + 443,
            ldap=base + 389,
            ldaps=base + 636,
            record=base + 843,
        )


class DatabaseSection(Section):
    """Where rows live; message contents are files under blobs/."""

    url: str = Field(default="", description="SQLAlchemy URL. Empty: SQLite, caducee.db in this folder.")
    machine: str = Field(
        default="",
        max_length=255,
        description="Name of this machine among those that share the database, always the same. Empty: its host name.",
    )


class TrustSection(Section):
    """The trust space: folder trust/ holds anchors/, intermediates/, crl/ and listeblanche.xml."""

    practice: bool = Field(
        default=False, description="True only for a practice trust space; practice authorities are refused otherwise."
    )
    authority: str = Field(
        default="",
        description="Practice only: folder of the authority that certifies new mailboxes (caducee pki create).",
    )
    signer_cn: str = Field(default="alb.mssante.fr", description="CN that the white list's signer must have.")
    warn_after_hours: Annotated[int, Field(gt=0)] = Field(
        default=24, description="Age of the list that raises a warning. Local choice, not a national rule."
    )
    stop_after_hours: Annotated[int, Field(gt=0)] = Field(
        default=168, description="Age of the list that stops exchanges. Local choice, not a national rule."
    )
    list_url: Annotated[str, AfterValidator(_https)] = Field(
        default="",
        description="Where the white list is downloaded (https). Empty: it is put in trust/ by other means, "
        "such as `caducee trust import`.",
    )
    list_every_minutes: Annotated[int, Field(ge=1, le=1440)] = Field(
        default=15, description="How often the list is asked for (unchanged, it is not sent again). Local choice."
    )
    crl_urls: tuple[str, ...] = Field(
        default=(), description="CRLs to download beside those that certificates name (http or https)."
    )
    crl_every_minutes: Annotated[int, Field(ge=1, le=1440)] = Field(
        default=60, description="How often CRLs are asked for. The last valid one is kept (ECO.1.1.7)."
    )
    ocsp: bool = Field(default=True, description="Ask OCSP when no CRL in force answers (ECO.1.1.6).")
    fetch_issuers: bool = Field(
        default=True, description="Fetch a missing intermediate authority where a certificate says it is (AIA)."
    )
    fetch_hosts: tuple[Domain, ...] = Field(
        default=(), description="Hosts where such authorities may be fetched, beside those our authorities name."
    )
    proxy: Annotated[str, AfterValidator(_proxy)] = Field(
        default="", description="HTTP proxy for these downloads, such as http://proxy.chu.example:3128."
    )
    serve_list: bool = Field(
        default=False, description="Serve the list of `caducee trust publish` (published/) over HTTPS, under /trust/."
    )


class DirectorySection(Section):
    """The LDAP directory where recipients, senders and certificates are looked up."""

    url: str = Field(default="", description="ldap:// or ldaps:// URL. Empty: the private slapd of this folder.")
    ca_file: str = Field(default="", description="CA file that the ldaps:// server's certificate chains to.")
    bind_dn: str = Field(default="", description="DN used to publish our mailboxes. Empty: read only.")
    password_file: str = Field(default="", description="File holding that DN's password (mode 0600).")
    reader_dn: str = Field(
        default="",
        description="External directory: DN used to look up, with less rights. Empty: bind_dn, or nobody when it is empty too.",
    )
    reader_password_file: str = Field(default="", description="File holding the reader's password (mode 0600).")
    client_certificates: bool = Field(
        default=True,
        description="Private slapd: accept a card's or an organisation's certificate on LDAPS (SASL EXTERNAL), "
        "of the authorities in trust/.",
    )
    follow_mailboxes: bool = Field(
        default=True,
        description="The mail process publishes what changes in our mailboxes and their certificates. False: commands only.",
    )
    extra_professions: tuple[str, ...] = Field(
        default=(), description="Profession codes accepted in extractions besides the published list (TRE_G15)."
    )
    max_rejected: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.05,
        description="Share of rejected rows above which an extraction is refused as a whole. Local choice.",
    )
    max_removed: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.2, description="Share of entries that one extraction may remove. Local choice, not a national rule."
    )
    national_url: str = Field(
        default="",
        description="FHIR base of the national directory where our mailboxes are published (draft API). Empty: they are not.",
    )
    national_key_file: str = Field(default="", description="File holding the key of that API (ESANTE-API-KEY header).")
    national_ca_file: str = Field(default="", description="CA file of that API. Empty: the system's authorities.")


class ProxySection(Section):
    """Protection on the sender's behalf (server-side keys). A domain or a mailbox may differ: `caducee proxy policy`."""

    sign_per: Literal["always", "with_code", "never", "own"] = Field(
        default="always",
        description="PER and CAB mailboxes: sign every clear message, only with a send code, never (it leaves unsigned), "
        "or own (an unsigned message is refused).",
    )
    sign_org: Literal["always", "with_code", "never", "own"] = Field(
        default="always", description="ORG mailboxes, likewise."
    )
    sign_app: Literal["always", "with_code", "never", "own"] = Field(
        default="with_code", description="APP mailboxes (gateways), likewise."
    )
    encrypt: Literal["required", "when_possible", "never"] = Field(
        default="when_possible",
        description="Encrypt to recipients' certificates: refuse without one, do it when there is one, or never.",
    )
    cipher: Literal["aes256-cbc", "aes128-cbc", "aes256-gcm", "aes128-gcm"] = Field(
        default="aes256-cbc",
        description="Cipher for correspondents of whose mail program nothing is known; better ones are chosen when all "
        "recipients state them.",
    )
    oaep: Literal["by-capability", "always", "never"] = Field(
        default="by-capability",
        description="RSA-OAEP rather than PKCS#1 v1.5 for the keys of messages: for recipients that state it, for all, "
        "or for none.",
    )
    header_protection: Literal["none", "signed", "encrypted"] = Field(
        default="signed",
        description="Copies of Subject, From, To, Date and Message-ID are signed with what this server signs (RFC 9788): "
        "none; signed, all readable outside; encrypted, the Subject of encrypted copies only inside, shown as [...] by mail "
        "programs that do not know RFC 9788.",
    )
    encrypt_to_sender: bool = Field(
        default=False, description="Encrypt to the sender's own certificate too, so that they can read what they sent."
    )
    without_certificate: Literal["trust_space", "ask", "refuse"] = Field(
        default="trust_space",
        description="With when_possible and no certificate: send inside the trust space over mutual TLS, ask the sender "
        "(refused until the subject says [sans chiffrement]), or refuse.",
    )
    confirm: Literal["never", "unencrypted", "always"] = Field(
        default="never",
        description="Tell the sender by a message how theirs left: never, when not all was encrypted, always.",
    )
    custody: Literal["operator", "owner"] = Field(
        default="operator",
        description="Who may hold the keys that open mailboxes: owner forbids the operator to hold or use any.",
    )
    pkcs11_library: str = Field(
        default="", description="PKCS#11 module that holds server-side keys (HSM). Empty: none."
    )
    pkcs11_pin_file: str = Field(default="", description="File with the token's user PIN, mode 0600.")


DepositMode = Literal["sending", "receiving", "both", "never"]


class FeedSection(Section):
    """A hospital's software that hands documents over in HL7 v2."""

    application: str = Field(description="What it calls itself: MSH-3|MSH-4.")
    mailbox: str = Field(description="The mailbox in whose name it sends and deposits.")
    certificate_key: str = Field(
        default="",
        description=(
            "SHA-256 of its certificate's public key (hexadecimal). Empty: any certificate we trust; "
            "a mailbox that needs a send code then sends nothing this way."
        ),
    )
    strict: bool = Field(default=False, description="Refuse the combinations of flags outside the printed matrix.")
    acknowledgements: str = Field(
        default="", description="host:port where it takes business acknowledgements (ZAM) over MLLP. Empty: none."
    )


class Hl7Section(Section):
    """The MLLP listener of hospitals' software (listen.hl7)."""

    tls: bool = Field(default=True, description="Mutual TLS. False only behind a tunnel of one's own.")
    application: str = Field(default="CADUCEE|OPERATEUR", description="What we call ourselves in ZAM: MSH-3|MSH-4.")
    feeds: dict[str, FeedSection] = Field(default_factory=dict, description="One table a feed: [hl7.feeds.NAME].")


class RecordSection(Section):
    """The embedded record (services.record)."""

    automatic_creation: bool = Field(
        default=True, description="Every patient has a record; otherwise one opened by `caducee dossier open`."
    )


class DmpSection(Section):
    """Deposit of clinical documents in the patient's record."""

    policy: DepositMode = Field(
        default="sending",
        description="When documents are deposited: on sending, receiving, both, never. A mailbox dmp@… of type APP receives.",
    )
    mailboxes: dict[str, DepositMode] = Field(
        default_factory=dict, description="The same for one mailbox: address = mode. It wins over everything."
    )
    structures: dict[str, DepositMode] = Field(
        default_factory=dict, description="The same for the mailboxes of a structure: national identifier = mode."
    )
    url: str = Field(default="", description="Base URL of the DMP services. Empty: no deposit.")
    outlet: Literal["soap", "fhir"] = Field(
        default="soap", description="soap: the DMP's own transactions. fhir: PDSm (MHD); no national endpoint is known."
    )
    existence_test: bool = Field(default=True, description="Ask TD0.2 before a deposit (answers hold five minutes).")
    unknown_replacement: Literal["hold", "deposit"] = Field(
        default="hold",
        description="A document that replaces one the record does not know: left to a person, or as new.",
    )
    tell: Literal["always", "failures", "never"] = Field(
        default="failures",
        description="Status messages to senders about documents. A receipt asked for is always sent.",
    )
    receipts_original: Literal["message", "headers"] = Field(
        default="message",
        description="What a receipt (MDN) about documents gives back: the whole message (national text), or its header.",
    )
    receipts_original_max: int = Field(
        default=25_000_000, ge=0, description="Octets above which the header stands for the message."
    )
    error_mailbox: str = Field(
        default="",
        description="Mailbox told of documents not deposited when no receipt was asked, with the message. Empty: none.",
    )
    schemas: str = Field(
        default="", description="Folder of the CDA schema (CDA_extended.xsd). Empty: documents are not held against it."
    )
    schematrons: str = Field(
        default="", description="Folder of compiled CI-SIS schematrons (caducee xdm schematrons). Needs saxonche."
    )
    schematron: Literal["hold", "warn"] = Field(
        default="hold", description="An error of a schematron holds a document back, or is only shown."
    )
    refuse_style_sheet: bool = Field(
        default=False, description="Hold back a CDA that points to a style sheet (every official example does)."
    )
    vihf_version: str = Field(default="3.0", description="VIHF_Version; sources disagree (3.0, 4.0).")
    vihf_mode_attribute: str = Field(
        default="Authentification_Mode", description="Spelling of that attribute; sources disagree."
    )
    source_id: str = Field(
        default="2.25.240911137062424011172911207190217265437",
        description="OID of this system, sourceId of the lots it submits.",
    )
    homologation: str = Field(default="NON-HOMOLOGUE", description="LPS_ID_HOMOLOGATION_DMP of the VIHF.")


class BearerSection(Section):
    """Login by the access token of an identity provider such as Pro Santé Connect (SASL XOAUTH2 and OAUTHBEARER)."""

    issuer: str = Field(default="", description="`iss` of the tokens. Empty: no login by token.")
    keys_url: str = Field(
        default="",
        description="https:// URL of the issuer's keys (JWKS). Empty: <issuer>/protocol/openid-connect/certs.",
    )
    ca_file: str = Field(
        default="", description="CA file that the provider's certificate chains to. Empty: the system's."
    )
    audience: tuple[str, ...] = Field(
        default=(), description="Client ids whose tokens are taken (`aud` or `azp`). Empty: those of any client."
    )
    claims: tuple[str, ...] = Field(
        default=("SubjectNameID", "preferred_username"),
        description="Claims that may hold the national identifier, in order; it must be the mailbox owner's.",
    )


PROCESSES_LIMIT = 64


class SmtpSection(Section):
    """Exchanges by SMTP. What no national text was found for is a local choice."""

    balancers: tuple[str, ...] = Field(
        default=(),
        description="Networks (10.0.0.0/8) of load balancers, whose connections must begin with a PROXY header.",
    )
    nil: str = Field(default="", description="X-MSS-NIL written when missing: this product's number (ECO.2.4.3).")
    patient_domains: tuple[Domain, ...] = Field(
        default=("patient.mssante.fr",), description="Domains whose addresses are made of a patient's INS."
    )
    patient_mib: Annotated[int, Field(ge=1, le=100)] = Field(
        default=25, description="Largest message to a patient, in MiB (Mon espace santé)."
    )
    processes: Annotated[int, Field(ge=0, le=PROCESSES_LIMIT)] = Field(
        default=0,
        description="Processes that serve SMTP and the queue, which share the bounds below; 0: one a processor, 4 at most.",
    )
    connections: Annotated[int, Field(ge=1)] = Field(default=1000, description="Open connections, for each listener.")
    connections_per_address: Annotated[int, Field(ge=1)] = Field(default=50, description="Of these, from one address.")
    peer_connections: Annotated[int, Field(ge=1)] = Field(
        default=50, description="Connections of one other operator, by its certificate."
    )
    peer_messages_per_minute: Annotated[int, Field(ge=1)] = Field(
        default=6000, description="Messages of one other operator in a minute; above, it is asked to come back."
    )
    memory_mib: Annotated[int, Field(ge=1)] = Field(
        default=64, description="Memory for large messages being protected or opened, all together."
    )
    connections_out: Annotated[int, Field(ge=1, le=100)] = Field(
        default=5, description="Connections opened at once to one other operator."
    )
    delay_hours: Annotated[int, Field(ge=1)] = Field(
        default=4, description="After how long a sender is told that a message still waits."
    )
    receipt_days: Annotated[int, Field(ge=1)] = Field(
        default=7, description="After how long a sender is told that a receipt asked for did not come."
    )
    dkim_records: dict[str, str] = Field(
        default_factory=dict,
        description="DKIM keys of other operators in networks without DNS: selector._domainkey.domain = record.",
    )


class ImapSection(Section):
    """Reading by IMAP."""

    client_certificates: bool = Field(
        default=True,
        description="Ask clients for a certificate: a mailbox whose key is registered then needs no password (EXTERNAL).",
    )
    compress: bool = Field(
        default=False, description="Offer COMPRESS=DEFLATE. Off: compression lets an onlooker guess at contents."
    )


class LimitsSection(Section):
    """Bounds on what is accepted."""

    message_mib: Annotated[int, Field(ge=1, le=100)] = Field(default=25, description="Largest message, in MiB.")
    recipients: Annotated[int, Field(ge=1, le=1000)] = Field(default=100, description="Recipients of one message.")
    queue_hours: Annotated[int, Field(ge=1)] = Field(
        default=48, description="How long delivery is tried before the sender is told it failed."
    )
    retry_seconds: Annotated[int, Field(ge=1)] = Field(
        default=60, description="First pause before a delivery is tried again; doubled each time, up to an hour."
    )


class LogsSection(Section):
    """What the program says of itself. No content, subject, INS or secret at any level."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least important line written."
    )
    format: Literal["json", "console"] = Field(default="json", description="json for machines, console for people.")
    trail_days: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Days the lines of the audit trail are kept; 0: for ever. No national rule says how long.",
    )
