"""Serves the white list that `caducee trust publish` wrote, for practice and private trust spaces: GET, ETag, 304."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.staticfiles import StaticFiles

from caducee.folder import OperatorFolder

LIST_PREFIX = "/trust"


def serve_list(app: Starlette, folder: OperatorFolder) -> None:
    """Add /trust/listeblanchemssante.xml and its schema to `app`; 404 until something was published."""
    folder.published.mkdir(exist_ok=True)
    app.mount(LIST_PREFIX, StaticFiles(directory=folder.published))
