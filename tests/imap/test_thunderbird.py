"""A practitioner's ordinary day, modelled on the protocol log of Thunderbird 153 (ESR): its commands, shortened and renumbered."""

from __future__ import annotations

from tests.imap.support import ADDRESS, PASSWORD, SIMPLE, Client, House, play

LOGIN = f'C: 47 LOGIN {ADDRESS} "{PASSWORD}"\nS: 47 OK [CAPABILITY IMAP4rev1<...>] Logged in\n'

DAY = r"""
C: 49 namespace
S: * NAMESPACE (("" "/")) (("Partages/" "/")) NIL
S: 49 OK NAMESPACE completed
C: 50 ID ("name" "Thunderbird" "version" "153.7.0")
S: * ID ("name" "Caducee")
S: 50 OK ID completed
C: 51 list (subscribed) "" "*" return (special-use)
S: * LIST (\HasNoChildren \Subscribed) "/" INBOX
S: * LIST (\HasNoChildren \Archive \Subscribed) "/" Archives
S: * LIST (\HasNoChildren \Drafts \Subscribed) "/" Brouillons
S: * LIST (\HasNoChildren \Trash \Subscribed) "/" Corbeille
S: * LIST (\HasNoChildren \Sent \Subscribed) "/" Envoy&AOk-s
S: * LIST (\HasNoChildren \Junk \Subscribed) "/" Ind&AOk-sirables
S: 51 OK LIST completed
C: 52 select "INBOX" (CONDSTORE)
S: * FLAGS<...>
S: * OK [PERMANENTFLAGS<...>
S: * 1 EXISTS
S: * 0 RECENT
S: * OK [UNSEEN 1]<...>
S: * OK [UIDVALIDITY<...>
S: * OK [UIDNEXT 2]<...>
S: * OK [HIGHESTMODSEQ 2] Highest
S: * OK [MAILBOXID (F<...>)] Ok
S: 52 OK [READ-WRITE] SELECT completed
C: 53 UID fetch 1:* (FLAGS) (CHANGEDSINCE 1)
S: * 1 FETCH (UID 1 FLAGS () MODSEQ (2))
S: 53 OK FETCH completed
C: 54 UID fetch 2:* (FLAGS)
S: * 1 FETCH (UID 1 FLAGS ())
S: 54 OK FETCH completed
C: 55 UID fetch 1 (UID RFC822.SIZE BODY.PEEK[HEADER.FIELDS (Message-ID)])
S: * 1 FETCH (UID 1 RFC822.SIZE %(size)d BODY[HEADER.FIELDS (Message-ID)] {40}\r\nMessage-ID: <one@medecin.mssante.fr>\r\n\r\n)
S: 55 OK FETCH completed
C: 56 uid store 1 +Flags (\Seen \Flagged)
S: * 1 FETCH (UID 1 FLAGS (\Flagged \Seen) MODSEQ (3))
S: 56 OK STORE completed
C: 57 uid store 1 -FLAGS (NonJunk)
S: * 1 FETCH (UID 1 FLAGS (\Flagged \Seen) MODSEQ (3))
S: 57 OK STORE completed
C: 58 uid SEARCH CHARSET UTF-8 UNDELETED SUBJECT {10}\r\nrésultats
S: + OK
S: * SEARCH 1
S: 58 OK SEARCH completed
C: 59 uid SEARCH UNDELETED SENTSINCE 17-Nov-2026
S: * SEARCH 1
S: 59 OK SEARCH completed
C: 60 create "Archives/2026"
S: 60 OK [MAILBOXID (F<...>)] CREATE completed
C: 61 subscribe "Archives/2026"
S: 61 OK SUBSCRIBE completed
C: 62 list "" "Archives/2026"
S: * LIST (\HasNoChildren) "/" Archives/2026
S: 62 OK LIST completed
C: 63 uid move 1 "Archives/2026"
S: * OK [COPYUID <...> 1 1] Moved
S: * 1 EXPUNGE
S: 63 OK [HIGHESTMODSEQ <...>] MOVE completed
C: 64 uid move 4294967168 "Corbeille"
S: 64 OK MOVE completed, nothing to do
"""

DRAFT = r"""
C: 70 select "Brouillons" (CONDSTORE)
S: * OK [CLOSED] Previous mailbox closed
S: * FLAGS<...>
S: * OK [PERMANENTFLAGS<...>
S: * 0 EXISTS
S: * 0 RECENT
S: * OK [UIDVALIDITY<...>
S: * OK [UIDNEXT 1]<...>
S: * OK [HIGHESTMODSEQ 1] Highest
S: * OK [MAILBOXID (F<...>)] Ok
S: 70 OK [READ-WRITE] SELECT completed
C: 71 append "Brouillons" (\Draft) {14+}\r\nSubject: x\r\n\r\n
S: * 1 EXISTS
S: * 1 RECENT
S: 71 OK [APPENDUID <...> 1] APPEND completed
C: 72 uid store 1 +Flags (\Seen \Deleted)
S: * 1 FETCH (UID 1 FLAGS (\Deleted \Draft \Recent \Seen) MODSEQ (3))
S: 72 OK STORE completed
C: 73 uid expunge 1
S: * 1 EXPUNGE
S: 73 OK [HIGHESTMODSEQ <...>] EXPUNGE completed
"""

# A folder with a folder in it is renamed, thrown away, and the bin emptied.
FOLDERS = r"""
C: 80 create "Patients &- r&AOk-seau/Suivi"
S: 80 OK [MAILBOXID (F<...>)] CREATE completed
C: 80s subscribe "Patients &- r&AOk-seau/Suivi"
S: 80s OK SUBSCRIBE completed
C: 81 list (subscribed) "" "Patients &- r&AOk-seau/*" return (special-use)
S: * LIST (\HasNoChildren \Subscribed) "/" "Patients &- r&AOk-seau/Suivi"
S: 81 OK LIST completed
C: 82 rename "Patients &- r&AOk-seau" "Corbeille/R&AOk-seau &AKs- ville &ALs-"
S: 82 OK RENAME completed
C: 83 subscribe "Corbeille/R&AOk-seau &AKs- ville &ALs-/Suivi"
S: 83 OK SUBSCRIBE completed
C: 84 unsubscribe "Patients &- r&AOk-seau/Suivi"
S: 84 OK UNSUBSCRIBE completed
C: 85 list "" "Corbeille/*"
S: * LIST (\HasChildren) "/" "Corbeille/R&AOk-seau &AKs- ville &ALs-"
S: * LIST (\HasNoChildren) "/" "Corbeille/R&AOk-seau &AKs- ville &ALs-/Suivi"
S: 85 OK LIST completed
C: 86 delete "Corbeille/R&AOk-seau &AKs- ville &ALs-/Suivi"
S: 86 OK DELETE completed
C: 87 delete "Corbeille/R&AOk-seau &AKs- ville &ALs-"
S: 87 OK DELETE completed
"""


async def test_a_practitioners_day_in_thunderbird(house: House) -> None:
    house.deliver(SIMPLE)
    async with house.serving() as server:
        client = await Client.connect(house, server)
        day = DAY.strip().replace("%(size)d", str(len(SIMPLE)))
        await play(client, "\n".join((LOGIN.strip(), day, DRAFT.strip(), FOLDERS.strip())))
        client.close()
