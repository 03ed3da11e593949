"""The trust space in figures, for whoever exports them. Pure: a state in, samples out.

Invariants: names and units follow the Prometheus habits (seconds, timestamps in Unix seconds, a label for what there
are several of); no label holds a person's or a patient's data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from trustspace.downloads import Download
from trustspace.enrolment import OwnStatus
from trustspace.locations import host_of
from trustspace.space import Freshness, TrustState


@dataclass(frozen=True, slots=True)
class Sample:
    """One gauge."""

    name: str
    help: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


def samples(
    state: TrustState, downloads: Mapping[str, Download], own: Sequence[OwnStatus], at: datetime
) -> list[Sample]:
    """The gauges at `at` (aware). An age that is not known is NaN, which no alert takes for "young"."""
    listed = state.white_list
    age = state.list_age.total_seconds() if state.list_age is not None else float("nan")
    found = [
        Sample("caducee_trust_list_age_seconds", "Since the list was last brought or confirmed", age),
        Sample(
            "caducee_trust_list_generated_timestamp_seconds",
            "Date of generation of the list in force",
            listed.generated.timestamp() if listed else float("nan"),
        ),
        Sample("caducee_trust_list_entries", "Entries of the list in force", len(listed.entries) if listed else 0),
        Sample("caducee_trust_list_problems", "Entries set aside", len(listed.problems) if listed else 0),
        Sample("caducee_trust_alarms", "Files refused now", len(state.alarms)),
    ]
    found += [
        Sample("caducee_trust_list_state", "1 for the state of the list", float(one is state.freshness), {"state": one})
        for one in Freshness
    ]
    for name, end in sorted(state.crl_ends.items()):
        left = (end - at).total_seconds() if end is not None else float("nan")
        found.append(Sample("caducee_trust_crl_remaining_seconds", "Until the CRL's next update", left, {"file": name}))
    for url, one in sorted(downloads.items()):
        since = (at - one.succeeded).total_seconds() if one.succeeded else float("nan")
        labels = {"file": one.file, "host": host_of(url)}
        found.append(Sample("caducee_trust_download_age_seconds", "Since the last good download", since, labels))
        found.append(Sample("caducee_trust_download_failing", "1 while it fails", float(bool(one.error)), labels))
    for status in own:
        remaining = (status.ends - at).total_seconds()
        labels = {"name": status.name}
        found.append(Sample("caducee_certificate_remaining_seconds", "Until our certificate ends", remaining, labels))
    return found
