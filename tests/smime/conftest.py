"""Property tests here have no deadline of their own: the machine may be busy, and cost is asserted where it matters."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
