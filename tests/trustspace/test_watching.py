"""What is said aloud: figures for metrics, troubles for logs; and the published list served over HTTP with its validators."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from caducee.folder import OperatorFolder
from caducee.monitor import monitor_app
from caducee.published import serve_list
from caducee.trust_watch import troubles, trust_figures
from mailstore import Store
from tests.trustspace.conftest import AT, new_server
from trustspace import ListedDomain, PracticeAuthority, TrustSpace
from trustspace.downloads import Download, read_downloads, write_downloads
from trustspace.enrolment import statuses
from trustspace.metrics import samples

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def folder(fresh: PracticeAuthority, tmp_path: Path) -> OperatorFolder:
    server = new_server(fresh)
    fresh.publish_white_list([ListedDomain.of("a.mssante.example", server.certificate)], AT)
    place = OperatorFolder(tmp_path / "op")
    server.write(place.keys, "server")
    fresh.copy_trust(place.trust)
    return place


def space_of(folder: OperatorFolder) -> TrustSpace:
    return TrustSpace(folder.trust, signer_cn="alb.practice", practice=True)


def test_troubles_come_and_go(folder: OperatorFolder) -> None:
    space = space_of(folder)
    assert set(troubles(folder, space, AT).values()) == {""}
    assert troubles(folder, space, AT + 25 * HOUR)["white list"] == "ageing"
    late = troubles(folder, space, AT + 31 * DAY)
    assert late["white list"] == "stale" and "TEST-ACI-EL-ORG.crl" in late["crl"]
    near = troubles(folder, space, AT + (3 * 365 - 20) * DAY)
    assert near["certificate server"].endswith("(20 d)")
    (folder.white_list).write_bytes(b"<html/>")
    space.refresh(AT)
    assert "WRONG_ROOT" in troubles(folder, space, AT)["white list"]


def test_a_scrape_shows_the_trust_space_as_it_is_now(folder: OperatorFolder, tmp_path: Path) -> None:
    space, moment = space_of(folder), [AT + HOUR]
    store = Store.create(f"sqlite:///{tmp_path / 'mail.db'}", tmp_path / "blobs", bytes(32))
    app = monitor_app(store, space, lambda: True, lambda: trust_figures(folder, space, moment[0]))
    client = TestClient(app)

    def value(name: str) -> float:
        [line] = [one for one in client.get("/metrics").text.splitlines() if one.startswith(name)]
        return float(line.rpartition(" ")[2])

    assert value("caducee_trust_list_age_seconds") == 3600
    assert value('caducee_certificate_remaining_seconds{name="server"}') > 0
    moment[0] += 30 * HOUR
    assert value("caducee_trust_list_age_seconds") == 31 * 3600
    assert value('caducee_trust_list_state{state="ageing"}') == 1
    assert client.get("/healthz").status_code == 200
    store.close()


def test_figures(folder: OperatorFolder) -> None:
    space, at = space_of(folder), AT + 2 * HOUR
    downloads = {"https://liste.example/x": Download("listeblanche.xml", succeeded=AT, error="HTTP 500")}
    found = samples(space.state(at), downloads, statuses(folder.keys, space, at), at)
    values = {(one.name, tuple(sorted(one.labels.items()))): one.value for one in found}
    assert values["caducee_trust_list_age_seconds", ()] == 7200
    assert values["caducee_trust_list_entries", ()] == 1
    assert values["caducee_trust_list_state", (("state", "fresh"),)] == 1
    assert values["caducee_trust_list_state", (("state", "stale"),)] == 0
    assert (
        values["caducee_trust_crl_remaining_seconds", (("file", "TEST-ACI-EL-ORG.crl"),)]
        == (30 * DAY - 2 * HOUR).total_seconds()
    )
    labels = (("file", "listeblanche.xml"), ("host", "liste.example"))
    assert values["caducee_trust_download_failing", labels] == 1
    assert values["caducee_trust_download_age_seconds", labels] == 7200
    assert values["caducee_certificate_remaining_seconds", (("name", "server"),)] > 0
    empty = TrustSpace(folder.root / "nothing", signer_cn="x")
    nothing = {one.name: one.value for one in samples(empty.state(at), {}, [], at)}
    assert math.isnan(nothing["caducee_trust_list_age_seconds"]), "unknown is not young"


def test_downloads_survive_anything_in_their_file(tmp_path: Path) -> None:
    one = {"http://x/y.crl": Download("y.crl", '"1"', "", "ab", AT, AT, "")}
    write_downloads(tmp_path, one)
    assert read_downloads(tmp_path) == one
    for content in (b"", b"[]", b"{", b'{"http://x": 3, "http://y": {"file": "a"}}', b"\xff"):
        (tmp_path / ".downloads.json").write_bytes(content)
        assert read_downloads(tmp_path) == {}


def test_the_published_list_is_served_with_validators(folder: OperatorFolder) -> None:
    app = Starlette()
    serve_list(app, folder)
    client = TestClient(app)
    assert client.get("/trust/listeblanchemssante.xml").status_code == 404
    (folder.published / "listeblanchemssante.xml").write_bytes(b"<list/>")
    first = client.get("/trust/listeblanchemssante.xml")
    assert first.content == b"<list/>" and first.headers["etag"]
    again = client.get("/trust/listeblanchemssante.xml", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304
    assert client.get("/trust/..%2fkeys%2fserver.key").status_code == 404
    assert client.get("/trust/").status_code == 404
