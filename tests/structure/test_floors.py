"""Imports only go down: the floors of docs/architecture.md, checked on the source itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FLOORS = {
    "caducee": 4,
    "smtp": 3,
    "imap": 3,
    "dossier": 3,
    "proxy": 2,
    "dmp_bridge": 2,
    "directory": 1,
    "trustspace": 1,
    "mailstore": 1,
    "ihe": 0,
    "smime": 0,
    "mime": -1,
}
NETWORK = {
    "socket",
    "asyncio",
    "httpx",
    "ssl",
    "ldap",
    "aiosmtpd",
    "aioimaplib",
    "uvicorn",
    "starlette",
    "dns",
    "urllib.request",
}
FORBIDDEN = {
    "ihe": NETWORK | {"sqlalchemy", "celery"},
    "smime": NETWORK | {"sqlalchemy", "celery"},
    "mime": NETWORK | {"sqlalchemy", "celery"},
    "proxy": NETWORK | {"sqlalchemy"},
    "smtp": {"sqlalchemy"},
    "imap": {"sqlalchemy", "smime", "asn1crypto"},
}


def imported(source: str) -> set[str]:
    """The modules that a module imports, wherever in it: `urllib.parse` gives `urllib` and `urllib.parse`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names | {name.split(".")[0] for name in names}


def climbs(package: str, names: set[str]) -> set[str]:
    """The imports of `names` that a module of `package` may not make."""
    up_or_sideways = {name for name in names if name in FLOORS and name != package and FLOORS[name] >= FLOORS[package]}
    return up_or_sideways | (names & FORBIDDEN.get(package, set()))


@pytest.mark.parametrize("package", sorted(FLOORS))
def test_imports_only_go_down(package: str) -> None:
    modules = list((ROOT / package).rglob("*.py"))
    assert modules, f"{package}/ is empty"
    wrong = {
        str(module.relative_to(ROOT)): found
        for module in modules
        if (found := climbs(package, imported(module.read_text("utf-8"))))
    }
    assert not wrong


def test_asn1crypto_is_imported_by_one_module_of_smime() -> None:
    users = [
        str(module.relative_to(ROOT))
        for package in FLOORS
        for module in (ROOT / package).rglob("*.py")
        if package != "trustspace" and "asn1crypto" in imported(module.read_text("utf-8"))
    ]
    assert len(users) == 1, users
    assert users[0].startswith("smime/")


def test_the_checker_sees_a_climb() -> None:
    assert climbs("smime", imported("from trustspace import TrustSpace")) == {"trustspace"}
    assert climbs("proxy", imported("def f():\n    import dmp_bridge.find")) == {"dmp_bridge"}
    assert climbs("smtp", imported("import mime, smime, proxy.model")) == set()
