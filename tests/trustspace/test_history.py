"""The history of lists: kept whole, once, through crashes and several processes; and what changed between two."""

from __future__ import annotations

import hashlib
import multiprocessing
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trustspace.conftest import AT, sample
from trustspace import Anchors, ListedDomain, UnreadableFile, load_white_list, read_certificates
from trustspace.history import ListHistory, Outcome
from trustspace.listdiff import ChangeKind, diff_entries, diff_lists

HOUR = timedelta(hours=1)
A, B = "CN=a,O=A,C=FR", "CN=b,O=B,C=FR"


def test_versions_and_refusals(tmp_path: Path) -> None:
    history = ListHistory(tmp_path / "history")
    assert history.lines() == [] and history.latest() is None
    assert history.keep(b"<one/>", generated=AT, entries=1, at=AT + HOUR)
    assert not history.keep(b"<one/>", generated=AT, entries=1, at=AT + 2 * HOUR), "once"
    history.refuse("ab" * 32, "NOT_XML: x", AT + 2 * HOUR)
    history.refuse("ab" * 32, "NOT_XML: x", AT + 3 * HOUR)
    history.keep(b"<two/>", generated=AT + HOUR, entries=2, at=AT + 4 * HOUR)
    assert [(line.outcome, line.entries) for line in history.lines()] == [
        (Outcome.ACCEPTED, 1),
        (Outcome.REFUSED, 0),
        (Outcome.ACCEPTED, 2),
    ]
    first = history.versions()[0]
    assert (first.at, first.generated, first.digest) == (AT + HOUR, AT, hashlib.sha256(b"<one/>").hexdigest())
    assert history.read(first) == b"<one/>" and history.latest() == (b"<two/>", AT + 4 * HOUR)


def test_what_is_damaged_is_not_taken_for_a_version(tmp_path: Path) -> None:
    history = ListHistory(tmp_path)
    history.keep(b"<one/>", generated=AT, entries=1, at=AT)
    history.keep(b"<two/>", generated=AT + HOUR, entries=1, at=AT + HOUR)
    (newest,) = tmp_path.glob("20260302T10*.gz")
    for content in (b"", b"nonsense", (next(tmp_path.glob("20260302T09*.gz"))).read_bytes()):
        newest.write_bytes(content)
        with pytest.raises(UnreadableFile):
            history.read(history.versions()[-1])
        assert history.latest() == (b"<one/>", AT)
    with (tmp_path / "journal.jsonl").open("a") as journal:
        journal.write('{"at": "yesterday"}\nnot json\n[]\n')
    assert len(history.lines()) == 2


def test_refusals_are_bounded_and_versions_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trustspace.history._MAX_REFUSALS", 5)
    history = ListHistory(tmp_path)
    history.keep(b"<one/>", generated=AT, entries=1, at=AT)
    for number in range(20):
        history.refuse(f"{number:064x}", "NOT_XML", AT)
    lines = history.lines()
    assert len(lines) == 6 and lines[0].outcome is Outcome.ACCEPTED and lines[-1].digest == f"{19:064x}"


def _keep(folder: str, number: int) -> None:
    history = ListHistory(Path(folder))
    for step in range(5):
        history.keep(f"<l{step}/>".encode(), generated=AT + step * HOUR, entries=number, at=AT)


def test_several_processes_keep_each_version_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_keep, args=(str(tmp_path), number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert len(ListHistory(tmp_path).versions()) == 5


def test_the_diff_speaks_of_rights_then_of_texts() -> None:
    old = [
        ListedDomain("both.fr", A),
        ListedDomain("both.fr", A),
        ListedDomain("gone.fr", A),
        ListedDomain("moves.fr", A),
        ListedDomain("text.fr", A, "before"),
    ]
    new = [
        ListedDomain("BOTH.fr.", "cn=A, o=a, c=fr"),
        ListedDomain("new.fr", B),
        ListedDomain("moves.fr", B),
        ListedDomain("text.fr", A, "after"),
    ]
    changes = diff_entries(old, new)
    assert [(one.kind, one.domain, one.operator_dn) for one in changes] == [
        (ChangeKind.DOMAIN_REMOVED, "gone.fr", A),
        (ChangeKind.NAME_REMOVED, "moves.fr", A),
        (ChangeKind.NAME_ADDED, "moves.fr", B),
        (ChangeKind.DOMAIN_ADDED, "new.fr", B),
        (ChangeKind.TEXT_CHANGED, "text.fr", A),
    ]
    assert (changes[-1].field, changes[-1].before, changes[-1].after) == ("description", "before", "after")


_ENTRIES = st.lists(
    st.builds(
        ListedDomain, st.sampled_from(["a.fr", "b.fr", "c.fr"]), st.sampled_from([A, B]), st.sampled_from(["", "x"])
    ),
    max_size=8,
)


@given(_ENTRIES, _ENTRIES)
def test_the_changes_make_the_new_list_from_the_old(old: list[ListedDomain], new: list[ListedDomain]) -> None:
    rights = {(one.domain, one.operator_dn) for one in old}
    for change in diff_entries(old, new):
        if change.kind in (ChangeKind.DOMAIN_REMOVED, ChangeKind.NAME_REMOVED):
            rights.remove((change.domain, change.operator_dn))
        elif change.kind in (ChangeKind.DOMAIN_ADDED, ChangeKind.NAME_ADDED):
            assert (change.domain, change.operator_dn) not in rights
            rights.add((change.domain, change.operator_dn))
    assert rights == {(one.domain, one.operator_dn) for one in new}
    assert diff_entries(new, new) == []


def test_the_real_list_has_no_difference_with_itself(tmp_path: Path) -> None:
    xml = sample("whitelist/listeblanchemssante-2025-02-28.xml").read_bytes()
    authorities = sample("igc-sante")
    anchors = Anchors(
        read_certificates(authorities / "ACR_ELEMENTAIRE_20130625.cer"),
        read_certificates(authorities / "AC_ELEMENTAIRE_ORGANISATIONS_20130625.cer"),
    )
    white_list = load_white_list(xml, anchors=anchors, signer_cn="alb.mssante.fr")
    history = ListHistory(tmp_path)
    history.keep(xml, generated=white_list.generated, entries=len(white_list.entries), at=AT)
    assert history.read(history.versions()[0]) == xml
    assert diff_lists(white_list, white_list) == []
    (kept,) = tmp_path.glob("*.gz")
    assert kept.stat().st_size < 600_000
