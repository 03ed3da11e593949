"""Search answers from the index what reading every message would answer."""

from __future__ import annotations

import string
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailstore import Account, SearchPart, SearchStopped, Store
from mailstore.searchtext import Query, folded, search_text, signature
from mailstore.signatures import Signatures
from tests.mailstore.helpers import NOW, blob_files, message, open_store

WORDS = st.text(alphabet=string.ascii_letters + "éÉàçœŒßİ -'", max_size=40)


def letter(subject: str, body: str, name: str = "") -> bytes:
    head = f"Subject: =?utf-8?Q?{''.join(f'={byte:02X}' for byte in subject.encode())}?=\r\nFrom: Dr Léa <lea@x.fr>\r\n"
    if not name:
        return f"{head}Content-Type: text/plain; charset=utf-8\r\n\r\n{body}\r\n".encode()
    quoted = "".join(f"%{byte:02X}" for byte in name.encode())
    return (
        f"{head}MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
        f"Content-Type: text/plain; charset=utf-8\r\n\r\n{body}\r\n--b\r\nContent-Type: application/pdf\r\n"
        f"Content-Disposition: attachment; filename*=UTF-8''{quoted}\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        "SGlkZGVu\r\n--b--\r\n"
    ).encode()


def test_parts_of_messages(store: Store, account: Account) -> None:
    folder = store.folder(account.id, "INBOX").id
    for raw in (
        letter("IRM cérébrale", "Le patient va bien", "résultat-gly.pdf"),
        letter("Biologie", "IRM à prévoir"),
        letter("Rien", "rien du tout"),
    ):
        store.append(account.id, "INBOX", raw, (), NOW, NOW)

    def found(part: SearchPart, needle: str, field: str = "") -> list[int]:
        return store.search_text(folder, part, needle, field=field)

    for _ in range(2):  # from the messages, then from the index
        assert found(SearchPart.TEXT, "irm") == [1, 2]
        assert found(SearchPart.BODY, "IRM") == [2]
        assert found(SearchPart.HEADER, "irm", "Subject") == [1]
        assert found(SearchPart.HEADER, "", "subject") == [1, 2, 3]
        assert found(SearchPart.HEADER, "", "x-none") == []
        assert found(SearchPart.HEADER, "léa", "FROM") == [1, 2, 3]
        assert found(SearchPart.ATTACHMENT, "RÉSULTAT") == [1]
        assert found(SearchPart.BODY, "résultat-gly.pdf") == [1]
        assert found(SearchPart.TEXT, "hidden") == [], "attachments' contents are not searched"
        assert found(SearchPart.BODY, "à") == [1, 2], "shorter than a group of three bytes, and without its accent"
        assert found(SearchPart.HEADER, "cerebrale", "subject") == [1], "without accents, as people type"
        assert found(SearchPart.BODY, "patîent") == [1], "or with one too many"
        assert found(SearchPart.TEXT, "") == [1, 2, 3]
        assert store.search_text(folder, SearchPart.TEXT, "IRM", uids=[2, 3, 99]) == [2]
        assert store.index_pending(10) == 0


def test_texts_are_folded() -> None:
    assert folded("Œdème, RÉSULTATS, Straße, ﬁn, İ") == "oedeme, resultats, strasse, fin, i"
    assert folded("cafe\u0301") == folded("CAFÉ") == "cafe"
    assert folded("日本 Ελλάς") == "日本 ελλασ", "other writings keep their letters"


def test_a_text_that_grows_when_folded_stays_bounded() -> None:
    """One character of three octets becomes eighteen: eight million of them once took a gigabyte."""
    tracemalloc.start()
    assert len(folded("\ufdfa" * 1_000_000, 1_000_000)) == 1_000_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 * 2**20
    text = "é" * 70_000 + "Œdème"  # a word across the end of a block, and after it
    assert folded(text) == "e" * 70_000 + "oedeme" and len(folded(text, 100)) == 100


def test_a_label_of_us_ascii_on_what_is_not_hides_nothing() -> None:
    raw = b"Content-Type: text/plain; charset=us-ascii\r\n\r\n%b\r\n"
    assert "ete" in search_text(raw % "été".encode()) and "ete" in search_text(raw % "été".encode("latin-1"))


def test_a_second_process_uses_what_the_first_indexed(store: Store, account: Account, place: Path) -> None:
    folder = store.folder(account.id, "INBOX").id
    for number in range(3):
        store.append(account.id, "INBOX", message(number), (), NOW, NOW)
    assert store.index_pending(2) == 2
    assert store.index_pending(2) == 1
    store._journal.settle()
    for path in blob_files(place):
        path.unlink()
    other = open_store(place)
    assert other.search_text(folder, SearchPart.TEXT, "compte RENDU 1") == [2], "no message is read"
    other.close()


def test_gone_and_damaged_contents_match_nothing(
    store: Store, account: Account, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = store.folder(account.id, "INBOX").id
    for number in range(3):
        store.append(account.id, "INBOX", message(number), (), NOW, NOW)
    blobs = store.view(folder).blobs
    store._journal.settle()
    (place / "blobs" / blobs[0][:2] / blobs[0]).unlink()
    damaged = place / "blobs" / blobs[1][:2] / blobs[1]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert store.search_text(folder, SearchPart.TEXT, "compte rendu") == [3]
    assert "damaged" in caplog.text
    assert "compte rendu" not in caplog.text


def test_a_search_stops_when_nobody_waits(store: Store, account: Account) -> None:
    store.append(account.id, "INBOX", message(1), (), NOW, NOW)
    folder = store.folder(account.id, "INBOX").id
    with pytest.raises(SearchStopped):
        store.search_text(folder, SearchPart.TEXT, "compte", stopped=lambda: True)


def test_the_index_of_a_discarded_content_goes(store: Store, account: Account) -> None:
    store.append(account.id, "INBOX", message(1), (), NOW, NOW)
    folder = store.folder(account.id, "INBOX").id
    store.index_pending(10)
    store.expunge(folder, [1])
    with store._db.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM search_index").scalar() == 0


@given(WORDS, WORDS, st.integers(0, 40), st.integers(1, 10), WORDS)
def test_a_signature_excludes_no_text_that_matches(
    subject: str, body: str, start: int, length: int, other: str
) -> None:
    text = search_text(letter(subject, body))
    kept = Signatures(10**6)
    kept.put([("text", signature(text)), ("abc", signature("abc"))])
    for needle in (body[start : start + length], other, subject):
        query = Query.of(SearchPart.TEXT, needle)
        if query.found_in(text):
            assert "text" in kept.possible([], query.probes())
    assert "abc" not in kept.possible(["abc"], Query.of(SearchPart.TEXT, "xyz").probes())


@given(st.lists(WORDS, min_size=1, max_size=300), WORDS)
def test_signatures_together_answer_as_one_by_one(texts: list[str], needle: str) -> None:
    probes = Query.of(SearchPart.TEXT, needle).probes()
    if not any(probes.values()):
        return
    texts = [folded(text) for text in texts]
    together = Signatures(10**9)
    together.put((str(number), signature(text)) for number, text in enumerate(texts))
    alone = set()
    for number, text in enumerate(texts):
        one = Signatures(10**9)
        one.put([(str(number), signature(text))])
        alone |= one.possible([], probes)
    assert together.possible([], probes) == alone
    assert {str(number) for number, text in enumerate(texts) if folded(needle) in text} <= alone


def test_signatures_that_found_no_room_exclude_nothing() -> None:
    """A bounded memory must never hide a message."""
    kept = Signatures(3 * 2**20)
    names = [str(number) for number in range(20_000)]
    kept.put((name, signature(f"letter {name}")) for name in names)
    gone = kept.missing(names)
    assert 0 < len(gone) < len(names) and gone[0] == "0"
    probes = Query.of(SearchPart.TEXT, "zzyzx").probes()
    assert set(gone) <= kept.possible(names, probes)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4), st.data())
def test_the_index_answers_as_reading_does(
    store: Store, account: Account, letters: list[tuple[str, str]], data: st.DataObject
) -> None:
    folder = store.folder(account.id, "INBOX").id
    raws = [letter(*one) for one in letters]
    uids = [store.append(account.id, "INBOX", raw, (), NOW, NOW)[1] for raw in raws]
    subject, body = data.draw(st.sampled_from(letters))
    whole = data.draw(st.sampled_from([subject, body]))
    start = data.draw(st.integers(0, max(len(whole) - 1, 0)))
    needle = data.draw(st.sampled_from([whole[start : start + 4], whole[start:], whole.upper(), "zz"]))
    part = data.draw(st.sampled_from([SearchPart.TEXT, SearchPart.BODY]))
    query = Query.of(part, needle)
    expected = [uid for uid, raw in zip(uids, raws, strict=True) if query.found_in(search_text(raw))]
    assert store.search_text(folder, part, needle, uids=uids) == expected
