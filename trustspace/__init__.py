"""The trust space: the signed white list, who may speak for which domain, certificate paths, TLS contexts."""

from trustspace.dn import DistinguishedName, DnSyntaxError, name_of
from trustspace.fetch import Fetched, Fetcher, FetchFailed
from trustspace.issuing import Issued
from trustspace.join import may_speak
from trustspace.listshape import ListRefusal, WhiteListRefused
from trustspace.model import Decision, ListedDomain, ListProblem, TrustSpaceError, WhiteList, canonical_domain
from trustspace.online import OnlineRules, OnlineSources
from trustspace.paths import Anchors, PathReason, PathValidator, PathVerdict, Usage, check_path
from trustspace.pem import UnreadableFile, read_certificates, read_crl, read_private_key
from trustspace.practice import PRACTICE_SIGNER_CN, PracticeAuthority, is_practice
from trustspace.refresher import Refresher, Schedule
from trustspace.reloading import OwnCertificate, ReloadingContext, client_tls, server_tls
from trustspace.space import Explanation, Freshness, TrustSpace, TrustState, TrustUnavailable
from trustspace.tls import client_context, server_context
from trustspace.verdict import Purpose
from trustspace.whitelist import load_white_list

__all__ = [
    "PRACTICE_SIGNER_CN",
    "Anchors",
    "Decision",
    "DistinguishedName",
    "DnSyntaxError",
    "Explanation",
    "FetchFailed",
    "Fetched",
    "Fetcher",
    "Freshness",
    "Issued",
    "ListProblem",
    "ListRefusal",
    "ListedDomain",
    "OnlineRules",
    "OnlineSources",
    "OwnCertificate",
    "PathReason",
    "PathValidator",
    "PathVerdict",
    "PracticeAuthority",
    "Purpose",
    "Refresher",
    "ReloadingContext",
    "Schedule",
    "TrustSpace",
    "TrustSpaceError",
    "TrustState",
    "TrustUnavailable",
    "UnreadableFile",
    "Usage",
    "WhiteList",
    "WhiteListRefused",
    "canonical_domain",
    "check_path",
    "client_context",
    "client_tls",
    "is_practice",
    "load_white_list",
    "may_speak",
    "name_of",
    "read_certificates",
    "read_crl",
    "read_private_key",
    "server_context",
    "server_tls",
]
