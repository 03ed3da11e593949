"""The tables of the mail store, for SQLite and PostgreSQL alike.

Invariants:
* nothing a patient or a message says is in clear: contents are blobs; folder names, summaries, search texts, private
  keys, second factors and deposit contexts are sealed; logins that failed, contents already held and the ids that
  threads are made of are kept as keyed digests only;
* `messages.uid` is unique in its folder and never given twice (folders.uid_next only grows);
* `folders.highest_modseq` grows with every change of the folder, inside the transaction that makes the change; its
  counts (`total`, `unseen`, `deleted`, `size`) change in that transaction too;
* the migrations of `mailstore/migrations` lead exactly to this description (tested).
"""

from __future__ import annotations

from mailstore.columns import Moment, metadata
from mailstore.tables_accounts import (
    accounts,
    app_passwords,
    code_failures,
    delegations,
    erased_accounts,
    login_failures,
    policies,
    scram_verifiers,
    send_codes,
)
from mailstore.tables_journey import (
    attempts,
    audit,
    deposit_originals,
    deposits,
    feed,
    outgoing,
    receipts,
    submissions,
)
from mailstore.tables_keys import custodians, keyring, meta, stored_keys
from mailstore.tables_mail import (
    acl,
    blob_journal,
    contents,
    discarded,
    expunged,
    folders,
    holdings,
    messages,
    search_index,
    seen_by,
    subscriptions,
    threads,
)

__all__ = [
    "Moment",
    "accounts",
    "acl",
    "app_passwords",
    "attempts",
    "audit",
    "blob_journal",
    "code_failures",
    "contents",
    "custodians",
    "delegations",
    "deposit_originals",
    "deposits",
    "discarded",
    "erased_accounts",
    "expunged",
    "feed",
    "folders",
    "holdings",
    "keyring",
    "login_failures",
    "messages",
    "meta",
    "metadata",
    "outgoing",
    "policies",
    "receipts",
    "scram_verifiers",
    "search_index",
    "seen_by",
    "send_codes",
    "stored_keys",
    "submissions",
    "subscriptions",
    "threads",
]
