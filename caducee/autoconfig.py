"""Auto-configuration of mail clients: Mozilla's config-v1.1.xml and the DNS SRV names of RFC 6186 (ECO.1.1.9)."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from caducee.settings import Settings

AUTOCONFIG_PATHS = ("/.well-known/autoconfig/mail/config-v1.1.xml", "/mail/config-v1.1.xml")


def config_xml(settings: Settings) -> bytes:
    """The answer to a mail client that asks how to reach us (UTF-8 XML, TLS only: clear ports are never offered)."""
    root = ET.Element("clientConfig", version="1.1")
    provider = ET.SubElement(
        root, "emailProvider", id=settings.operator.domains[0] if settings.operator.domains else ""
    )
    for domain in settings.operator.domains:
        ET.SubElement(provider, "domain").text = domain
    ET.SubElement(provider, "displayName").text = f"Messagerie sécurisée de santé – {settings.operator.organisation}"
    ET.SubElement(provider, "displayShortName").text = settings.operator.organisation
    listen = settings.listen
    # On this machine only, a name of the real world would lead nowhere.
    hostname = "localhost" if listen.host.startswith("127.") else settings.operator.hostname
    for kind, tag, port, security in (
        ("imap", "incomingServer", listen.imaps, "SSL"),
        ("imap", "incomingServer", listen.imap, "STARTTLS"),
        ("smtp", "outgoingServer", listen.submissions, "SSL"),
        ("smtp", "outgoingServer", listen.submission, "STARTTLS"),
    ):
        if port:
            server = ET.SubElement(provider, tag, type=kind)
            for name, value in (
                ("hostname", hostname),
                ("port", str(port)),
                ("socketType", security),
                ("authentication", "password-cleartext"),
                ("username", "%EMAILADDRESS%"),
            ):
                ET.SubElement(server, name).text = value
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def srv_records(settings: Settings) -> list[str]:
    """The SRV records to publish, in zone-file form, for each domain (RFC 6186, RFC 8314 for submissions)."""
    listen, target = settings.listen, settings.operator.hostname
    services = (
        ("_imaps._tcp", listen.imaps),
        ("_imap._tcp", listen.imap),
        ("_submissions._tcp", listen.submissions),
        ("_submission._tcp", listen.submission),
    )
    return [
        f"{service}.{domain}. SRV 0 1 {port} {target}."
        for domain in settings.operator.domains
        for service, port in services
        if port
    ]


def web_app(settings: Settings) -> Starlette:
    """The HTTPS side of the mail process: auto-configuration and health. No other path answers."""
    document = config_xml(settings)

    async def autoconfig(_request: Request) -> Response:
        return Response(document, media_type="application/xml")

    async def health(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    routes = [Route(path, autoconfig) for path in AUTOCONFIG_PATHS]
    return Starlette(routes=[*routes, Route("/healthz", health)])
