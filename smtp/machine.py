"""What a session may do next: the commands of one connection as a state machine, without sockets, store or clock (ADR 0035).

`command` takes a line and answers what is to be done; who carries it out reports back (`secured`, `logged_in`, `sender_taken`,
`recipient_taken`, ...). Invariants: before TLS nothing but greeting, STARTTLS and QUIT; on a submission port nothing but
greeting and AUTH before a login; a transaction is MAIL, RCPT, then DATA or BDAT, never both; every refused line counts, and
too many end the connection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from smtp import grammar, replies
from smtp.replies import Reply, SmtpRefusal
from smtp.services import Limits

_BEFORE_TLS = frozenset(["EHLO", "HELO", "STARTTLS", "RSET", "NOOP", "QUIT"])
_NOTIFY = frozenset(["SUCCESS", "FAILURE", "DELAY"])


class Body(StrEnum):
    """BODY of MAIL (RFC 6152, RFC 3030)."""

    SEVEN = "7BIT"
    EIGHT = "8BITMIME"
    BINARY = "BINARYMIME"


_BODIES = frozenset(one.value for one in Body)


@dataclass(frozen=True, slots=True)
class MailOptions:
    """Parameters of MAIL. `size` in octets, 0 when not said; `ret` is FULL, HDRS or "" (RFC 3461 §4.3)."""

    size: int = 0
    body: Body = Body.SEVEN
    utf8: bool = False
    ret: str = ""
    envelope_id: str = ""
    require_tls: bool = False


@dataclass(frozen=True, slots=True)
class RcptOptions:
    """Parameters of RCPT (RFC 3461 §4.1, §4.2). `notify` is empty when not said, else NEVER or a choice of the others."""

    notify: frozenset[str] = frozenset()
    original: str = ""


@dataclass(frozen=True, slots=True)
class Say:
    """Answer with a reply."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Greet:
    """Answer EHLO or HELO; `lines` is the whole answer."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StartTls:
    """Answer 220 and change to TLS."""


@dataclass(frozen=True, slots=True)
class Login:
    """Hold a SASL conversation; `initial` is the undecoded initial response, None without one."""

    mechanism: str
    initial: str | None


@dataclass(frozen=True, slots=True)
class AskSender:
    """May this sender send?"""

    sender: str
    options: MailOptions


@dataclass(frozen=True, slots=True)
class AskRecipient:
    """May this recipient receive?"""

    recipient: str
    options: RcptOptions


@dataclass(frozen=True, slots=True)
class TakeData:
    """Answer 354 and read a dot-terminated block."""


@dataclass(frozen=True, slots=True)
class TakeChunk:
    """Read `size` octets. `refusal`: read them for nothing, and answer it. `last`: the message is whole after them."""

    size: int
    last: bool
    refusal: Reply | None = None


@dataclass(frozen=True, slots=True)
class Quit:
    """Answer 221 and close."""


Step = Say | Greet | StartTls | Login | AskSender | AskRecipient | TakeData | TakeChunk | Quit


@dataclass(frozen=True, slots=True)
class Profile:
    """What a listener offers. `logins` are SASL mechanisms, empty where nobody logs in; `domain` is that of the bare
    `<Postmaster>`."""

    hostname: str
    logins: tuple[str, ...] = ()
    require_tls: bool = True
    domain: str = ""


@dataclass(slots=True)
class Machine:
    """The state of one connection."""

    profile: Profile
    limits: Limits
    tls_possible: bool = True
    secure: bool = False
    certificate: bool = False
    bindable: bool = False
    greeted: str = ""
    extended: bool = False
    logged_in: bool = False
    sender: str | None = None
    options: MailOptions = field(default_factory=MailOptions)
    recipients: set[str] = field(default_factory=set)
    chunked: int = -1
    """Octets of BDAT taken so far; -1 before the first chunk."""
    broken: bool = False
    """A chunk was refused: what follows it belongs to a message that will not be."""
    errors: int = 0

    @property
    def awaits_login(self) -> bool:
        """A login may come next."""
        return bool(self.profile.logins) and self.secure and not self.logged_in

    # ---- reports of whoever carries the steps out

    def secured(self, *, certificate: bool, bindable: bool) -> None:
        """TLS has begun: what was said before is forgotten (RFC 3207 §4.2)."""
        self.secure, self.certificate, self.bindable = True, certificate, bindable
        self.greeted, self.extended, self.logged_in = "", False, False
        self.reset()

    def reset(self) -> None:
        """Forget the transaction, not the greeting nor the login (RFC 5321 §4.1.1.5)."""
        self.sender, self.options, self.recipients = None, MailOptions(), set()
        self.chunked, self.broken = -1, False

    def sender_taken(self, step: AskSender) -> None:
        """MAIL was accepted."""
        self.sender, self.options = step.sender, step.options

    def recipient_taken(self, step: AskRecipient) -> None:
        """RCPT was accepted."""
        self.recipients.add(step.recipient)

    def refused(self, reply: Reply) -> Reply:
        """Count an error; answers the reply to give, which may be the last. Raises SmtpRefusal, closing, after too many."""
        self.errors += 1
        if self.errors > self.limits.errors:
            raise SmtpRefusal(replies.TOO_MANY_ERRORS, closing=True)
        return reply

    # ---- commands

    def command(self, line: bytes) -> Step:
        """What to do about a command line (without CRLF). Raises SmtpRefusal."""
        try:
            text = line.decode("utf-8" if b"SMTPUTF8" in line.upper() or self.options.utf8 else "ascii")
        except UnicodeDecodeError:
            if line[:5].upper() in (b"MAIL ", b"RCPT ") and (self.secure or not self.profile.require_tls):
                raise SmtpRefusal(replies.NOT_ASCII) from None
            raise SmtpRefusal(replies.BAD_LINE) from None
        word, _, argument = text.partition(" ")
        method = _COMMANDS.get(word.upper())
        if method is None:
            raise SmtpRefusal(replies.UNKNOWN_COMMAND)
        if self.profile.require_tls and not self.secure and word.upper() not in _BEFORE_TLS:
            raise SmtpRefusal(replies.TLS_REQUIRED)
        return method(self, argument.strip())

    def _ehlo(self, argument: str) -> Step:
        """RFC 5321 §4.1.1.1: offer what works here and nothing else."""
        self._greet(argument, extended=True)
        offers = [self.profile.hostname, "PIPELINING", f"SIZE {self.limits.size}", "8BITMIME", "SMTPUTF8"]
        offers += ["ENHANCEDSTATUSCODES", "CHUNKING", "BINARYMIME", "DSN"]
        if self.secure:
            offers.append("REQUIRETLS")
        if self.tls_possible and not self.secure:
            offers.append("STARTTLS")
        mechanisms = self.mechanisms()
        if mechanisms:
            offers.append(f"AUTH {' '.join(mechanisms)}")
        last = len(offers) - 1
        return Greet(tuple(f"250{' ' if at == last else '-'}{offer}" for at, offer in enumerate(offers)))

    def mechanisms(self) -> list[str]:
        """The SASL mechanisms that can work on this connection: under TLS only."""
        if not self.secure:
            return []
        unusable = set() if self.certificate else {"EXTERNAL"}
        if not self.bindable:
            unusable.add("SCRAM-SHA-256-PLUS")
        return [one for one in self.profile.logins if one not in unusable]

    def _helo(self, argument: str) -> Step:
        self._greet(argument, extended=False)
        return Greet((f"250 {self.profile.hostname}",))

    def _greet(self, argument: str, *, extended: bool) -> None:
        try:
            self.greeted = grammar.host(argument)
        except grammar.GrammarError:
            raise SmtpRefusal(replies.syntax("EHLO host")) from None
        self.extended = extended
        self.reset()

    def _starttls(self, argument: str) -> Step:
        if argument:
            raise SmtpRefusal(replies.BAD_SYNTAX)
        if not self.tls_possible or self.secure:
            raise SmtpRefusal(replies.BAD_SEQUENCE)
        return StartTls()

    def _auth(self, argument: str) -> Step:
        """RFC 4954, under TLS only."""
        if not self.profile.logins:
            raise SmtpRefusal(replies.NOT_IMPLEMENTED)
        if not self.secure:
            raise SmtpRefusal(replies.ENCRYPTION_REQUIRED)
        if not self.extended or self.sender is not None:
            raise SmtpRefusal(replies.BAD_SEQUENCE)
        if self.logged_in:
            raise SmtpRefusal(replies.ALREADY_LOGGED_IN)
        words = argument.split()
        if not 1 <= len(words) <= 2:
            raise SmtpRefusal(replies.syntax("AUTH mechanism [initial-response]"))
        if words[0].upper() not in self.mechanisms():
            raise SmtpRefusal(replies.UNKNOWN_MECHANISM)
        return Login(words[0].upper(), words[1] if len(words) == 2 else None)

    def _mail(self, argument: str) -> Step:
        """RFC 5321 §4.1.1.2, with SIZE, BODY, SMTPUTF8, DSN and REQUIRETLS."""
        if not self.greeted or self.sender is not None:
            raise SmtpRefusal(replies.BAD_SEQUENCE)
        if self.profile.logins and not self.logged_in:
            raise SmtpRefusal(replies.LOGIN_REQUIRED)
        path, parameters = self._path("FROM:", argument)
        options = self._mail_options(parameters)
        try:
            sender = grammar.address(path, utf8=options.utf8) if path else ""
        except grammar.GrammarError:
            raise SmtpRefusal(replies.BAD_SENDER) from None
        return AskSender(sender, options)

    def _mail_options(self, parameters: dict[str, str | None]) -> MailOptions:
        size = parameters.pop("SIZE", "0") or ""
        if not (size.isascii() and size.isdigit()) or len(size) > 20:
            raise SmtpRefusal(replies.BAD_SYNTAX)
        if int(size) > self.limits.size:
            raise SmtpRefusal(replies.TOO_BIG)
        body = (parameters.pop("BODY", Body.SEVEN.value) or "").upper()
        ret = parameters.pop("RET", "")
        if body not in _BODIES or ret is None or ret.upper() not in ("FULL", "HDRS", ""):
            raise SmtpRefusal(replies.BAD_SYNTAX)
        envelope_id = parameters.pop("ENVID", "")
        if envelope_id is None or len(envelope_id) > 100 or not grammar.is_xtext(envelope_id):
            raise SmtpRefusal(replies.BAD_SYNTAX)
        flags = [name for name in ("SMTPUTF8", "REQUIRETLS") if name in parameters]
        if any(parameters.pop(name) is not None for name in flags):
            raise SmtpRefusal(replies.BAD_SYNTAX)
        if "REQUIRETLS" in flags and not self.secure:
            raise SmtpRefusal(replies.TLS_REQUIRED)
        if self.profile.logins:
            # RFC 4954 §5: accepted once logged in; who submits is decided by the login, not by this.
            claimed = parameters.pop("AUTH", "<>")
            if claimed is None or (claimed != "<>" and not grammar.is_xtext(claimed)):
                raise SmtpRefusal(replies.BAD_SYNTAX)
        if parameters:
            raise SmtpRefusal(replies.BAD_PARAMETER)
        return MailOptions(
            int(size), Body(body), "SMTPUTF8" in flags, (ret or "").upper(), envelope_id, "REQUIRETLS" in flags
        )

    def _rcpt(self, argument: str) -> Step:
        """RFC 5321 §4.1.1.3, with NOTIFY and ORCPT. A repeated recipient is accepted once."""
        if self.sender is None or self.chunked >= 0:
            raise SmtpRefusal(replies.BAD_SEQUENCE)
        path, parameters = self._path("TO:", argument)
        notify = parameters.pop("NOTIFY", "")
        original = parameters.pop("ORCPT", "")
        if original is None:
            raise SmtpRefusal(replies.BAD_SYNTAX)
        asked = frozenset((notify or "").upper().split(",")) if notify else frozenset[str]()
        if notify is None or not (asked <= _NOTIFY or asked == {"NEVER"}):
            raise SmtpRefusal(replies.BAD_SYNTAX)
        try:
            original = grammar.original_recipient(original) if original != "" else ""
        except grammar.GrammarError:
            raise SmtpRefusal(replies.BAD_SYNTAX) from None
        if len(original) > 500:
            raise SmtpRefusal(replies.BAD_SYNTAX)
        if parameters:
            raise SmtpRefusal(replies.BAD_PARAMETER)
        if path.lower() == "postmaster":
            path += f"@{self.profile.domain}"  # RFC 5321 §4.1.1.3: the one recipient without a domain
        try:
            recipient = grammar.address(path, utf8=self.options.utf8)
        except grammar.GrammarError:
            raise SmtpRefusal(replies.BAD_ADDRESS) from None
        if recipient in self.recipients:
            return Say(replies.RECIPIENT_OK)
        if len(self.recipients) >= self.limits.recipients:
            raise SmtpRefusal(replies.TOO_MANY_RECIPIENTS)
        return AskRecipient(recipient, RcptOptions(asked, original))

    def _path(self, keyword: str, argument: str) -> tuple[str, dict[str, str | None]]:
        try:
            path, parameters = grammar.path_argument(keyword, argument)
        except grammar.GrammarError:
            raise SmtpRefusal(replies.syntax(f"{keyword}<address>")) from None
        if parameters and not self.extended:
            raise SmtpRefusal(replies.BAD_PARAMETER)
        return path, parameters

    def _data(self, argument: str) -> Step:
        """RFC 5321 §4.1.1.4; never for a binary body, never after BDAT (RFC 3030 §2, §3)."""
        if not self.recipients or self.chunked >= 0 or self.options.body is Body.BINARY:
            raise SmtpRefusal(replies.BAD_SEQUENCE)
        if argument:
            raise SmtpRefusal(replies.BAD_SYNTAX)
        return TakeData()

    def _bdat(self, argument: str) -> Step:
        """RFC 3030 §2: the octets follow whatever the answer, so they are read even when the command is refused."""
        words = argument.upper().split()
        if (
            not words
            or not (words[0].isascii() and words[0].isdigit())
            or len(words[0]) > 20
            or words[1:] not in ([], ["LAST"])
        ):
            # Where the next command begins cannot be known any more.
            raise SmtpRefusal(replies.syntax("BDAT size [LAST]"), closing=True)
        size, last = int(words[0]), len(words) == 2
        if size > self.limits.size * 4:
            raise SmtpRefusal(replies.TOO_BIG, closing=True)
        if not self.recipients or self.broken:
            return TakeChunk(size, last, self.refused(replies.BAD_SEQUENCE))
        self.chunked = max(self.chunked, 0) + size
        if self.chunked > self.limits.size:
            self.broken = True
            return TakeChunk(size, last, self.refused(replies.TOO_BIG))
        return TakeChunk(size, last)

    def _rset(self, argument: str) -> Step:
        if argument:
            raise SmtpRefusal(replies.BAD_SYNTAX)  # RFC 5321 §4.1.1
        self.reset()
        return Say(replies.OK)

    def _noop(self, _argument: str) -> Step:
        return Say(replies.OK)

    def _vrfy(self, argument: str) -> Step:
        """RFC 5321 §3.5.3: allowed to tell nothing."""
        if not argument:
            raise SmtpRefusal(replies.syntax("VRFY address"))
        return Say(replies.CANNOT_VERIFY)

    def _expn(self, _argument: str) -> Step:
        raise SmtpRefusal(replies.NOT_IMPLEMENTED)

    def _help(self, _argument: str) -> Step:
        return Say(replies.HELP)

    def _quit(self, argument: str) -> Step:
        if argument:
            raise SmtpRefusal(replies.BAD_SYNTAX)
        return Quit()


_COMMANDS: dict[str, Callable[[Machine, str], Step]] = {
    "EHLO": Machine._ehlo,
    "HELO": Machine._helo,
    "STARTTLS": Machine._starttls,
    "AUTH": Machine._auth,
    "MAIL": Machine._mail,
    "RCPT": Machine._rcpt,
    "DATA": Machine._data,
    "BDAT": Machine._bdat,
    "RSET": Machine._rset,
    "NOOP": Machine._noop,
    "VRFY": Machine._vrfy,
    "EXPN": Machine._expn,
    "HELP": Machine._help,
    "QUIT": Machine._quit,
}
