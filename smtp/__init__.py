"""Submission, operator-to-operator reception, sending, notices: the SMTP room (DESIGN, journey steps 1, 4, 5, 6)."""

from smtp.client import SmtpClient
from smtp.delivery import Carrier
from smtp.dialogue import Answer, ClientError, Patience, Refused
from smtp.dkim import Checker, DkimKeyError, Signer, SigningKey, load_key
from smtp.handshake import AskingContext, DecidingContext
from smtp.outcomes import SenderSettings
from smtp.replies import Reply, SmtpRefusal
from smtp.routes import DomainRouter, NoRoute, Route, Router
from smtp.sender import Sender
from smtp.server import Kind, Listen, SmtpServers
from smtp.services import Clock, DepositPlanner, Limits, Protector, Rules, Services

__all__ = [
    "Answer",
    "AskingContext",
    "Carrier",
    "Checker",
    "ClientError",
    "Clock",
    "DecidingContext",
    "DepositPlanner",
    "DkimKeyError",
    "DomainRouter",
    "Kind",
    "Limits",
    "Listen",
    "NoRoute",
    "Patience",
    "Protector",
    "Refused",
    "Reply",
    "Route",
    "Router",
    "Rules",
    "Sender",
    "SenderSettings",
    "Services",
    "Signer",
    "SigningKey",
    "SmtpClient",
    "SmtpRefusal",
    "SmtpServers",
    "load_key",
]
