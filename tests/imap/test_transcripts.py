"""Conversations, line by line, with the running server."""

from __future__ import annotations

import pytest

from tests.imap.support import ADDRESS, MULTIPART, PASSWORD, SIMPLE, Client, House, play

LOGIN = f'C: a LOGIN {ADDRESS} "{PASSWORD}"\nS: a OK [CAPABILITY IMAP4rev1<...>] Logged in\n'

FOLDERS = r"""
C: b LIST "" *
S: * LIST (\HasNoChildren) "/" INBOX
S: * LIST (\HasNoChildren \Archive) "/" Archives
S: * LIST (\HasNoChildren \Drafts) "/" Brouillons
S: * LIST (\HasNoChildren \Trash) "/" Corbeille
S: * LIST (\HasNoChildren \Sent) "/" Envoy&AOk-s
S: * LIST (\HasNoChildren \Junk) "/" Ind&AOk-sirables
S: b OK LIST completed
C: c LIST "" ""
S: * LIST (\Noselect) "/" ""
S: c OK LIST completed
C: d CREATE Patients/2026
S: d OK [MAILBOXID (F<...>)] CREATE completed
C: e LIST "" Patients%
S: * LIST (\HasChildren) "/" Patients
S: e OK LIST completed
C: f CREATE Patients/2026
S: f NO [ALREADYEXISTS] <...>
C: g RENAME Patients Dossiers
S: g OK RENAME completed
C: h LIST "" (Dossiers*) RETURN (SUBSCRIBED CHILDREN STATUS (MESSAGES UNSEEN))
S: * LIST (\HasChildren) "/" Dossiers
S: * STATUS Dossiers (MESSAGES 0 UNSEEN 0)
S: * LIST (\HasNoChildren) "/" Dossiers/2026
S: * STATUS Dossiers/2026 (MESSAGES 0 UNSEEN 0)
S: h OK LIST completed
C: i DELETE Dossiers
S: i OK DELETE completed
C: j LIST "" %
S: * LIST (\HasNoChildren) "/" INBOX
S: * LIST (\HasNoChildren \Archive) "/" Archives
S: * LIST (\HasNoChildren \Drafts) "/" Brouillons
S: * LIST (\HasNoChildren \Trash) "/" Corbeille
S: * LIST (\HasChildren \Noselect) "/" Dossiers
S: * LIST (\HasNoChildren \Sent) "/" Envoy&AOk-s
S: * LIST (\HasNoChildren \Junk) "/" Ind&AOk-sirables
S: j OK LIST completed
C: k SUBSCRIBE Dossiers/2026
S: k OK SUBSCRIBE completed
C: l LSUB "" Dossiers/*
S: * LSUB () "/" Dossiers/2026
S: l OK LSUB completed
C: m DELETE INBOX
S: m NO [CANNOT] <...>
C: n DELETE absent
S: n NO [NONEXISTENT] <...>
C: o LIST (SPECIAL-USE) "" * RETURN (SPECIAL-USE)
S: * LIST (\HasNoChildren \Archive) "/" Archives
S: * LIST (\HasNoChildren \Drafts) "/" Brouillons
S: * LIST (\HasNoChildren \Trash) "/" Corbeille
S: * LIST (\HasNoChildren \Sent) "/" Envoy&AOk-s
S: * LIST (\HasNoChildren \Junk) "/" Ind&AOk-sirables
S: o OK LIST completed
C: p NAMESPACE
S: * NAMESPACE (("" "/")) (("Partages/" "/")) NIL
S: p OK NAMESPACE completed
"""

MESSAGES = r"""
C: b SELECT inbox
S: * FLAGS (\Answered \Deleted \Draft \Flagged \Seen)
S: * OK [PERMANENTFLAGS (\Answered \Deleted \Draft \Flagged \Seen \*)] Flags kept
S: * 2 EXISTS
S: * 0 RECENT
S: * OK [UNSEEN 1] First unseen
S: * OK [UIDVALIDITY <...>] UIDs valid
S: * OK [UIDNEXT 3] Predicted next UID
S: * OK [HIGHESTMODSEQ <...>] Highest
S: * OK [MAILBOXID (F<...>)] Ok
S: b OK [READ-WRITE] SELECT completed
C: c FETCH 1 (FLAGS UID INTERNALDATE RFC822.SIZE)
S: * 1 FETCH (FLAGS () UID 1 INTERNALDATE "21-Nov-2026 10:00:00 +0000" RFC822.SIZE %(size)d)
S: c OK FETCH completed
C: d UID FETCH 1 BODY.PEEK[TEXT]
S: * 1 FETCH (UID 1 BODY[TEXT] {20}\r\nGlycémie normale.\r\n)
S: d OK FETCH completed
C: e FETCH 2 BODY[2.2]
S: * 2 FETCH (FLAGS (\Seen) BODY[2.2] {16}\r\n<p>inner two</p>)
S: e OK FETCH completed
C: f FETCH 2 (BODY.PEEK[2.HEADER.FIELDS (Subject)] BODY.PEEK[1.MIME])
S: * 2 FETCH (BODY[2.HEADER.FIELDS (Subject)] {18}\r\nSubject: inner\r\n\r\n BODY[1.MIME] {28}\r\nContent-Type: text/plain\r\n\r\n)
S: f OK FETCH completed
C: f FETCH 2 (BODY.PEEK[]<5.4> BODY.PEEK[9])
S: * 2 FETCH (BODY[]<5> {4}\r\n a@m BODY[9] NIL)
S: f OK FETCH completed
C: g STORE 1 +FLAGS (\flagged $label1)
S: * FLAGS ($label1 <...>
S: * OK [PERMANENTFLAGS ($label1 <...>
S: * 1 FETCH (UID 1 FLAGS ($label1 \Flagged))
S: g OK STORE completed
C: h STORE 1 -FLAGS.SILENT $label1
S: h OK STORE completed
C: i SEARCH FLAGGED
S: * SEARCH 1
S: i OK SEARCH completed
C: j UID SEARCH CHARSET UTF-8 SUBJECT {10+}\r\nrésultats
S: * SEARCH 1
S: j OK SEARCH completed
C: k SEARCH RETURN (MIN COUNT) OR BODY "inner two" FROM claire
S: * ESEARCH (TAG "k") MIN 1 COUNT 2
S: k OK SEARCH completed
C: l COPY 1 Archives
S: l OK [COPYUID <...> 1 1] COPY completed
C: m UID MOVE 1 absent
S: m NO [TRYCREATE] <...>
C: n UID MOVE 1 Corbeille
S: * OK [COPYUID <...> 1 1] Moved
S: * 1 EXPUNGE
S: n OK MOVE completed
C: o STORE 1 +FLAGS.SILENT \Deleted
S: o OK STORE completed
C: p EXPUNGE
S: * 1 EXPUNGE
S: p OK EXPUNGE completed
C: q APPEND INBOX (\Seen) "17-Jul-1996 02:44:25 -0700" {14+}\r\nSubject: x\r\n\r\n
S: * 1 EXISTS
S: * 1 RECENT
S: q OK [APPENDUID <...> 3] APPEND completed
C: r FETCH 1 (INTERNALDATE FLAGS)
S: * 1 FETCH (INTERNALDATE "17-Jul-1996 09:44:25 +0000" FLAGS (\Recent \Seen))
S: r OK FETCH completed
C: s APPEND absent {1+}\r\nx
S: s NO [TRYCREATE] <...>
C: t EXAMINE INBOX
S: * OK [CLOSED] Previous mailbox closed
S: * FLAGS (\Answered \Deleted \Draft \Flagged \Seen)
S: * OK [PERMANENTFLAGS ()] Flags kept
S: * 1 EXISTS
S: * 0 RECENT
S: * OK [UIDVALIDITY <...>] UIDs valid
S: * OK [UIDNEXT 4] Predicted next UID
S: * OK [HIGHESTMODSEQ <...>] Highest
S: * OK [MAILBOXID (F<...>)] Ok
S: t OK [READ-ONLY] EXAMINE completed
C: u STORE 1 FLAGS ()
S: u NO [READ-ONLY] <...>
C: v STATUS INBOX (MESSAGES UNSEEN UIDNEXT)
S: * STATUS INBOX (MESSAGES 1 UNSEEN 0 UIDNEXT 4)
S: v OK STATUS completed
C: w UNSELECT
S: w OK UNSELECT completed
C: x FETCH 1 FLAGS
S: x BAD <...> is not for the authenticated state
C: y LOGOUT
S: * BYE Logging out
S: y OK LOGOUT completed
"""

CONDSTORE = r"""
C: b SELECT INBOX (CONDSTORE)
S: * FLAGS<...>
S: * OK [PERMANENTFLAGS<...>
S: * 2 EXISTS
S: * 0 RECENT
S: * OK [UNSEEN 1]<...>
S: * OK [UIDVALIDITY<...>
S: * OK [UIDNEXT 3]<...>
S: * OK [HIGHESTMODSEQ 3] Highest
S: * OK [MAILBOXID (F<...>)] Ok
S: b OK [READ-WRITE] SELECT completed
C: c UID STORE 1:2 (UNCHANGEDSINCE 2) +FLAGS.SILENT (\Seen)
S: * 1 FETCH (UID 1 MODSEQ (4))
S: c OK [MODIFIED 2] STORE completed
C: d UID FETCH 1:* (FLAGS) (CHANGEDSINCE 3)
S: * 1 FETCH (UID 1 FLAGS (\Seen) MODSEQ (4))
S: d OK FETCH completed
C: e SEARCH MODSEQ 4
S: * SEARCH 1 (MODSEQ 4)
S: e OK SEARCH completed
"""


@pytest.mark.parametrize("script", [FOLDERS], ids=["folders"])
async def test_folders(house: House, script: str) -> None:
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await play(client, LOGIN + script.strip())
        client.close()


async def test_messages(house: House) -> None:
    house.deliver(SIMPLE)
    house.deliver(MULTIPART)
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await play(client, LOGIN + (MESSAGES.strip().replace("%(size)d", str(len(SIMPLE)))))
        assert await client.eof()


async def test_condstore(house: House) -> None:
    house.deliver()
    house.deliver()
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await play(client, LOGIN + CONDSTORE.strip())
        client.close()


async def test_a_message_comes_back_octet_for_octet(house: House) -> None:
    content = SIMPLE + b"line\r\n" * 300_000
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await client.login()
        await client.command(b"a APPEND INBOX {%d+}\r\n" % len(content) + content)
        await client.command("b SELECT INBOX")
        (answer, done) = await client.command("c FETCH 1 BODY.PEEK[]")
        assert answer == b"* 1 FETCH (BODY[] {%d}\r\n" % len(content) + content + b")\r\n"
        assert done.startswith(b"c OK")
        client.close()


async def test_renaming_inbox_moves_its_messages(house: House) -> None:
    house.deliver()
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await client.login()
        assert (await client.command("a RENAME INBOX Ancien"))[-1].startswith(b"a OK")
        answer = await client.command("b STATUS Ancien (MESSAGES)")
        assert answer[0] == b"* STATUS Ancien (MESSAGES 1)\r\n"
        answer = await client.command("c STATUS INBOX (MESSAGES)")
        assert answer[0] == b"* STATUS INBOX (MESSAGES 0)\r\n"
        client.close()


async def test_a_message_stored_without_summary_is_summarised_when_fetched(house: House) -> None:
    plain = type(house.store).open(house.url, house.folder / "blobs", bytes(range(32)))
    plain.append(house.account.id, "INBOX", SIMPLE, (), house.account.created_at, house.account.created_at)
    plain.close()
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await client.login()
        await client.command("a SELECT INBOX")
        answer = await client.command("b FETCH 1 ENVELOPE")
        assert b'"=?utf-8?q?R=C3=A9sultats?= du bilan"' in answer[0]
        client.close()
