"""A send code through a real operator, in every form people give it: then it is looked for in every message, file, audit row,
log line and answer."""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import mime
from proxy import CODE_FIELD, CodeDesk
from smtp import SmtpClient
from tests.agent.conftest import PASSWORD, Operator
from tests.proxy.conftest import ALICE, CLAIRE
from tests.proxy.test_protection import open_as

pytestmark = pytest.mark.slow
SEPARATORS = bytes(octet for octet in range(128) if not chr(octet).isalnum())
Fields = list[tuple[str, str]]


def text(content: str, media: str = "text/plain") -> bytes:
    return mime.leaf(media, content.encode(), parameters={"charset": "utf-8"}, disposition=None)


def letter(number: int, fields: Fields, body: bytes) -> bytes:
    """A message whose fields are written as they are given: encoded words stay what they are."""
    own = [("From", ALICE), ("To", ALICE), ("Message-ID", f"<{number}@x>")]
    return mime.message(own, body).replace(b"\r\n", "".join(f"\r\n{n}: {v}" for n, v in fields).encode() + b"\r\n", 1)


def accepted(code: str) -> list[tuple[Fields, bytes]]:
    """Every way to give a code and to quote one."""
    bare = code.replace("-", "")
    quoted = f"> Subject: [{code}] Avis\r\n> {CODE_FIELD}: {code.lower()}\r\n> {bare}\r\n> {code.replace('-', ' ')}\r\n"
    page = f"<blockquote>[{code.replace('-', '‑')}] <b>{code}</b></blockquote>" + "<p>é</p>" * 300
    words = [base64.b64encode(f"[{half}".encode()).decode() for half in (code[:9],)]
    split = f"=?utf-8?B?{words[0]}?=\r\n =?utf-8?Q?{code[9:].replace('-', '=2D')}=5D_Avis_m=C3=A9dical?="
    forwarded = mime.message([("From", CLAIRE), ("Subject", f"[{code}] Tr"), (CODE_FIELD, code)], text(quoted))
    return [
        ([("Subject", "Avis"), (CODE_FIELD, code)], text("Bonjour")),
        ([("Subject", f"[{code}] Avis")], text("Bonjour")),
        ([("Subject", f"Re: Avis [{code}]"), ("Thread-Topic", f"[{code}] Avis")], text(quoted)),
        ([("Subject", split)], text("sujet codé, coupé en deux mots")),
        ([("Subject", f"[ {code.lower()} ] Avis"), ("References", f"<{bare}@x>")], text("minuscules")),
        (
            [("Subject", "Avis"), (CODE_FIELD, code)],
            mime.multipart(
                "mixed",
                [
                    mime.multipart("alternative", [text(quoted), text(page, "text/html")]),
                    mime.leaf("message/rfc822", forwarded, disposition=None),
                    mime.leaf("application/xml", f"<code>{code}</code>".encode(), filename=f"{code}.xml"),
                ],
            ),
        ),
        ([("Subject", f"Avis [{code}]")], text(quoted + "Longue lettre. " * 30_000)),
    ]


def refused(code: str) -> list[tuple[Fields, bytes, str]]:
    """What is refused keeps nothing either: another code, look-alikes of other alphabets, the code pasted twice."""
    other = code[:-1] + ("A" if code[-1] != "A" else "B")
    cyrillic = "".join({"A": "А", "B": "В", "E": "Е", "H": "Н", "K": "К", "0": "О"}.get(sign, sign) for sign in code)
    lookalike = cyrillic if cyrillic != code else "А" + code[1:]
    return [
        ([("Subject", "Avis"), (CODE_FIELD, other)], text("un autre"), "absent ou refuse"),
        ([("Subject", f"[{lookalike}] Avis")], text("sosies"), "absent ou refuse"),
        ([("Subject", f"[{code}] Avis [{code}]")], text("deux fois"), "une seule fois"),
        ([("Subject", f"[{code}] Avis"), (CODE_FIELD, code)], text("champ et sujet"), "une seule fois"),
    ]


def files_under(folder: Path) -> Iterator[bytes]:
    """Every file of the operator's folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.read_bytes()


def read_again(content: bytes) -> Iterator[bytes]:
    """A message as its reader's program shows it: decoded parts, decoded fields."""
    tree = mime.parse(content)
    for part in tree.walk():
        yield part.decoded(content)
        yield from (mime.decode_words(field.text).encode("utf-8", "replace") for field in part.fields)


async def test_a_code_is_nowhere_after_it_was_used_and_quoted(
    operator: Operator, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    desk = operator.desk
    desk.store.set_policy(ALICE, "sign", "with_code", desk.now)
    desk.store.set_policy(ALICE, "confirm", "always", desk.now)
    code = CodeDesk(desk.store).issue(desk.account(ALICE), at=desk.now, life=timedelta(days=1)).text
    context = ssl.create_default_context(cafile=str(operator.anchors))
    said: list[str] = []

    async def send(number: int, fields: Fields, body: bytes) -> list[str]:
        client = await SmtpClient.connect("127.0.0.1", operator.port, hostname="poste", tls=context)
        await client.login_plain(ALICE, PASSWORD)
        answers = await client.send(ALICE, [ALICE, CLAIRE], letter(number, fields, body))
        await client.quit()
        said.extend(str(answer) for answer in answers.values())
        return said[-len(answers) :]

    good, bad = accepted(code), refused(code)
    for number, (fields, body) in enumerate(good):
        assert all(answer.startswith("250") for answer in await send(number, fields, body)), (number, said)
    for number, (fields, body, reason) in enumerate(bad, len(good)):
        assert all(answer.startswith("550") and reason in answer for answer in await send(number, fields, body)), said
    received = operator.inbox(ALICE)
    assert len(received) == 2 * len(good)  # each with its confirmation
    store = desk.store
    with store._db.read() as connection:
        blobs = [row[0] for row in connection.exec_driver_sql("SELECT blob FROM contents").all()]
        rows = [str(row) for row in connection.exec_driver_sql("SELECT * FROM audit").all()]
    seen = [*received, "".join(rows).encode(), caplog.text.encode(), "".join(said).encode()]
    seen += [part.encode() for part in capfd.readouterr()]
    for blob in blobs:
        content = store.read_blob(blob)
        seen.append(content)
        if mime.parse(content).media_type == "application/pkcs7-mime":
            seen.append(open_as(desk, CLAIRE, content).content)
    assert len(seen) >= 5 + 3 * len(good)
    readable = [content for content in seen if content.isascii() and b"\r\n\r\n" in content]
    assert len(readable) >= 3 * len(good)
    seen += [piece for content in readable for piece in read_again(content)]
    seen += files_under(tmp_path)
    secret = code.replace("-", "")[4:].encode()
    codes = [base64.b64encode(bytes(shift) + code.encode()) for shift in range(3)]
    for content in seen:
        flat = re.sub(rb"=\r?\n|=2D|\xe2\x80.|\xc2[\xa0\xad]", b"", content).upper().translate(None, SEPARATORS)
        assert secret not in flat
        assert not any(one[4:28] in content for one in codes)
