"""Explanations of `caducee trust explain`: rows of what was looked at and what it said, ending with the decision.

Invariants: every answer comes from the code that decides in production (TrustSpace.explain, examine_list, the list in
force), with the same files and clock; nothing here judges.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from caducee.errors import UsageError
from trustspace import TrustSpace, Usage, WhiteListRefused, canonical_domain, name_of, pem
from trustspace.listdiff import Change
from trustspace.listshape import MAX_LIST_SIZE
from trustspace.model import WhiteList
from trustspace.space import Explanation

Rows = list[dict[str, Any]]
_MAX_DOMAINS = 20


def explain_domain(trust: TrustSpace, domain: str, at: datetime) -> Rows:
    """Who may speak for a domain. Raises UsageError for what is neither a domain nor a file."""
    try:
        canonical = canonical_domain(domain)
    except ValueError:
        raise UsageError(f"{domain}: ni domaine, ni fichier / neither a domain nor a file") from None
    white_list = trust.white_list
    rows = [*_list_rows(trust, at), _step("domaine / domain", canonical)]
    names = white_list.names.get(canonical, frozenset()) if white_list is not None else frozenset()
    if white_list is not None:
        for entry in white_list.entries:
            if canonical_domain(entry.domain) == canonical:
                rows.append(_step("entrée / entry", f"{entry.operator_dn} ({entry.description})"))
        parents = [one for one in _parents(canonical) if one in white_list.names]
        if not names and parents:
            rows.append(
                _step("parent", f"{parents[0]} est listé ; un sous-domaine ne l'est pas pour autant / not implied")
            )
    answer = f"{len(names)} DN" if names else "DOMAIN_NOT_LISTED" if white_list is not None else "NO_WHITE_LIST"
    return [*rows, _step("décision / decision", answer)]


def explain_certificate(trust: TrustSpace, file: Path, domain: str, side: str, at: datetime) -> Rows:
    """May the holder of a certificate (a chain, leaf first) speak for `domain`, or for which domains ("")?"""
    leaf, *others = pem.read_certificates(file)
    usage = Usage.TLS_CLIENT if side == "client" else Usage.TLS_SERVER
    white_list = trust.white_list
    domains = _domains(white_list, leaf)
    # Without a domain, ask for one of its own: path and freshness are then what is explained.
    asked = domain or (domains[0] if domains else "null-sender.invalid")
    explanation = trust.explain(leaf, asked, at, supplied=others, usage=usage)
    rows = [*_list_rows(trust, at), _step("certificat / certificate", leaf.subject.rfc4514_string())]
    rows += [
        _step("émis par / issuer", leaf.issuer.rfc4514_string()),
        _step("valide / valid", f"{leaf.not_valid_before_utc:%Y-%m-%d} – {leaf.not_valid_after_utc:%Y-%m-%d}"),
        _step("usage", usage.value),
        *_path_rows(explanation),
    ]
    more = f" … ({len(domains)})" if len(domains) > _MAX_DOMAINS else ""
    rows.append(_step("domaines listés / listed domains", ", ".join(domains[:_MAX_DOMAINS]) + more or "-"))
    decision = explanation.decision
    verdict = "oui / yes" if decision.allowed else "pas maintenant / not now" if decision.temporary else "non / no"
    return [
        *rows,
        _step("pour / for", asked),
        _step("décision / decision", f"{verdict}: {decision.rule}"),
        _step("raison / reason", f"{decision.reason_fr} / {decision.reason_en}"),
    ]


def explain_list(trust: TrustSpace, file: Path, at: datetime) -> Rows:
    """Would this list be accepted now?"""
    rows = _list_rows(trust, at)
    try:
        white_list = trust.examine_list(pem.read_bounded(file, MAX_LIST_SIZE), at)
    except WhiteListRefused as refusal:
        return [*rows, _step("fichier / file", str(file)), _step("décision / decision", f"non / no: {refusal}")]
    return [
        *rows,
        _step("fichier / file", f"{file} sha256 {white_list.digest}"),
        _step("signée par / signed by", white_list.signer.subject.rfc4514_string()),
        _step("générée / generated", f"{white_list.generated:%Y-%m-%dT%H:%M:%SZ}"),
        _step("entrées / entries", f"{len(white_list.entries)}, écartées / set aside {len(white_list.problems)}"),
        _step("décision / decision", "oui / yes"),
    ]


def _list_rows(trust: TrustSpace, at: datetime) -> Rows:
    state = trust.state(at)
    if state.white_list is None:
        text = "aucune / none"
    else:
        text = (
            f"{state.white_list.generated:%Y-%m-%dT%H:%M:%SZ} {state.freshness.value} sha256 {state.white_list.digest}"
        )
    rows = [_step("liste en vigueur / list in force", text)]
    return rows + [_step(f"alarme / alarm {name}", alarm) for name, alarm in state.alarms.items()]


def _path_rows(explanation: Explanation) -> Rows:
    path = explanation.path
    if path is None:
        return [_step("chemin / path", "non examiné / not looked at")]
    rows = [_step("chemin / path", path.reason.value)]
    # Evidence is below the root: one piece for each certificate, the root needs none.
    for number, subject in enumerate(path.chain):
        evidence = path.evidence[number] if number < len(path.evidence) else "racine / root"
        rows.append(_step(f"  {number}", f"{subject} [{evidence}]"))
    if path.failing_subject:
        rows.append(_step("en défaut / failing", f"{path.failing_subject} {path.detail}".rstrip()))
    return rows


def _domains(white_list: WhiteList | None, certificate: x509.Certificate) -> list[str]:
    try:
        return sorted(white_list.domains_of(name_of(certificate))) if white_list is not None else []
    except ValueError:
        return []


def _parents(domain: str) -> list[str]:
    labels = domain.split(".")
    return [".".join(labels[start:]) for start in range(1, len(labels) - 1)]


def _step(step: str, answer: str) -> dict[str, Any]:
    return {"étape": step, "réponse": answer}


def change_row(change: Change) -> dict[str, Any]:
    """A change as a row, for people and programs."""
    return {
        "changement": change.kind,
        "domaine": change.domain,
        "DN": change.operator_dn,
        "champ": change.field,
        "avant": change.before,
        "après": change.after,
    }
