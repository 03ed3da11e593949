"""A small SMTP client, for the sender, the command line and tests: login, and the sending of a message.

Invariants: those of `dialogue`; a message that another server could read differently (bare CR or LF), or that asks for what the
server does not offer, is not sent.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from smtp.dialogue import Answer, ClientError, Dialogue
from smtp.outgoing import Outgoing


class SmtpClient(Dialogue):
    """A connected client. Make it with `connect`; end it with `quit` or `close`."""

    async def login_plain(self, login: str, password: str) -> None:
        """AUTH PLAIN (RFC 4616), under TLS only. Raises Refused, ClientError."""
        if not self.tls_version:
            raise ClientError("pas de mot de passe sans TLS / no password without TLS")
        token = base64.b64encode(f"\0{login}\0{password}".encode()).decode("ascii")
        self.must(await self.command(f"AUTH PLAIN {token}"))

    async def login_external(self) -> None:
        """AUTH EXTERNAL with the client certificate of the TLS context. Raises Refused, ClientError."""
        self.must(await self.command("AUTH EXTERNAL ="))

    async def send(
        self,
        sender: str,
        recipients: Sequence[str],
        content: bytes | Outgoing,
        options: Mapping[str, str] | None = None,
        originals: Mapping[str, str] | None = None,
    ) -> dict[str, Answer]:
        """Send one message (CRLF lines); one answer for each recipient. `sender` "" is the null sender.

        `options`: `envid`, `ret`, `notify` (RFC 3461), `requiretls`, `utf8`; `originals`: ORCPT by recipient. Raises
        ClientError when the connection breaks: nothing is then known of any recipient.
        """
        message = content if isinstance(content, Outgoing) else Outgoing.of(content)
        options, originals = options or {}, originals or {}
        refusal = self._unfit(message, options, (sender, *recipients))
        if refusal is not None:
            return dict.fromkeys(recipients, refusal)
        commands = [f"MAIL FROM:<{sender}>{self._mail_parameters(message, options)}"]
        commands += [f"RCPT TO:<{one}>{self._rcpt_parameters(options, originals.get(one, ''))}" for one in recipients]
        if message.small is not None and {"PIPELINING", "CHUNKING"} <= self.capabilities.keys():
            answers = await self.batch([*commands, f"BDAT {message.size} LAST"], message.small)
        else:
            answers = await self.batch(commands)
        if not answers[0].ok:
            await self._reset()
            return dict.fromkeys(recipients, answers[0])
        results = dict(zip(recipients, answers[1:], strict=False))
        taken = [recipient for recipient, answer in results.items() if answer.ok]
        if not taken:
            await self._reset()
            return results
        final = answers[-1] if len(answers) > len(commands) else await self._content(message)
        results.update(dict.fromkeys(taken, final))
        return results

    async def _content(self, message: Outgoing) -> Answer:
        if "CHUNKING" in self.capabilities:
            return await self._chunks(message)
        final = await self.command("DATA")
        if final.code == 354:
            return await self._data(message)
        if final.ok:
            raise ClientError("succes annonce avant le message / success announced before the message was sent")
        await self._reset()
        return final

    async def _reset(self) -> None:
        """End a refused transaction, or the next MAIL would be out of sequence. A peer that hangs up after its refusal
        has answered all the same: the next message finds the connection gone."""
        try:
            await self.command("RSET")
        except ClientError:
            self.close()

    def _unfit(self, message: Outgoing, options: Mapping[str, str], addresses: Sequence[str]) -> Answer | None:
        offered = self.capabilities
        if message.faulty:
            return Answer(554, "5.6.0", "CR ou LF isole ou octet nul / bare CR, bare LF or NUL in the message")
        if message.eight_bit and "8BITMIME" not in offered:
            return Answer(554, "5.6.3", "contenu 8 bits refuse en face / the peer does not take 8-bit content")
        if options.get("requiretls") and "REQUIRETLS" not in offered:
            return Answer(
                554, "5.7.30", "REQUIRETLS demande, pas offert en face / the peer does not offer REQUIRETLS as asked"
            )
        # RFC 6531 §3.2: neither such addresses nor, where the sender declared them, such headers.
        beyond = (options.get("utf8") and message.international) or not all(one.isascii() for one in addresses)
        if beyond and "SMTPUTF8" not in offered:
            return Answer(553, "5.6.7", "SMTPUTF8 pas offert en face / the peer does not take text beyond ASCII")
        limit = offered.get("SIZE", "")
        if limit.isdigit() and 0 < int(limit) < message.size:
            return Answer(552, "5.3.4", f"au plus {limit} octets en face / the peer takes at most {limit} octets")
        return None

    def _mail_parameters(self, message: Outgoing, options: Mapping[str, str]) -> str:
        offered = self.capabilities
        words = [f"SIZE={message.size}"] if "SIZE" in offered else []
        words += ["BODY=8BITMIME"] if message.eight_bit else []
        words += ["SMTPUTF8"] if options.get("utf8") and "SMTPUTF8" in offered else []
        words += ["REQUIRETLS"] if options.get("requiretls") else []
        if "DSN" in offered:
            words += [f"{name.upper()}={options[name]}" for name in ("ret", "envid") if options.get(name)]
        return "".join(f" {word}" for word in words)

    def _rcpt_parameters(self, options: Mapping[str, str], original: str) -> str:
        if "DSN" not in self.capabilities:
            return ""
        notify = f" NOTIFY={options['notify']}" if options.get("notify") else ""
        return notify + (f" ORCPT={original}" if original else "")

    async def _data(self, message: Outgoing) -> Answer:
        """A dot-stuffed block (RFC 5321 §4.5.2), whatever the pieces."""
        tail = b"\r\n"
        async for piece in message.pieces():
            joined = (tail + piece).replace(b"\r\n.", b"\r\n..")
            await self.write(joined[len(tail) :])
            tail = piece[-2:] if len(piece) > 1 else (tail + piece)[-2:]
        await self.write(b".\r\n" if tail == b"\r\n" else b"\r\n.\r\n")
        return await self.answer(self.patience.data_end)

    async def _chunks(self, message: Outgoing) -> Answer:
        """RFC 3030: no stuffing, no waiting for a dot; a chunk refused ends the message."""
        sent = 0
        async for piece in message.pieces():
            sent += len(piece)
            last = sent >= message.size
            await self.write(f"BDAT {len(piece)}{' LAST' if last else ''}\r\n".encode("ascii") + piece)
            answer = await self.answer(self.patience.data_end)
            if last or not answer.ok:
                if not answer.ok and not last:
                    await self._reset()
                return answer
        await self.write(b"BDAT 0 LAST\r\n")
        return await self.answer(self.patience.data_end)
