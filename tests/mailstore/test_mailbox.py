"""Appends in batches and by stream, deduplication, threads, quota, replacement, retention, the trace of readings."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from mailstore import (
    Account,
    Event,
    FlagOperation,
    MessageTooLarge,
    NewMessage,
    NoSuchFolder,
    NoSuchMessage,
    OverQuota,
    Store,
    StoreError,
    StoreUnavailable,
    email_id,
)
from mailstore.blobs import SMALL
from mailstore.caches import Room
from mailstore.threads import links
from tests.mailstore.helpers import LATER, NOW, acceptance, blob_files, kept_blobs, make_account, message, sql


def new(number: int, *flags: str, body: str = "Bonjour") -> NewMessage:
    return NewMessage(message(number, body), frozenset(flags), NOW)


def test_a_batch_is_all_or_nothing(store: Store, account: Account, place: Path) -> None:
    validity, uids = store.append_messages(account.id, "INBOX", [new(1, "\\Seen"), new(2), new(3, "\\Deleted")], NOW)
    folder = store.folder(account.id, "INBOX")
    assert (validity, uids) == (folder.uid_validity, [1, 2, 3])
    assert (folder.total, folder.unseen, folder.deleted) == (3, 2, 1)
    assert folder.size == sum(len(message(number)) for number in (1, 2, 3))
    assert folder.deleted_size == len(message(3))
    assert len(set(store.view(folder.id).modseqs)) == 1
    files = len(kept_blobs(place))
    for name, last in (("INBOX", new(5, "\\Bad")), ("None", new(5))):
        with pytest.raises((NoSuchFolder, StoreError)):
            store.append_messages(account.id, name, [new(4), last], NOW)
    assert store.folder(account.id, "INBOX") == folder
    assert len(kept_blobs(place)) == files


def test_a_streamed_content(store: Store, account: Account, place: Path) -> None:
    raw = message(1, "x" * 300_000)
    writer = store.spool()
    for start in range(0, len(raw), 10_000):
        writer.write(raw[start : start + 10_000])
    store.append_messages(account.id, "INBOX", [NewMessage(writer.commit(), frozenset(), NOW)], NOW)
    folder = store.folder(account.id, "INBOX")
    view = store.view(folder.id)
    assert store.read_blob(view.blobs[0]) == raw
    assert store.summaries(folder.id, [1]) == {1: b"Subject: compte rendu 1"}
    again = store.spool()
    again.write(raw)
    store.append_messages(account.id, "Archives", [NewMessage(again.commit(), frozenset(), NOW)], NOW)
    assert len(kept_blobs(place)) == 1, "the mailbox held it already"
    refused = store.spool()
    refused.write(b"x")
    with pytest.raises(NoSuchFolder):
        store.append_messages(account.id, "None", [NewMessage(refused.commit(), frozenset(), NOW)], NOW)
    gone = store.spool()
    gone.write(raw)
    gone.abort()
    assert len(kept_blobs(place)) == 1


def test_an_upload_is_bounded_and_leaves_no_trace(store: Store, account: Account, place: Path) -> None:
    with store.upload(10) as upload:
        upload.write(b"12345")
        with pytest.raises(MessageTooLarge):
            upload.write(b"678901")
    assert kept_blobs(place) == set()
    uploads = [store.upload(1000) for _ in range(2)]
    for number, one in enumerate(uploads):
        one.write(message(number))
        assert one.size == len(message(number))
    _, uids = store.append_messages(account.id, "INBOX", [NewMessage(one, frozenset(), NOW) for one in uploads], NOW)
    view = store.view(store.folder(account.id, "INBOX").id)
    assert [store.read_blob(blob) for blob in view.blobs] == [message(0), message(1)]
    for one in uploads:
        one.discard()
    assert len(kept_blobs(place)) == len(uids) == 2
    refused = [store.upload(1000) for _ in range(2)]
    with pytest.raises(NoSuchFolder):
        store.append_messages(account.id, "None", [NewMessage(one, frozenset(), NOW) for one in refused], NOW)
    store.sweep(NOW)
    assert sql(place, "SELECT blob FROM blob_journal") == [], "housekeeping leaves no journal"
    refused = [store.upload(1000) for _ in range(2)]
    with pytest.raises(StoreError):
        flags = (frozenset[str](), frozenset({"\\Bad"}))
        new_ones = [NewMessage(one, those, NOW) for one, those in zip(refused, flags, strict=True)]
        store.append_messages(account.id, "INBOX", new_ones, NOW)
    assert len(kept_blobs(place)) == 2


def test_a_large_upload_or_one_too_many_goes_to_the_disk_as_it_comes(
    store: Store, account: Account, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.upload(1_000_000) as large:
        large.write(bytes(SMALL - 10))
        assert large.stays_in_memory(10) and not large.stays_in_memory(11)
        assert blob_files(place) == []
        large.write(b"x" * 20)
        assert large.on_disk and len(blob_files(place)) == 1
    assert blob_files(place) == []
    monkeypatch.setattr(store, "_room", Room(len(message(0))))
    uploads = [store.upload(1000) for _ in range(3)]
    for number, one in enumerate(uploads):
        one.write(message(number))
    assert [one.on_disk for one in uploads] == [False, True, True]
    store.append_messages(account.id, "INBOX", [NewMessage(one, frozenset(), NOW) for one in uploads], NOW)
    view = store.view(store.folder(account.id, "INBOX").id)
    assert [store.read_blob(blob) for blob in view.blobs] == [message(number) for number in range(3)]
    assert store._room.take(len(message(0))), "everything was given back"


def test_contents_are_kept_once_in_a_mailbox(store: Store, account: Account, place: Path) -> None:
    store.accept(acceptance(account, 1), NOW)
    store.append(account.id, "Archives", message(1), (), NOW, NOW)
    store.append_messages(account.id, "Archives", [new(1), new(1), new(2), new(2)], NOW)
    inbox, archives = (store.view(store.folder(account.id, name).id) for name in ("INBOX", "Archives"))
    assert {*inbox.blobs, *archives.blobs[:3]} == {inbox.blobs[0]}
    assert len(kept_blobs(place)) == 2
    other = make_account(store, "eve@medecin.example")
    store.append(other.id, "INBOX", message(1), (), NOW, NOW)
    assert len(kept_blobs(place)) == 3, "never across mailboxes"
    store.expunge(inbox.folder.id, None if inbox.uids == [] else inbox.uids)
    store.expunge(archives.folder.id, archives.uids)
    assert sql(place, "SELECT count(*) FROM holdings") == [(1,)]
    store.append(account.id, "INBOX", message(1), (), NOW, NOW)
    assert store.read_blob(store.view(inbox.folder.id).blobs[0]) == message(1)


def test_replacement(store: Store, account: Account) -> None:
    store.append_messages(account.id, "Brouillons", [new(1, "\\Draft"), new(2)], NOW)
    drafts = store.folder(account.id, "Brouillons")
    assert store.replace(drafts.id, 1, account.id, "Brouillons", new(3, "\\Draft"), NOW) == (drafts.uid_validity, 3)
    assert store.view(drafts.id).uids == [2, 3]
    sent = store.folder(account.id, "Envoyés")
    assert store.replace(drafts.id, 3, account.id, "Envoyés", new(3), NOW) == (sent.uid_validity, 1)
    assert store.read_blob(store.view(sent.id).blobs[0]) == message(3)
    with pytest.raises(NoSuchMessage):
        store.replace(drafts.id, 3, account.id, "Envoyés", new(4), NOW)
    assert store.view(sent.id).uids == [1]
    assert store.changes(drafts.id, 1).expunged == (1, 3)


def reply(number: int, *references: int, header: str = "References") -> bytes:
    named = " ".join(f"<{one}@x>" for one in references)
    return f"Message-ID: <{number}@x>\r\n{header}: {named}\r\n\r\nbonjour {number}\r\n".encode()


def test_threads(store: Store, account: Account) -> None:
    raws = [
        reply(1),
        reply(2, 1),
        reply(3, 1, 2),
        reply(4, 3, header="In-Reply-To"),
        reply(10),
        reply(12, 11),
        reply(11),
        b"Subject: none\r\n\r\n",
        b"Subject: none either\r\n\r\n",
    ]
    for raw in raws:
        store.append(account.id, "INBOX", raw, (), NOW, LATER)
    folder = store.folder(account.id, "INBOX").id
    found = store.details(folder, range(1, 100))
    threads = [found[uid].thread_id for uid in range(1, 10)]
    assert len({*threads[:4]}) == 1
    assert threads[5] == threads[6], "the answer came first"
    assert len(set(threads)) == 5
    view = store.view(folder)
    assert all(found[uid].email_id == email_id(blob) for uid, blob in zip(view.uids, view.blobs, strict=True))
    assert {one.saved_at for one in found.values()} == {LATER}
    target = store.folder(account.id, "Archives").id
    store.copy(folder, [2], target, NOW)
    (copied,) = store.details(target, [1]).values()
    assert (copied.thread_id, copied.email_id) == (threads[0], found[2].email_id)
    assert copied.saved_at == NOW


def test_links_of_odd_headers() -> None:
    folded = links(b"references:\r\n <a@x>\r\n\t<b@x>\r\nMESSAGE-ID : <c@x>\r\n\r\nMessage-ID: <no@x>\r\n")
    assert (folded.message_id, folded.references) == ("c@x", ("a@x", "b@x"))
    assert len(links(b"References: " + b" ".join(b"<%d@x>" % n for n in range(9999)) + b"\r\n\r\n").references) == 50
    for raw in (b"", b"\r\n\r\n", b"Message-ID: <", b"References: <a b>\r\n", b"\xff" * 100):
        assert links(raw).message_id == ""


def test_quota(store: Store, account: Account) -> None:
    size = len(message(1))
    store.set_quota(account.id, 3 * size, 3)
    store.append_messages(account.id, "INBOX", [new(1), new(2)], NOW)
    quota = store.quota(account.id)
    assert (quota.bytes_used, quota.bytes_limit, quota.messages_used, quota.messages_limit) == (
        2 * size,
        3 * size,
        2,
        3,
    )
    with pytest.raises(OverQuota):
        store.append_messages(account.id, "Archives", [new(3), new(4)], NOW)
    folder, archives = (store.folder(account.id, name).id for name in ("INBOX", "Archives"))
    with pytest.raises(OverQuota):
        store.copy(folder, [1, 2], archives, NOW)
    with pytest.raises(OverQuota):
        store.append(account.id, "INBOX", message(5, "x" * 2 * size), (), NOW, NOW)
    store.move(folder, [1, 2], archives, NOW)
    assert store.quota(account.id) == quota
    store.accept(acceptance(account, 7), NOW)
    with pytest.raises(OverQuota):
        store.accept(acceptance(account, 8), NOW)
    store.set_quota(account.id, None, None)
    store.accept(acceptance(account, 8), NOW)
    store.expunge(archives, [1, 2])
    assert store.quota(account.id).messages_used == 2
    with pytest.raises(StoreError):
        store.set_quota(account.id, -1, None)


def test_retention(store: Store, account: Account, place: Path) -> None:
    store.append(account.id, "Corbeille", message(1), (), NOW - timedelta(days=400), NOW - timedelta(days=31))
    store.append(account.id, "Corbeille", message(2), (), NOW - timedelta(days=400), NOW - timedelta(days=29))
    store.append(account.id, "INBOX", message(3), (), NOW - timedelta(days=400), NOW - timedelta(days=400))
    store.set_retention(account.id, "Corbeille", 30)
    assert store.folder(account.id, "Corbeille").retention_days == 30
    assert store.apply_retention(NOW) == 1
    assert store.apply_retention(NOW) == 0
    assert store.view(store.folder(account.id, "Corbeille").id).uids == [2]
    assert store.folder(account.id, "INBOX").total == 1
    ((detail,),) = sql(place, "SELECT detail FROM audit WHERE name = 'retention.removed'")
    assert json.loads(detail)["messages"] == "1"
    (gone,) = [one.event for one in store.trace("<1@medecin.example>") if one.event.name == "message.expunged"]
    assert (gone.detail["who"], gone.detail["uid"], gone.detail["source"]) == ("retention", "1", "")
    store.set_retention(account.id, "Corbeille", None)
    assert store.apply_retention(NOW + timedelta(days=1000)) == 0
    store.housekeep(NOW, timedelta(hours=1))
    with pytest.raises(StoreError):
        store.set_retention(account.id, "Corbeille", 0)


def test_the_trail_is_kept_as_long_as_the_rule_says(store: Store, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailstore.retention.FORGOTTEN_AT_ONCE", 2)
    for days in (400, 399, 398, 397, 31, 29, 0):
        store.record([Event("told", {"days": str(days)})], at=NOW - timedelta(days=days))
    store.housekeep(NOW, timedelta(hours=1))
    assert len(sql(place, "SELECT id FROM audit WHERE name = 'told'")) == 7, "kept for ever without a rule"
    store.housekeep(NOW, timedelta(hours=1), trail_days=30)
    assert len(sql(place, "SELECT id FROM audit WHERE name = 'told'")) == 2
    ((detail,),) = sql(place, "SELECT detail FROM audit WHERE name = 'trail.removed'")
    assert json.loads(detail)["lines"] == "5", "what went is told"
    store.housekeep(NOW, timedelta(hours=1), trail_days=30)
    assert len(sql(place, "SELECT id FROM audit WHERE name = 'trail.removed'")) == 1, "nothing went, nothing is told"


def test_readings_are_traced_in_batches(store: Store, account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    store.append_messages(account.id, "INBOX", [new(1), new(2)], NOW)
    folder = store.folder(account.id, "INBOX").id
    for _ in range(3):
        store.note_reading(account.id, folder, [1], NOW, source="192.0.2.1")
    store.note_reading(account.id, folder, [2], LATER, source="192.0.2.1")
    store.flush_readings()
    (traced,) = store.trace("1@medecin.example")
    assert (traced.at, traced.event.name) == (NOW, "message.read")
    assert traced.event.detail == {
        "reader": account.address,
        "mailbox": account.address,
        "folder": f"F{folder}",
        "uid": "1",
        "source": "192.0.2.1",
        "times": "3",
    }
    assert len(store.trace("2@medecin.example")) == 1
    monkeypatch.setattr("mailstore.readings.WAITING_LIMIT", 1)
    monkeypatch.setattr(store, "_write_readings", lambda taken: (_ for _ in ()).throw(StoreUnavailable("away")))
    store.note_reading(account.id, folder, [1], NOW)
    with pytest.raises(StoreUnavailable):
        store.flush_readings()
    with pytest.raises(StoreUnavailable, match="trace"):
        store.note_reading(account.id, folder, [2], NOW)
    monkeypatch.undo()
    store.flush_readings()
    assert len(store.trace("1@medecin.example")) == 2, "what could not be written was kept"


def test_recent_is_told_once(store: Store, account: Account) -> None:
    folder = store.folder(account.id, "INBOX").id
    store.append_messages(account.id, "INBOX", [new(1), new(2)], NOW)
    assert store.claim_recent(folder, take=False) == (1, 3)
    assert store.claim_recent(folder, take=True) == (1, 3)
    assert store.claim_recent(folder, take=True) == (3, 3)
    store.store_flags(folder, [1], FlagOperation.ADD, ["\\Seen"])
    assert store.claim_recent(folder, take=False) == (3, 3)


def test_a_damaged_content_leaves_the_folder_usable(store: Store, account: Account, place: Path) -> None:
    from mailstore import BlobDamaged

    store.append_messages(account.id, "INBOX", [new(1), new(2)], NOW)
    folder = store.folder(account.id, "INBOX").id
    view = store.view(folder)
    store._journal.settle()
    path = place / "blobs" / view.blobs[0][:2] / view.blobs[0]
    path.write_bytes(path.read_bytes()[:-3] + b"abc")
    with pytest.raises(BlobDamaged):
        store.read_blob(view.blobs[0])
    assert store.read_blob(view.blobs[1]) == message(2)
    assert len(store.summaries(folder, [1, 2])) == 2
    store.move(folder, [1, 2], store.folder(account.id, "Corbeille").id, NOW)
    trash = store.folder(account.id, "Corbeille").id
    assert store.expunge(trash, [1, 2]) == [1, 2]
