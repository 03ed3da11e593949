"""What correspondents state in their signatures: believed when valid, the latest wins, bounded, never below the policy."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import mime
import smime
from smime import ContentCipher
from tests.smime import certificates as make

AT = make.AT
MESSAGE = mime.message([("From", "a@x.fr"), ("Subject", "x")], mime.leaf("text/plain", b"Bonjour\r\n"))
LITTLE = smime.Capabilities((ContentCipher.AES128_CBC,))


def verified(holder: make.Holder, reads: smime.Capabilities, minutes: int = 0) -> tuple[smime.Verification, ...]:
    at = AT + timedelta(minutes=minutes)
    signed = smime.sign_message(MESSAGE, holder.signer, at=at, reads=reads)
    return smime.verify_message(signed, at=at, path=make.path)


def test_the_latest_statement_wins_whatever_the_order_it_comes_in() -> None:
    memory, holder = smime.CapabilityMemory(), make.rsa_holder()
    assert memory.of(holder.certificate) is None
    memory.learn(verified(holder, LITTLE, 5))
    memory.learn(verified(holder, smime.OURS, 1))  # an old message, shown again
    assert memory.of(holder.certificate) == LITTLE
    memory.learn(verified(holder, smime.OURS, 9))
    assert memory.of(holder.certificate) == smime.OURS


def test_only_what_is_valid_teaches() -> None:
    memory, holder = smime.CapabilityMemory(), make.rsa_holder()
    (good,) = verified(holder, LITTLE)
    for verdict in smime.Verdict:
        if verdict is not smime.Verdict.VALID:
            memory.learn([replace(good, verdict=verdict)])
    memory.learn(
        [replace(good, signed_at=None), replace(good, capabilities=None), replace(good, signer_certificate=None)]
    )
    assert len(memory) == 0 and memory.of(holder.certificate) is None


def test_another_certificate_of_the_same_person_is_recognised_and_of_another_is_not() -> None:
    memory, holder = smime.CapabilityMemory(), make.rsa_holder()
    memory.learn(verified(holder, LITTLE))
    for other in (make.ec_holder(), make.ec_holder("P-384")):
        same = set(smime.addresses(other.certificate)) & set(smime.addresses(holder.certificate))
        assert memory.of(other.certificate) == (LITTLE if same else None)
    stranger = make.issue(make.rsa_key(), emails=("other@x.fr",))
    assert memory.of(stranger.certificate) is None


def test_it_is_bounded_and_forgets_whom_it_heard_of_longest_ago() -> None:
    memory = smime.CapabilityMemory(most=3)
    holders = [make.issue(make.rsa_key(), emails=(f"n{number}@x.fr",)) for number in range(5)]
    (first,) = verified(make.rsa_holder(), LITTLE)
    for holder in holders:
        memory.learn([replace(first, signer_certificate=holder.certificate)])
    assert len(memory) == 3
    assert [memory.of(holder.certificate) for holder in holders] == [None, None, LITTLE, LITTLE, LITTLE]


def test_what_is_remembered_never_goes_below_the_policy() -> None:
    memory, holder = smime.CapabilityMemory(), make.rsa_holder()
    memory.learn(verified(holder, LITTLE))
    only = smime.EncryptionPolicy(ciphers=(ContentCipher.AES256_GCM, ContentCipher.AES256_CBC))
    plan = smime.choose([memory.recipient(holder.certificate)], only)
    assert plan.cipher is ContentCipher.AES256_CBC and plan.reason == "no-common-cipher"
    assert smime.choose([memory.recipient(holder.certificate)]).cipher is ContentCipher.AES128_CBC
