"""The GP's surgery: her practice card in a virtual reader, and the desk agent on a terminal where her PIN is typed.

Invariants: the agent is the program that people run, with its own command and settings file; nothing is left running, also
when the demonstration is killed; `missing()` says why a machine cannot play this, in French then English.
"""

from __future__ import annotations

import os
import pty
import re
import secrets
import smtplib
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from caducee.agent import settings as agent_settings
from caducee.agent.settings import AgentSettings, local_digest
from caducee.demo import virtual_reader
from caducee.demo.country import Country, agent_port, cast
from caducee.demo.practice_card import PracticeCard
from caducee.demo.virtual_reader import Pcscd
from caducee.errors import UsageError

READY = "caducee agent ready"
_ASKED = re.compile(r"Code PIN \(|Signer \? /")
_START_SECONDS = 30.0
_CARD_SECONDS = 10.0


def missing() -> str:
    """Why this machine cannot put a practice card in a virtual reader, "" when it can."""
    if sys.platform != "linux":
        return "lecteur virtuel : Linux seulement / virtual reader: Linux only"
    return virtual_reader.missing()


class AgentOnTerminal:
    """`caducee agent run` on a terminal of its own, whose holder types `answers` one after the other, then nothing.

    `shown` is what the terminal showed, `asked` how many questions it asked."""

    def __init__(self, folder: Path, answers: Sequence[bytes], environment: Mapping[str, str] | None = None) -> None:
        self.answers = list(answers)
        self.shown = ""
        self.asked = 0
        self._master, slave = pty.openpty()
        # setsid --ctty: the terminal is the program's own, so that it ends (SIGHUP) when we disappear.
        self._process = subprocess.Popen(
            ["setsid", "--ctty", sys.executable, "-m", "caducee.cli", "agent", "run", os.fspath(folder)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
        )
        os.close(slave)
        threading.Thread(target=self._watch, daemon=True).start()

    def wait_ready(self) -> None:
        """Wait until the agent listens. Raises UsageError with what it said."""
        deadline = time.monotonic() + _START_SECONDS
        while READY not in self.shown:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise UsageError(f"agent de poste / desk agent: {self.shown.strip()[-500:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the agent and close its terminal."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with suppress(OSError):
            os.close(self._master)

    def _watch(self) -> None:
        while True:
            try:
                self.shown += os.read(self._master, 4096).decode("utf-8", "replace")
                if len(_ASKED.findall(self.shown)) > self.asked:
                    self.asked += 1
                    os.write(self._master, (self.answers.pop(0) if self.answers else b"") + b"\n")
            except OSError:  # the agent ended
                return


class Surgery:
    """The surgery of the GP who keeps her own key, open as long as the context lasts. Blocks: use it in a thread.

    `sends` is how many messages she will agree to sign; `reader` holds her card. Raises UsageError when the reader or the
    agent does not start."""

    def __init__(self, country: Country, *, sends: int = 1) -> None:
        self._port = agent_port(country)
        self._folder = country.root / "agent"
        self.reader = Pcscd(country.root / "lecteur")
        self.card = PracticeCard(country.card)
        self._answers = [country.card.pin, *[b"o"] * (sends - 1)]
        self._address = cast().gp_with_own_key.mail
        self._password = secrets.token_urlsafe(18)
        self._listen = country.doctors.settings.listen
        authority = country.authority
        self._authorities = (*authority.anchors, *authority.intermediates)
        self._agent: AgentOnTerminal | None = None

    def __enter__(self) -> Surgery:
        agent_settings.create(
            self._folder,
            AgentSettings(
                address=self._address,
                host=self._listen.local_host,
                port=self._listen.submissions,
                imap_port=self._listen.imaps,
                login="card",
                listen_port=self._port,
                local_password_sha256=local_digest(self._password),
                display="terminal",
            ),
            self._authorities,
        )
        try:
            self.reader.start()
            self.reader.slots[0].insert(self.card)
            self._agent = AgentOnTerminal(self._folder, self._answers, self.reader.environment)
            self._agent.wait_ready()
        except BaseException as error:
            self.__exit__()
            if isinstance(error, OSError | RuntimeError):
                raise UsageError(f"lecteur virtuel / virtual reader: {error}") from None
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._agent is not None:
            self._agent.stop()
        self.reader.stop()

    def send(self, recipients: Sequence[str], content: bytes) -> str:
        """What a mail program does: the agent's answer, which is the operator's own. Raises UsageError on a refusal."""
        deadline = time.monotonic() + _CARD_SECONDS
        while True:
            answer = self._send(recipients, content)
            # The reader looks for cards two times a second: this one was just put in.
            if "4.7.5" not in answer or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        if not answer.startswith("250"):
            raise UsageError(f"agent de poste / desk agent: {answer}")
        return answer

    def _send(self, recipients: Sequence[str], content: bytes) -> str:
        try:
            with smtplib.SMTP("127.0.0.1", self._port, timeout=60) as program:
                program.login(self._address, self._password)
                program.mail(self._address)
                for one in recipients:
                    program.rcpt(one)
                code, text = program.data(content)
        except smtplib.SMTPResponseException as error:
            code, text = error.smtp_code, error.smtp_error if isinstance(error.smtp_error, bytes) else b""
        except (smtplib.SMTPException, OSError) as error:
            raise UsageError(f"agent de poste / desk agent: {type(error).__name__}") from None
        return f"{code} {text.decode('ascii', 'replace')}"
