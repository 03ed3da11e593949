"""Who may do what in our slapd: the accounts, and the access lines of cn=config.

| who | binds as | may |
|---|---|---|
| anybody | nothing | read the public attributes of mailboxes that are not on the red list, CAs and CRLs |
| reader (the mail process) | `cn=lecteur,ou=comptes` | read every mailbox, red list included, without the restricted fields |
| writer | `cn=redacteur,ou=comptes` | as the reader; create, change and remove mailboxes of the operator's own domains |
| administrators | members of `cn=administrateurs,ou=comptes` | read and write mailboxes, accounts, CAs and CRLs; read the journal |
| operator (recovery) | `cn=operateur` (rootdn) | everything but cn=config |
| this machine's operator | the user of this program, over ldapi (EXTERNAL) | everything, cn=config included |

A password is only ever compared, never read. A certificate is an account when an account carries its whole subject
(`sujetCertificat`); any other one that chains to the trusted authorities is nobody.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Final

from directory.entry import BASE, Attributes

ADMIN_RDN: Final = "cn=operateur"
READER: Final = "lecteur"
WRITER: Final = "redacteur"
ACCOUNT_CLASS: Final = "compteAnnuaire"
_NO_PASSWORD: Final = b"{CRYPT}*"  # matches nothing, until somebody gives the account a password

PUBLIC_ATTRIBUTES: Final = (
    "entry", "objectClass", "ou", "mail", "TypeBAL", "cn", "givenName", "sn", "displayName", "title", "IdentifiantPP",
    "TypeIdentifiantPP", "profession", "savoirFaire", "IdentifiantPM", "TypeIdentifiantPM", "idNatStruct", "o", "l",
    "postalCode", "street", "departement", "description", "dematerialisation", "cleRecherche", "userCertificate",
    "userSMIMECertificate",
)  # fmt: skip
# What the operator's own processes need besides: the red list, who keeps the entry, identity for the cache.
READER_ATTRIBUTES: Final = (
    *PUBLIC_ATTRIBUTES,
    "listeRouge",
    "suspendue",
    "origine",
    "diplome",
    "autorisation",
    "entryUUID",
    "entryCSN",
)
_LABEL: Final = re.compile(r"[a-z0-9.-]+")


def admin_dn(base: str = BASE) -> str:
    """The rootdn: bound by no right and no limit."""
    return f"{ADMIN_RDN},{base}"


def account_dn(name: str, base: str = BASE) -> str:
    """The DN of the account or group `name`."""
    return f"cn={name},ou=comptes,{base}"


def peer_dn() -> str:
    """The identity that slapd gives to this process over ldapi (SASL EXTERNAL by the kernel's peer credentials)."""
    return f"gidNumber={os.getegid()}+uidNumber={os.geteuid()},cn=peercred,cn=external,cn=auth"


def service_entries(hashes: Mapping[str, str], base: str = BASE) -> list[tuple[str, Attributes]]:
    """(dn, attributes) of the branches besides mailboxes: accounts (`hashes`: hashed passwords by name), CAs."""
    entries: list[tuple[str, Attributes]] = [
        (f"ou={name},{base}", {"objectClass": [b"organizationalUnit"], "ou": [name.encode()]})
        for name in ("comptes", "ac")
    ]
    for name in (READER, WRITER):
        password = hashes[name].encode() if name in hashes else _NO_PASSWORD
        values: Attributes = {
            "objectClass": [ACCOUNT_CLASS.encode()],
            "cn": [name.encode()],
            "userPassword": [password],
        }
        entries.append((account_dn(name, base), values))
    group: Attributes = {"objectClass": [b"groupOfNames"], "cn": [b"administrateurs"]}
    group["member"] = [admin_dn(base).encode()]  # a group of nobody is not one (RFC 4519 §3.5)
    entries.append((account_dn("administrateurs", base), group))
    return entries


def access_lines(base: str, domains: Iterable[str]) -> list[str]:
    """The `olcAccess` values of the database of mailboxes. `domains` are the operator's own."""
    reader = f'by dn.exact="{account_dn(READER, base)}" read'
    writer = f'by dn.exact="{account_dn(WRITER, base)}"'
    admins = f'by group.exact="{account_dn("administrateurs", base)}" write'
    manager = f'by dn.exact="{peer_dn()}" manage'
    public, known = ",".join(PUBLIC_ATTRIBUTES), ",".join(READER_ATTRIBUTES)
    own = [domain for domain in domains if _LABEL.fullmatch(domain)]
    lines = [
        f'to dn.subtree="ou=comptes,{base}" attrs=userPassword {manager} {admins[:-5]}=w by anonymous auth by * none'
    ]
    # slapd looks for a certificate's account as nobody yet.
    lines.append(
        f'to dn.subtree="ou=comptes,{base}" attrs=entry,objectClass,sujetCertificat {manager} {admins} by self read '
        "by anonymous auth by * none"
    )
    if own:
        # str2dn's normal form: lower case, `mail` only; a local part cannot hold `,` or `@` (entry.checked_address).
        names = "|".join(re.escape(domain) for domain in own)
        lines.append(
            f'to dn.regex="^mail=[^,@]+@({names}),ou=bal,{re.escape(base)}$" {manager} {writer} write by * break'
        )
        lines.append(f'to dn.base="ou=bal,{base}" attrs=children {manager} {writer} write {admins} by * none')
    lines += [
        # Whoever may not see the red list must not tell its entries from absent ones, whatever the attribute.
        f"to filter=(|(listeRouge=TRUE)(suspendue=TRUE)) {manager} {reader} {writer} read {admins} by * none",
        f'to dn.subtree="ou=bal,{base}" attrs={public} {manager} {admins} by * read',
        f'to dn.subtree="ou=bal,{base}" attrs={known} {manager} {reader} {writer} read {admins} by * none',
        f'to dn.subtree="ou=bal,{base}" {manager} {admins} by * none',
        f'to dn.subtree="ou=ac,{base}" {manager} {admins} by * read',
        f'to dn.subtree="ou=comptes,{base}" {manager} {admins} by self read by * none',
        f'to dn.base="{base}" {manager} by * read',
        f"to * {manager} by * none",
    ]
    return lines


def journal_access(base: str) -> str:
    """The `olcAccess` value of the journal: read by administrators, written by nobody but slapd itself."""
    return f'to * by dn.exact="{peer_dn()}" read by group.exact="{account_dn("administrateurs", base)}" read by * none'


def certificate_mapping(base: str) -> str:
    """The `olcAuthzRegexp` value that finds the account of a client certificate by its whole subject.

    slapd puts the subject in a filter as it is, where `\\XX` is a byte and `()*` have a meaning: only the escapes of letters
    outside ASCII are let through. A subject with any other escape (a comma inside a name) is nobody's: unescaped, it would
    read as other parts of a subject.
    """
    subject = r"^(([^()*\\]|\\[89A-Fa-f][0-9A-Fa-f])+)$"
    return f'"{subject}" "ldap:///ou=comptes,{base}??one?(sujetCertificat=$1)"'
