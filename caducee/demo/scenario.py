"""What the demonstration shows, step by step, with a proof for each step.

(a) the hospital's report, with a send code, to two GPs of another operator and to the patient's record;
(b) a GP's reply, and another's, signed with her card at her desk; (c) a message to a domain outside the trust space; (d) a
peer that is not listed for its sender's domain.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import make_msgid

import structlog

import mime
import smime
from caducee.demo import openssl, surgery
from caducee.demo.country import DOCTORS, HOSPITAL, Country, Place, cast
from caducee.demo.report import Report, Writer, make_report, report_message
from caducee.errors import UsageError
from caducee.mailclient import Login, Mailbox, Received, submit
from caducee.record import open_record
from directory import people
from dossier import Entry, RecordView
from smtp import Answer, SmtpClient
from trustspace import Anchors, client_context

OUTSIDE = "dr.ailleurs@cabinet-ailleurs.example"
_ARRIVAL_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Step:
    """One step as it went. `seconds` is its duration, `proof` what a witness or a server said; `skipped` when this machine
    cannot play it, which fails nothing: `proof` then says why."""

    name: str
    ok: bool
    seconds: float
    proof: str
    skipped: bool = False


class StepFailed(Exception):
    """A step did not show what it had to; the text says what was seen instead."""


class StepSkipped(Exception):
    """A step that this machine cannot play; the text says why."""


class Scenario:
    """Plays the steps on a running country. A failed step does not stop the others that do not need it."""

    def __init__(self, country: Country, on_step: Callable[[Step], None], on_start: Callable[[str], None]) -> None:
        self._country = country
        self._on_step = on_step
        self._on_start = on_start
        self._cast = cast()
        anchors = Anchors.load(country.authority.folder)
        self._tls = client_context(None, None, anchors, check_hostname=True)
        self._gateway_tls = client_context(country.gateway.chain, country.gateway.key, anchors, check_hostname=True)
        self._stranger_tls = client_context(country.stranger.chain, country.stranger.key, anchors, check_hostname=False)
        author = self._cast.cardiologist
        chu = people.CHU_EXEMPLE
        self.report: Report = make_report(
            Writer(author.national_id, author.surname, author.given_name, chu.national_id, chu.name),
            at=datetime.now(UTC),
        )
        self._message_id = make_msgid(domain="passerelle.chu-exemple.fr")
        self._received: Received | None = None

    async def play(self) -> bool:
        """All the steps; True when every one of them showed what it had to."""
        steps: list[tuple[str, Callable[[], Awaitable[str]]]] = [
            ("a1. Le CHU remet un compte rendu en clair, avec un code d'envoi", self._gateway_sends),
            ("a2. Signé au nom du CHU : la généraliste le lit par IMAP", self._gp_reads),
            ("a3. Chiffré : sa consœur, qui garde sa clé, l'ouvre avec OpenSSL", self._own_key_reads),
            ("a4. Le document est dans le dossier du patient", self._record_has_it),
            ("b1. La généraliste répond ; le service de cardiologie lit", self._gp_replies),
            ("b2. Sa consœur signe avec sa carte CPS, par l'agent de son poste", self._card_signs),
            ("c1. Vers un domaine hors de l'espace de confiance : refusé", self._outside_refused),
            ("d1. Un opérateur parle pour un domaine qui n'est pas le sien : refusé", self._stranger_refused),
        ]
        results = [await self._step(name, action) for name, action in steps]
        return all(results)

    async def _step(self, name: str, action: Callable[[], Awaitable[str]]) -> bool:
        self._on_start(name)
        begin = time.perf_counter()
        skipped = False
        try:
            proof, ok = await action(), True
        except StepSkipped as reason:
            proof, ok, skipped = str(reason), True, True
        except (StepFailed, UsageError) as error:
            proof, ok = str(error), False
        except Exception as error:
            # A broken connection or store is a step that failed: the others still tell where.
            structlog.get_logger().exception("step failed")
            proof, ok = type(error).__name__, False
        self._on_step(Step(name, ok, time.perf_counter() - begin, proof, skipped))
        return ok

    async def _gateway_sends(self) -> str:
        """Hand over as the gateway does, and wait (IDLE) for the message at the other operator."""
        recipients = [self._cast.gp.mail, self._cast.gp_with_own_key.mail]
        content = report_message(
            self.report, sender=f"CHU EXEMPLE <{people.GATEWAY}>", recipients=recipients, code=self._country.send_code
        )
        content = mime.prepend_fields(content, [("Message-ID", self._message_id)])
        async with self._mailbox(self._country.doctors, self._cast.gp.mail) as inbox:
            begin = time.perf_counter()
            answers = await submit(
                self._country.hospital.settings, self._gateway_tls, Login(people.GATEWAY), recipients, content
            )
            accepted = _accepted(answers)
            self._received = await inbox.wait_for(self._message_id, _ARRIVAL_SECONDS)
            delay = time.perf_counter() - begin
        return f"{accepted} — visible en IMAP en {delay * 1000:.0f} ms"

    async def _gp_reads(self) -> str:
        received = self._need_message()
        if self._country.send_code.encode() in received.content:
            raise StepFailed("le code d'envoi est dans le message / the send code is in the message")
        said = await asyncio.to_thread(openssl.verify, received.content, self._country.authority)
        results = (mime.parse(received.content).get("Authentication-Results") or "").partition(";")[2].strip()
        return f"openssl cms -verify : {said} ; drapeaux {' '.join(received.flags)} ; {results[:60]}…"

    async def _own_key_reads(self) -> str:
        async with self._mailbox(self._country.doctors, self._cast.gp_with_own_key.mail) as inbox:
            received = await inbox.wait_for(self._message_id, _ARRIVAL_SECONDS)
        media = mime.parse(received.content)
        if self.report.header.unique_id.encode() in received.content or media.media_type != "application/pkcs7-mime":
            raise StepFailed("le message n'est pas chiffré / the message is not encrypted")
        clear = await asyncio.to_thread(openssl.decrypt, received.content, self._country.own_key, self._country.root)
        said = await asyncio.to_thread(openssl.verify, clear, self._country.authority)
        kind = media.parameters.get("smime-type", "")
        return f"{media.media_type} {kind} → openssl cms -decrypt, puis -verify : {said}"

    async def _record_has_it(self) -> str:
        deadline = time.monotonic() + _ARRIVAL_SECONDS
        while not (entries := await asyncio.to_thread(self._entries)):
            if time.monotonic() > deadline:
                raise StepFailed("le document n'est pas arrivé / the document did not arrive")
            await asyncio.sleep(0.05)
        if len(entries) != 1 or entries[0].unique_id != self.report.header.unique_id:
            raise StepFailed(f"{len(entries)} documents dans le dossier, un attendu / one expected")
        return f"uniqueId {entries[0].unique_id}, SHA-1 {entries[0].sha1}, {entries[0].status}"

    def _entries(self) -> list[Entry]:
        """The patient's documents in the record whose bytes are exactly those sent."""
        store = open_record(self._country.national.folder)
        try:
            view = RecordView(store, "demo")
            entries = view.show(self.report.header.patient.ins)
            return [one for one in entries if view.fetch(one.unique_id) == self.report.cda]
        finally:
            store.close()

    async def _gp_replies(self) -> str:
        received = self._need_message()
        original = mime.parse(received.content)
        message_id = make_msgid(domain=DOCTORS)
        text = "Merci pour ce compte rendu, je revois le patient dans un mois.\r\n\r\nDr Exemple\r\n"
        content = mime.message(
            [
                ("From", f"Dr {self._cast.gp.given_name} {self._cast.gp.surname} <{self._cast.gp.mail}>"),
                ("To", people.CARDIOLOGY),
                ("Subject", "Re: " + (original.get("Subject") or "")),
                ("Message-ID", message_id),
                ("In-Reply-To", self._message_id),
            ],
            mime.leaf("text/plain", text.encode(), parameters={"charset": "utf-8"}, disposition=None),
        )
        async with self._mailbox(self._country.hospital, people.CARDIOLOGY) as inbox:
            begin = time.perf_counter()
            login = Login(self._cast.gp.mail, self._country.passwords[self._cast.gp.mail])
            _accepted(
                await submit(
                    self._country.doctors.settings, self._tls, login, [people.CARDIOLOGY], content, starttls=True
                )
            )
            reply = await inbox.wait_for(message_id, _ARRIVAL_SECONDS)
            delay = time.perf_counter() - begin
        said = await asyncio.to_thread(openssl.verify, reply.content, self._country.authority)
        return f"visible en IMAP en {delay * 1000:.0f} ms ; openssl cms -verify : {said}"

    async def _card_signs(self) -> str:
        """A mail program sends through the desk agent; what arrives is checked by OpenSSL, and by us for who signed."""
        if why := surgery.missing():
            raise StepSkipped(f"non joué : la carte d'exercice veut un lecteur virtuel / not played: {why}")
        doctor = self._cast.gp_with_own_key
        message_id = make_msgid(domain=DOCTORS)
        text = "Vu ce jour, ordonnance adaptée.\r\n\r\nSigné avec ma carte.\r\n"
        content = mime.message(
            [
                ("From", f"Dr {doctor.given_name} {doctor.surname} <{doctor.mail}>"),
                ("To", people.CARDIOLOGY),
                ("Subject", "Votre patient"),
                ("Message-ID", message_id),
            ],
            mime.leaf("text/plain", text.encode(), parameters={"charset": "utf-8"}, disposition=None),
        )
        async with self._mailbox(self._country.hospital, people.CARDIOLOGY) as inbox:
            made, delay = await asyncio.to_thread(self._send_from_surgery, content)
            received = await inbox.wait_for(message_id, _ARRIVAL_SECONDS)
        said = await asyncio.to_thread(openssl.verify, received.content, self._country.authority)
        (signature,) = smime.verify_message(received.content, at=datetime.now(UTC), path=None)
        if (signature.national_id, made) != (doctor.national_id, 2):
            raise StepFailed(
                f"signé par / signed by {signature.national_id}, {made} signatures de la carte / of the card"
            )
        return (
            f"carte d'exercice, lecteur virtuel (pcscd) : signée et remise en {delay * 1000:.0f} ms, connexion par la carte "
            f"comprise ; openssl cms -verify : {said} ; signataire {signature.national_id}"
        )

    def _send_from_surgery(self, content: bytes) -> tuple[int, float]:
        """How many signatures the card made (message, login), and how long sending took, in seconds."""
        with surgery.Surgery(self._country) as desk:
            begin = time.perf_counter()
            desk.send([people.CARDIOLOGY], content)
            return desk.card.signatures, time.perf_counter() - begin

    async def _outside_refused(self) -> str:
        login = Login(self._cast.gp.mail, self._country.passwords[self._cast.gp.mail])
        content = mime.message(
            [("From", self._cast.gp.mail), ("To", OUTSIDE), ("Subject", "Essai")],
            mime.leaf("text/plain", b"Essai\r\n", disposition=None),
        )
        answers = await submit(self._country.doctors.settings, self._tls, login, [OUTSIDE], content, starttls=True)
        return _refusal(answers[OUTSIDE], "5.1.2")

    async def _stranger_refused(self) -> str:
        """A true operator's certificate, listed, but not for the hospital's domain."""
        listen = self._country.doctors.settings.listen
        client = await SmtpClient.connect(listen.host, listen.reception, hostname="mss.autre-operateur.exemple")
        try:
            await client.starttls(self._stranger_tls)
            await client.ehlo()
            answer = await client.command(f"MAIL FROM:<direction@{HOSPITAL}>")
        finally:
            await client.quit()
        return _refusal(answer, "5.7.1")

    def _mailbox(self, place: Place, address: str) -> Mailbox:
        return Mailbox(place.settings, self._tls_for(place), Login(address, self._country.passwords[address]))

    def _tls_for(self, _place: Place) -> ssl.SSLContext:
        return self._tls

    def _need_message(self) -> Received:
        if self._received is None:
            raise StepFailed("le message n'est pas arrivé (étape a1) / the message did not arrive (step a1)")
        return self._received


def _accepted(answers: dict[str, Answer]) -> str:
    refused = [f"{name}: {answer}" for name, answer in answers.items() if not answer.ok]
    if refused:
        raise StepFailed("; ".join(refused))
    return str(next(iter(answers.values())))


def _refusal(answer: Answer, enhanced: str) -> str:
    if answer.enhanced != enhanced or not answer.permanent:
        raise StepFailed(f"réponse inattendue / unexpected answer: {answer}")
    return str(answer)
