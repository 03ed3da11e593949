"""A send code through a real operator: then it is looked for in every message, file, audit row and log line."""

from __future__ import annotations

import base64
import ssl
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


def files_under(folder: Path) -> list[bytes]:
    """The store's files; the directory's database is a sparse file of gigabytes, and knows no code."""
    return [path.read_bytes() for name in ("mail.db*", "blobs/**/*") for path in folder.glob(name) if path.is_file()]


async def test_a_code_is_nowhere_after_it_was_used_and_quoted(
    operator: Operator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = operator.desk
    desk.store.set_policy(ALICE, "sign", "with_code", desk.now)
    code = CodeDesk(desk.store).issue(desk.account(ALICE), at=desk.now, life=timedelta(days=1)).text
    quoted = f"> Subject: [{code}] Avis\r\n> {CODE_FIELD}: {code.lower()}\r\n> {code.replace('-', '')}\r\n"
    messages = [
        ([("Subject", "Avis"), (CODE_FIELD, code)], "Bonjour"),
        ([("Subject", f"[{code}] Avis médical")], "Bonjour"),
        ([("Subject", f"Re: Avis [{code}]"), ("Thread-Topic", f"[{code}] Avis")], quoted),
        ([("Subject", "Avis"), (CODE_FIELD, code[:-1] + "A")], "refused"),
    ]
    context = ssl.create_default_context(cafile=str(operator.anchors))
    for number, (fields, text) in enumerate(messages):
        raw = mime.message(
            [("From", ALICE), ("To", ALICE), ("Message-ID", f"<{number}@x>"), *fields],
            mime.leaf("text/plain", text.encode(), parameters={"charset": "utf-8"}, disposition=None),
        )
        client = await SmtpClient.connect("127.0.0.1", operator.port, hostname="poste", tls=context)
        await client.login_plain(ALICE, PASSWORD)
        answers = await client.send(ALICE, [ALICE, CLAIRE], raw)
        await client.quit()
        assert all(answer.ok is (number < 3) for answer in answers.values()), answers
    store = desk.store
    received = operator.inbox(ALICE)
    assert len(received) == 3
    with store._db.read() as connection:
        blobs = [row[0] for row in connection.exec_driver_sql("SELECT blob FROM contents").all()]
        audit = "".join(row[0] for row in connection.exec_driver_sql("SELECT detail FROM audit").all())
    seen = [*received, audit.encode(), caplog.text.encode()]
    for blob in blobs:
        content = store.read_blob(blob)
        seen.append(content)
        if mime.parse(content).media_type == "application/pkcs7-mime":
            seen.append(open_as(desk, CLAIRE, content).content)
    assert len(seen) >= 3 + 2 + 6
    seen += files_under(tmp_path)
    for content in list(seen):
        if content.isascii():
            tree = mime.parse(content)
            seen += [part.decoded(content) for part in tree.walk()]
            seen += [mime.decode_words(field.text).encode("utf-8", "replace") for field in tree.fields]
    secret = code.replace("-", "")[4:].encode()
    for content in seen:
        assert secret not in content.upper().translate(None, SEPARATORS)
        assert base64.b64encode(code.encode())[4:20] not in content
