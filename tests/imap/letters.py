"""Messages as unlike as mail is, from a seed: forms of addresses, subjects, dates and trees of parts that programs really write."""

from __future__ import annotations

import random

NAMES = (
    "Claire Martin", '"Dr. Petit, Rene"', "=?utf-8?q?Ren=C3=A9_Petit?=", "=?iso-8859-1?B?RnJhbudvaXM=?=", "zoe",
    '"a \\"quoted\\" name"', "", "=?utf-8?Q?Jos=C3=A9?= =?utf-8?Q?_Garcia?=", "A. B. C.",
)  # fmt: skip
ADDRESSES = ("claire@a.fr", "petit@b.fr", "x.y@c.example", '"odd one"@d.fr', "UPPER@E.FR", "zoe@f.fr", "a@[192.0.2.1]")
SUBJECTS = (
    "bilan", "Re: bilan", "RE: Re: bilan", "Fwd: bilan", "[liste] bilan", "Re: [liste] Re: bilan", "bilan (fwd)",
    "[Fwd: bilan]", "=?utf-8?q?R=C3=A9sultats?=", "Re: =?utf-8?q?R=C3=A9sultats?=", "compte rendu\r\n operatoire", "Re:",
    "Re: Re:", "re[2]: bilan", "Fw: x", "=?us-ascii?Q?plain?= and =?utf-8?b?w6k=?=", '"quoted"', "[a][b] c", "=?broken?=",
    "Re : bilan",
)  # fmt: skip
DATES = (
    "Fri, 20 Nov 2020 10:00:00 +0100", "20 Nov 2020 08:00:00 GMT", "Thu, 19 Nov 20 10:00:00 EST",
    "Wed, 18 Nov 2020 23:59:59 +0000", "Tue, 17 Nov 2020 10:00 +0200", "Mon, 16 Nov 2020 10:00:00 -0800 (PST)",
    "Sun, 15 Nov 2020 01:00:00 +0000", "Sat, 14 Nov 2020 23:30:00 -0500",
)  # fmt: skip
TYPES = (
    "text/plain; charset=utf-8", "text/plain; charset=UTF-8; format=flowed", 'text/html; charset="iso-8859-1"',
    'application/pdf; name="cr.pdf"', "application/octet-stream; name*=utf-8''r%C3%A9sultat.pdf",
    'text/x-odd; a=b; c="d e"; charset=us-ascii', "application/hl7-v2+er7",
    'image/png; x=1; name*0="une "; name*1="image"', "TEXT/PLAIN (comment); charset=utf-8",
)  # fmt: skip
EXTRAS = (
    "Content-ID: <id@x>", "Content-Description: une description", "Content-MD5: Q2hlY2sgSW50ZWdyaXR5IQ==",
    "Content-Language: fr, en", "Content-Location: http://x/y",
)  # fmt: skip
BODIES = ("bonjour\r\n", "line one\r\nline two", "\u00e9t\u00e9 \u00e0 la plage\r\n", "x" * 200 + "\r\n", "")


class Letters:
    """A writer of messages."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def message(self, number: int) -> bytes:
        """Message `number`; its Message-ID and those it refers to are made from small numbers."""
        fields, body = self._entity(3)
        lines = [*self._header(number), "MIME-Version: 1.0", *fields]
        return ("".join(f"{line}\r\n" for line in lines) + "\r\n" + body).encode()

    def _one(self, *choices: str) -> str:
        return self.random.choice(choices)

    def _likely(self, share: float) -> bool:
        return self.random.random() < share

    def _mailbox(self) -> str:
        name, address = self._one(*NAMES), self._one(*ADDRESSES)
        if self._likely(0.1):
            return f"{address} (Claire)"
        return f"{name} <{address}>" if name else self._one(address, f"<{address}>")

    def _addresses(self) -> str:
        if self._likely(0.08):
            return "undisclosed-recipients:;"
        listed = self._one(", ", ",\r\n ", ",").join(self._mailbox() for _ in range(self.random.randint(1, 3)))
        return f"Group: {listed};" if self._likely(0.08) else listed

    def _header(self, number: int) -> list[str]:
        optional = (("Sender", 0.2, self._mailbox), ("Reply-To", 0.2, self._addresses), ("Cc", 0.4, self._addresses))
        lines = [f"Date: {self._one(*DATES)}", f"From: {self._addresses()}", f"To: {self._addresses()}"]
        lines += [f"{self._one('Subject', 'SUBJECT', 'subject')}: {self._one(*SUBJECTS)}", f"Message-ID: <{number}@t>"]
        lines += [f"{name}: {made()}" for name, share, made in optional if self._likely(share)]
        if self._likely(0.5):
            lines.append(f"In-Reply-To: <{self.random.randint(0, number)}@t>")
        if self._likely(0.4):
            known = [f"<{self.random.randint(0, number)}@t>" for _ in range(self.random.randint(1, 4))]
            lines.append(f"References: {' '.join(known)}")
        if self._likely(0.5):
            lines.append(f"X-Test: {self._one('un', 'deux', 'trois')}")
        self.random.shuffle(lines)
        return lines

    def _entity(self, depth: int) -> tuple[list[str], str]:
        if depth and self._likely(0.35):
            return self._multipart(depth)
        if depth and self._likely(0.2):
            fields, body = self._entity(depth - 1)
            inner = "".join(f"{line}\r\n" for line in [*self._header(99), "MIME-Version: 1.0", *fields])
            return ["Content-Type: message/rfc822"], f"{inner}\r\n{body}"
        return self._leaf()

    def _multipart(self, depth: int) -> tuple[list[str], str]:
        boundary = f"b{self.random.randint(0, 10**9)}"
        body = self._one("", "preamble\r\n")
        for _ in range(self.random.randint(1, 3)):
            fields, inner = self._entity(depth - 1)
            body += (
                f"--{boundary}{self._one('', ' ')}\r\n" + "".join(f"{line}\r\n" for line in fields) + f"\r\n{inner}\r\n"
            )
        kind = self._one("mixed", "alternative", "RELATED", "digest", "report; report-type=delivery-status")
        quoted = self._one(boundary, f'"{boundary}"')
        return [f"Content-Type: multipart/{kind}; boundary={quoted}"], f"{body}--{boundary}--\r\n{self._one('', 'end')}"

    def _leaf(self) -> tuple[list[str], str]:
        lines, body = [f"Content-Type: {self._one(*TYPES)}"], self._one(*BODIES)
        encoding = self._one("", "", "7bit", "base64", "quoted-printable", "8BIT")
        if encoding:
            lines.append(f"Content-Transfer-Encoding: {encoding}")
        if encoding == "base64":
            body = "Ym9uam91ciDDqXTDqQ0K\r\n" * self.random.randint(1, 3)
        elif encoding == "quoted-printable":
            body = "=C3=A9t=C3=A9 =\r\nsuite\r\n"
        lines += [extra for extra in EXTRAS if self._likely(0.15)]
        if self._likely(0.3):
            disposition = self._one(
                "attachment; filename*0=cr; filename*1=.pdf", "inline", 'ATTACHMENT; filename="a b.pdf"'
            )
            lines.append(f"Content-Disposition: {disposition}")
        self.random.shuffle(lines)
        return lines, body
