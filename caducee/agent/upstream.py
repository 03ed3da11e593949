"""The operator, seen from the desk: one submission connection for one message.

Invariants: TLS before anything else, the operator's certificate checked against the given authorities and host name; a
message is handed over for all of its recipients or for none; every answer of the operator is passed on as it is; nothing
is kept on disk, and no success is told before the operator's own.
"""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from cryptography import x509

from caducee.agent import card_tls

SECONDS = 60.0
_DATA_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Operator:
    """Where to submit and whom to trust there. `trust` is a client context with the operator's authorities."""

    host: str
    port: int
    trust: ssl.SSLContext


@dataclass(frozen=True, slots=True)
class CardLogin:
    """The card's authentication certificate, and its signature over a SHA-256 digest."""

    certificate: x509.Certificate
    sign: Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply of the operator, or of ours about it: code and text with its enhanced code."""

    code: int
    text: str

    @property
    def ok(self) -> bool:
        return self.code // 100 == 2

    def line(self) -> str:
        """As one SMTP reply line, ASCII."""
        text = "".join(char if " " <= char <= "~" else "?" for char in self.text)
        return f"{self.code} {text[:450]}"


class _Submission(smtplib.SMTP):
    """smtplib over a socket that is connected already."""

    def __init__(self, connected: Any, name: str) -> None:
        self._connected = connected
        super().__init__("operator", 465, local_hostname=name, timeout=SECONDS)

    def _get_socket(self, host: str, port: int, timeout: float) -> Any:
        return self._connected


def check_account(operator: Operator, login: str, password: str) -> Answer:
    """Whether the operator accepts this login now."""
    try:
        with _session(operator, (login, password)):
            return Answer(235, "2.7.0 authentification reussie / authentication succeeded")
    except _Failed as failure:
        return failure.answer


def submit(
    operator: Operator, login: tuple[str, str] | CardLogin, sender: str, recipients: Sequence[str], content: bytes
) -> Answer:
    """Hand a message over. What the card raises while it logs in passes through; everything else is an answer."""
    try:
        with _session(operator, login) as session:
            return _handed_over(session, sender, recipients, content)
    except _Failed as failure:
        return failure.answer
    except (smtplib.SMTPException, OSError):
        return Answer(
            451, "4.4.2 connexion a l'operateur perdue, reessayer / connection to the operator lost, try again"
        )


class _Failed(Exception):
    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.text)
        self.answer = answer


def _handed_over(session: smtplib.SMTP, sender: str, recipients: Sequence[str], content: bytes) -> Answer:
    options = [f"SIZE={len(content)}"] if session.has_extn("size") else []
    answers = [(sender, _answer(session.mail(sender, options)))]
    answers += [(one, _answer(session.rcpt(one))) for one in recipients if answers[0][1].ok]
    for address, answer in answers:
        if not answer.ok:
            session.rset()
            return Answer(answer.code, f"{answer.text} <{address}>")
    if session.sock is not None:
        with suppress(AttributeError):  # tlslite-ng's connection waits as its socket does
            session.sock.settimeout(_DATA_SECONDS)
    return _answer(session.data(content))


@contextmanager
def _session(operator: Operator, login: tuple[str, str] | CardLogin) -> Iterator[smtplib.SMTP]:
    session: smtplib.SMTP | None = None
    try:
        connected = _connected(operator, login)
        session = _Submission(connected, "poste.caducee.invalid")
        session.ehlo()
        if isinstance(login, CardLogin):
            answer = _answer(session.docmd("AUTH", "EXTERNAL ="))
            if not answer.ok:
                raise _Failed(answer)
        else:
            session.login(*login)
        yield session
    except smtplib.SMTPAuthenticationError as error:
        raise _Failed(_answer((error.smtp_code, error.smtp_error))) from None
    except (card_tls.TlsFailed, smtplib.SMTPException, OSError) as error:
        said = str(error) if isinstance(error, card_tls.TlsFailed) else type(error).__name__
        unreachable = f"4.4.1 operateur injoignable ({said}), reessayer / operator unreachable, try again"
        raise _Failed(Answer(451, unreachable)) from None
    finally:
        if session is not None:
            with suppress(smtplib.SMTPException, OSError):
                session.quit()


def _connected(operator: Operator, login: tuple[str, str] | CardLogin) -> Any:
    if isinstance(login, CardLogin):
        return card_tls.connect(
            operator.host, operator.port, operator.trust, login.certificate, login.sign, seconds=SECONDS
        )
    raw = socket.create_connection((operator.host, operator.port), SECONDS)
    try:
        return operator.trust.wrap_socket(raw, server_hostname=operator.host)
    except BaseException:
        raw.close()
        raise


def _answer(reply: tuple[int, bytes | str]) -> Answer:
    code, said = reply
    text = said.decode("ascii", "replace") if isinstance(said, bytes) else said
    return Answer(code, text.replace("\n", " "))
