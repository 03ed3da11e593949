"""For every test: our own log lines, before any redaction, reach pytest's `caplog`, so that tests may look for leaks in them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
import structlog

from tests.postgres import PrivatePostgres, programs


@pytest.fixture(scope="session")
def private_postgres() -> Iterator[PrivatePostgres]:
    """A PostgreSQL of the test run. Without its programs the run fails, unless told to do without."""
    found = programs()
    if found is None:
        if os.environ.get("CADUCEE_WITHOUT_POSTGRESQL"):
            pytest.skip("PostgreSQL is not installed, and CADUCEE_WITHOUT_POSTGRESQL is set")
        pytest.fail("PostgreSQL is not installed: bin/test installs it on Debian; CADUCEE_WITHOUT_POSTGRESQL=1 skips")
    server = PrivatePostgres(found)
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def log_lines_reach_caplog() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    structlog.configure(
        processors=[structlog.stdlib.add_log_level, structlog.processors.KeyValueRenderer(key_order=["event"])],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
