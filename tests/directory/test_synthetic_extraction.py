"""The generator of extractions has the published shape (mssante.md §5.4), and is the same everywhere."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from directory.synthetic_extraction import Delivery, domain_weights, full_size, next_months, write_delivery
from tests.directory.extracts import read


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first = write_delivery(tmp_path / "a", Delivery(50, 80, seed=2))
    second = write_delivery(tmp_path / "b", Delivery(50, 80, seed=2))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_the_domains_have_the_published_sizes() -> None:
    weights = domain_weights()
    total = sum(weights)
    assert len(weights) == 5018
    assert 0.41 < sum(weights[:10]) / total < 0.51  # 46 %
    assert 0.60 < sum(weights[:50]) / total < 0.72  # 66 %
    ranks = sorted(weights)
    assert 3 < ranks[2509] < 5 and 70 < ranks[int(0.9 * 5018)] < 105 and 900 < ranks[int(0.99 * 5018)] < 1500


@pytest.mark.slow
def test_a_delivery_has_the_published_shape(tmp_path: Path) -> None:
    paths = write_delivery(tmp_path, Delivery(3_000, 3_000))
    national, report = read(*paths)
    assert (report.rejected, report.warnings, len(national)) == (0, 0, 3_000)
    assert 3_000 < report.rows[paths[0].name] <= 3_000 + round(3_000 * 169 / 535_928)
    kinds = Counter(national.attributes(mail)["TypeBAL"][0] for mail in national.addresses())
    assert 0.82 < kinds[b"PER"] / 3_000 < 0.88
    towns = Counter(national.attributes(mail)["l"][0] for mail in national.addresses())
    assert towns.most_common(1)[0][1] < 0.06 * 3_000


def test_a_later_delivery_is_the_same_country(tmp_path: Path) -> None:
    day = Delivery(300, 300, seed=8)
    first, _ = read(*write_delivery(tmp_path, day))
    later, _ = read(*write_delivery(tmp_path, replace(day, created=12, removed=15)))
    assert len(set(later.addresses()) - set(first.addresses())) == 12
    assert len(set(first.addresses()) - set(later.addresses())) == 15
    months = next_months(full_size())
    assert (months.created, months.removed) == (25_756, 36_119)
