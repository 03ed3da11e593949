"""The one family of SMTP replies and errors of this room (DESIGN, "one error family for SMTP replies").

Invariants: the class of the basic code always equals the class of the enhanced code (RFC 2034 §4); every text is in
French, then English; the rendered form is ASCII, whatever the client offers; no line exceeds 512 octets
(RFC 5321 §4.5.3.1.5); an unknown error never shows its own text, only a reference that the log repeats.
"""

from __future__ import annotations

import secrets
import traceback
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePath

import structlog

from directory import DirectoryError, DirectoryUnavailable
from mailstore import OverQuota, StoreError, StoreUnavailable
from trustspace import TrustSpaceError

log = structlog.get_logger()

_WIDTH = 400
_MAX_TEXT = 1600
_TYPOGRAPHY = str.maketrans(
    {
        "œ": "oe",
        "Œ": "OE",
        "æ": "ae",
        "Æ": "AE",
        "’": "'",
        "‘": "'",
        "“": '"',
        "”": '"',
        "«": '"',
        "»": '"',
        "–": "-",
        "—": "-",
        "…": "...",
        "\u00a0": " ",
        "\u202f": " ",
    }
)


def to_ascii(text: str) -> str:
    """`text` without accents, in printable ASCII on one line; what has no ASCII form becomes `?`."""
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    plain = unicodedata.normalize("NFKD", text.translate(_TYPOGRAPHY))
    kept = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return " ".join("".join(letter if " " <= letter <= "~" else "?" for letter in kept).split())


@dataclass(frozen=True, slots=True)
class Reply:
    """One SMTP reply. `enhanced` is an RFC 3463 code, or empty where none may stand (greeting, EHLO, 3yz)."""

    code: int
    enhanced: str
    text_fr: str
    text_en: str

    def __post_init__(self) -> None:
        """Refuse a reply whose two codes disagree (ValueError)."""
        if not 200 <= self.code <= 599:
            raise ValueError("not an SMTP reply code")
        if self.enhanced and self.enhanced.split(".")[0] != str(self.code // 100):
            raise ValueError("the class of the code and of the enhanced code differ")

    @property
    def temporary(self) -> bool:
        """True when the client should try again later (4yz)."""
        return self.code // 100 == 4

    def lines(self) -> list[str]:
        """The reply as SMTP lines without line ends, each at most 512 octets with its CRLF."""
        prefix = f"{self.enhanced} " if self.enhanced else ""
        texts = [to_ascii(text) for text in (self.text_fr, self.text_en) if text]
        text = " / ".join(texts)[:_MAX_TEXT]
        chunks = list(_wrapped(text)) or [""]
        last = len(chunks) - 1
        return [f"{self.code}{' ' if at == last else '-'}{prefix}{chunk}".rstrip() for at, chunk in enumerate(chunks)]

    def encode(self) -> bytes:
        """The reply as it goes on the wire."""
        return _encoded(self)

    def __str__(self) -> str:
        return " ".join(self.lines())


@lru_cache(maxsize=512)
def _encoded(reply: Reply) -> bytes:
    """Most replies are said over and over."""
    return "".join(f"{line}\r\n" for line in reply.lines()).encode("ascii")


def _wrapped(text: str) -> Iterator[str]:
    while len(text) > _WIDTH:
        cut = text.rfind(" ", 1, _WIDTH)
        cut = cut if cut > 0 else _WIDTH
        yield text[:cut].rstrip()
        text = text[cut:].lstrip()
    yield text


class SmtpRefusal(Exception):
    """Ends a command with a negative reply. `closing` ends the connection after it."""

    def __init__(self, reply: Reply, *, closing: bool = False) -> None:
        super().__init__(str(reply))
        self.reply = reply
        self.closing = closing


OK = Reply(250, "2.0.0", "", "OK")
SENDER_OK = Reply(250, "2.1.0", "", "OK")
RECIPIENT_OK = Reply(250, "2.1.5", "", "OK")
START_DATA = Reply(354, "", "", "End data with <CR><LF>.<CR><LF>")
START_TLS = Reply(220, "2.0.0", "", "Ready to start TLS")
BYE = Reply(221, "2.0.0", "au revoir", "bye")
LOGGED_IN = Reply(235, "2.7.0", "authentification reussie", "authentication succeeded")
HELP = Reply(214, "2.0.0", "", "RFC 5321")
CANNOT_VERIFY = Reply(252, "2.5.0", "adresse non verifiee", "cannot verify")

CLOSING = Reply(421, "4.3.2", "arrêt du service, réessayer", "service closing, try again")
TIMED_OUT = Reply(421, "4.4.2", "délai dépassé", "timeout exceeded")
TOO_MANY_CONNECTIONS = Reply(421, "4.7.0", "trop de connexions, réessayer", "too many connections, try again")
TOO_MANY_ERRORS = Reply(421, "4.7.0", "trop d'erreurs", "too many errors")
STORE_BUSY = Reply(451, "4.3.0", "stockage indisponible, réessayer", "storage unavailable, try again")
MAILBOX_FULL = Reply(452, "4.2.2", "boîte pleine, réessayer plus tard", "mailbox full, try again later")
STORE_FAILED = Reply(451, "4.3.0", "stockage en défaut, réessayer", "storage failure, try again")
DIRECTORY_DOWN = Reply(451, "4.4.3", "annuaire injoignable, réessayer", "directory unreachable, try again")
TRUST_UNSURE = Reply(
    451,
    "4.7.5",
    "liste blanche absente ou périmée, réessayer",
    "white list missing or stale, try again",
)
TOO_FAST = Reply(451, "4.7.1", "trop de messages en une minute, réessayer", "too many messages in a minute, try again")
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "trop de destinataires pour un message", "too many recipients")
LOGIN_UNSURE = Reply(454, "4.7.0", "authentification momentanément impossible", "temporary authentication failure")

LINE_TOO_LONG = Reply(500, "5.5.2", "ligne de commande trop longue", "command line too long")
LOGIN_TOO_LONG = Reply(500, "5.5.6", "ligne d'authentification trop longue", "authentication line too long")
UNKNOWN_COMMAND = Reply(500, "5.5.1", "commande inconnue", "command not recognized")
BAD_LINE = Reply(500, "5.5.2", "ligne mal terminée ou non ASCII", "bad line end or not ASCII")
BAD_SYNTAX = Reply(501, "5.5.4", "paramètres incorrects", "syntax error in parameters")
LOGIN_ABORTED = Reply(501, "5.7.0", "authentification abandonnée", "authentication aborted")
BAD_BASE64 = Reply(501, "5.5.2", "base64 illisible", "cannot decode base64")
NOT_IMPLEMENTED = Reply(502, "5.5.1", "commande non offerte", "command not implemented")
BAD_SEQUENCE = Reply(503, "5.5.1", "commandes dans le mauvais ordre", "bad sequence of commands")
ALREADY_LOGGED_IN = Reply(503, "5.5.1", "déjà authentifié", "already authenticated")
UNKNOWN_MECHANISM = Reply(504, "5.5.4", "mécanisme d'authentification inconnu", "unknown authentication mechanism")
TLS_REQUIRED = Reply(530, "5.7.0", "STARTTLS d'abord", "Must issue a STARTTLS command first")
LOGIN_REQUIRED = Reply(530, "5.7.0", "authentification requise", "authentication required")
LOGIN_REFUSED = Reply(535, "5.7.8", "identifiant ou secret refusé", "authentication credentials invalid")
ENCRYPTION_REQUIRED = Reply(538, "5.7.11", "TLS requis avant de s'authentifier", "encryption required")
PLAINTEXT_INJECTED = Reply(
    554, "5.5.1", "commandes envoyées avant la fin de STARTTLS", "commands pipelined after STARTTLS"
)
UNKNOWN_MAILBOX = Reply(550, "5.1.1", "boîte inconnue ici", "no such mailbox here")
CLOSED_MAILBOX = Reply(550, "5.2.1", "boîte fermée", "mailbox disabled")
OUTSIDE_TRUST_SPACE = Reply(
    550,
    "5.1.2",
    "domaine absent de la liste blanche MSSanté : hors de l'espace de confiance",
    "domain not on the MSSante white list: outside the trust space",
)
RELAYING_DENIED = Reply(
    550, "5.7.1", "relais refusé : domaine non servi ici", "relaying denied: domain not served here"
)
FROM_MISMATCH = Reply(
    550,
    "5.7.1",
    "From, Sender et Reply-To ne doivent porter que des adresses du titulaire ou de ses délégations",
    "From, Sender and Reply-To must hold the authenticated owner's addresses or delegations only",
)
SENDER_NOT_OWNED = Reply(
    553,
    "5.7.1",
    "l'adresse d'expéditeur n'est pas celle de la boîte authentifiée",
    "sender address is not that of the authenticated mailbox",
)
NOT_ASCII = Reply(553, "5.6.7", "adresse non ASCII sans SMTPUTF8", "non-ASCII address without SMTPUTF8")
BAD_ADDRESS = Reply(553, "5.1.3", "adresse mal formée", "malformed address")
BAD_SENDER = Reply(553, "5.1.7", "adresse d'expéditeur mal formée", "malformed sender address")
TOO_BIG = Reply(552, "5.3.4", "message trop volumineux", "message size exceeds limit")
NO_CONVERSION = Reply(554, "5.6.3", "contenu binaire impossible à convertir", "binary content cannot be converted")
BAD_PATIENT = Reply(
    550,
    "5.1.3",
    "adresse de patient invalide : 15 caractères du matricule INS attendus",
    "invalid patient address: the 15 characters of the INS number are expected",
)
TOO_BIG_FOR_PATIENT = Reply(
    552, "5.3.4", "message trop volumineux pour Mon espace santé", "message too big for a patient's mailbox"
)
BAD_MES = Reply(550, "5.6.0", "le champ X-MSS-MES ne peut valoir que FIN", "the X-MSS-MES field can only be FIN")
BAD_PROXY = Reply(421, "4.3.2", "en-tête PROXY attendu", "PROXY header expected")
BAD_LINE_ENDS = Reply(
    550,
    "5.6.0",
    "CR ou LF isolé ou octet nul dans le message",
    "bare CR, bare LF or NUL in the message",
)
LONG_LINES = Reply(550, "5.6.0", "ligne de plus de 998 octets", "line longer than 998 octets")
LONG_HEADER = Reply(552, "5.3.4", "en-tête trop long", "header too long")
NO_CERTIFICATE = Reply(554, "5.7.1", "certificat d'opérateur requis", "operator client certificate required")
LOOP = Reply(554, "5.4.6", "boucle de messagerie", "mail loop detected")
BAD_PARAMETER = Reply(555, "5.5.4", "paramètre non reconnu", "parameter not recognized")

ALL: tuple[Reply, ...] = tuple(value for value in dict(globals()).values() if isinstance(value, Reply))
"""Every fixed reply of this room, for the test that walks them."""


def accepted(submission_id: str) -> Reply:
    """The success of DATA; said only once the store has committed."""
    # Each is said once: without accents already, or every message would have them taken off anew.
    return Reply(250, "2.0.0", f"accepte {submission_id}", f"accepted {submission_id}")


def syntax(usage: str) -> Reply:
    """A syntax error with the right form."""
    return Reply(501, "5.5.4", "syntaxe", f"syntax: {usage}")


def unexpected(reference: str) -> Reply:
    """An error that this program did not foresee; `reference` is repeated in the log."""
    return Reply(
        451, "4.3.0", f"erreur interne, référence {reference}, réessayer", f"internal error, reference {reference}"
    )


def describe(error: BaseException) -> str:
    """What may be logged of an unknown error: types and places, never its text, which may quote a message."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    places = " < ".join(f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    return f"{type(error).__module__}.{type(error).__qualname__} at {places or 'unknown place'}"


def reply_for(error: Exception) -> Reply:
    """Map any exception to a reply: fail closed, never permanent for what was not foreseen."""
    known = _known(error)
    if known is not None:
        return known
    reference = secrets.token_hex(6)
    log.error("unexpected error", reference=reference, error=describe(error))
    return unexpected(reference)


def _known(error: Exception) -> Reply | None:
    if isinstance(error, SmtpRefusal):
        return error.reply
    if isinstance(error, StoreUnavailable):
        return STORE_BUSY
    if isinstance(error, OverQuota):
        return MAILBOX_FULL
    if isinstance(error, StoreError):
        log.error("store failure", error=describe(error))
        return STORE_FAILED
    if isinstance(error, DirectoryUnavailable | DirectoryError):
        return DIRECTORY_DOWN
    if isinstance(error, TrustSpaceError):
        return TRUST_UNSURE
    return None
