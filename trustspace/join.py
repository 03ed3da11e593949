"""The join at the heart of the trust space: may this certificate name speak for this domain? One pure function.

Invariants: the full name decides, never the common name alone (the national audit domain `cert-cn-diff-dn-audit`
checks just that); a name speaks only for the domains listed for it; no list, no answer but no. Nothing here looks at
paths, revocation or time: space.py does, before asking.
"""

from __future__ import annotations

from trustspace.dn import DistinguishedName
from trustspace.model import Decision, WhiteList, canonical_domain

RULE_ALLOWED = "LISTED"
RULE_NO_LIST = "NO_WHITE_LIST"
RULE_BAD_DOMAIN = "NOT_A_DOMAIN"
RULE_UNKNOWN_DOMAIN = "DOMAIN_NOT_LISTED"
RULE_UNKNOWN_NAME = "CERTIFICATE_NOT_LISTED"
RULE_OTHER_DOMAIN = "CERTIFICATE_NOT_LISTED_FOR_DOMAIN"


def may_speak(white_list: WhiteList | None, dn: DistinguishedName, domain: str) -> Decision:
    """The decision for a certificate name and a domain, in the order in which the rules are tried.

    1 no list: refused for now. 2 not a domain name: refused. 3 domain absent from the list: refused. 4 name among
    those listed for the domain: allowed. 5 name listed for other domains only: refused. 6 name not listed: refused.
    """
    if white_list is None:
        return Decision(
            False,
            "Aucune liste blanche valide n'est disponible.",
            "No valid white list is available.",
            RULE_NO_LIST,
            "",
            temporary=True,
        )
    digest = white_list.digest
    try:
        canonical = canonical_domain(domain)
    except ValueError:
        return Decision(False, "Ce n'est pas un nom de domaine.", "This is not a domain name.", RULE_BAD_DOMAIN, digest)
    listed = white_list.names.get(canonical)
    if listed is None:
        return Decision(
            False,
            f"Le domaine {canonical} n'est pas dans la liste blanche.",
            f"The domain {canonical} is not in the white list.",
            RULE_UNKNOWN_DOMAIN,
            digest,
        )
    if dn in listed:
        return Decision(
            True,
            f"Le certificat est listé pour le domaine {canonical}.",
            f"The certificate is listed for the domain {canonical}.",
            RULE_ALLOWED,
            digest,
        )
    if dn in white_list.every_name:
        return Decision(
            False,
            f"Le certificat est listé pour d'autres domaines, pas pour {canonical}.",
            f"The certificate is listed for other domains, not for {canonical}.",
            RULE_OTHER_DOMAIN,
            digest,
        )
    return Decision(
        False,
        "Le nom du certificat n'est pas dans la liste blanche.",
        "The certificate's name is not in the white list.",
        RULE_UNKNOWN_NAME,
        digest,
    )
