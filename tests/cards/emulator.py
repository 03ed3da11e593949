"""The practice card with what a hostile or broken card does, switched on by `Faults`."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import rsa

from caducee.demo.practice_card import OK, Command, Hang, PracticeCard, Removed

_SELECT, _READ = 0xA4, 0xB0


@dataclass
class Faults:
    """`remove_on`, `hang_on`: an INS on which the card is pulled out, or never answers."""

    endless_61xx: bool = False
    endless_empty_61xx: bool = False
    wrong_length_file: bool = False
    huge_file: bool = False
    other_key: rsa.RSAPrivateKey | None = None
    short_answer: bool = False
    remove_on: int | None = None
    hang_on: int | None = None


@dataclass
class Card(PracticeCard):
    """A practice card that may be told to misbehave."""

    faults: Faults = field(default_factory=Faults)

    @property
    def signature_key(self) -> rsa.RSAPrivateKey:
        return self.faults.other_key or super().signature_key

    def execute(self, command: Command) -> bytes:
        if self.faults.remove_on == command.ins:
            raise Removed
        if self.faults.hang_on == command.ins:
            raise Hang
        if self.faults.short_answer and command.ins == _READ:
            return b"\x90"
        return super().execute(command)

    def answer(self, command: Command, data: bytes, status: int) -> bytes:
        if status == OK and command.ins == _SELECT and self.faults.endless_61xx:
            return b"\x61\x10"
        if status == OK and command.ins == _SELECT and self.faults.endless_empty_61xx:
            return b"\x61\x00"
        return super().answer(command, data, status)

    def get_response(self, le: int | None) -> bytes:
        if self.faults.endless_61xx:
            return bytes(16) + b"\x61\x10"
        if self.faults.endless_empty_61xx:
            return b"\x61\x00"
        return super().get_response(le)

    def size_of(self, path: bytes) -> int:
        if self.faults.huge_file:
            return 0xFFFF
        return super().size_of(path) + (300 if self.faults.wrong_length_file else 0)
