"""One practice authority for the room's tests, and the places of the public samples."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from trustspace import Issued, ListedDomain, PracticeAuthority

AT = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
SAMPLES = Path(__file__).parents[3] / "shared" / "samples"


def sample(relative: str) -> Path:
    """A public sample beside the repository; the test is skipped, saying so, when it is not there."""
    path = SAMPLES / relative
    if not path.exists():
        pytest.skip(f"public sample {relative} is not beside the repository")
    return path


def new_server(authority: PracticeAuthority, cn: str = "mss.hopital-a.example", **changes: str) -> Issued:
    """A server certificate of operator A."""
    values = {"organisation": "HOPITAL A", "structure_id": "1750000018", "department": "Paris (75)"} | changes
    return authority.issue_server(cn, values["organisation"], values["structure_id"], values["department"], at=AT)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> PracticeAuthority:
    """A practice authority shared by tests that do not revoke."""
    return PracticeAuthority.create(tmp_path_factory.mktemp("authority"), at=AT)


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> PracticeAuthority:
    """Another authority with the very same names and other keys."""
    return PracticeAuthority.create(tmp_path_factory.mktemp("foreign"), at=AT)


@pytest.fixture
def fresh(tmp_path: Path) -> PracticeAuthority:
    """An authority of the test's own, that may revoke and let CRLs expire."""
    return PracticeAuthority.create(tmp_path / "authority", at=AT)


@pytest.fixture(scope="session")
def server(authority: PracticeAuthority) -> Issued:
    """Operator A's certificate."""
    return new_server(authority)


@pytest.fixture(scope="session")
def white_list(authority: PracticeAuthority, server: Issued) -> bytes:
    """A signed list: hopital-a for operator A, hopital-b for another name."""
    other = new_server(authority, "mss.hopital-b.example", organisation="HOPITAL B")
    entries = [
        ListedDomain.of("hopital-a.mssante.example", server.certificate),
        ListedDomain.of("hopital-b.mssante.example", other.certificate),
    ]
    return authority.publish_white_list(entries, AT)
