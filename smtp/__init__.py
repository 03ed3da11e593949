"""Submission, operator-to-operator reception, sending, notices: the SMTP room (DESIGN, journey steps 1, 4, 5, 6)."""

from smtp.client import Answer, ClientError, Patience, Refused, SmtpClient
from smtp.delivery import Carrier
from smtp.replies import Reply, SmtpRefusal
from smtp.routes import DomainRouter, NoRoute, Route, Router
from smtp.sender import Sender, SenderSettings
from smtp.server import Kind, Listen, SmtpServers
from smtp.services import Clock, DepositPlanner, Limits, Protector, Services

__all__ = [
    "Answer",
    "Carrier",
    "ClientError",
    "Clock",
    "DepositPlanner",
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
    "Sender",
    "SenderSettings",
    "Services",
    "SmtpClient",
    "SmtpRefusal",
    "SmtpServers",
]
