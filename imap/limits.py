"""Every bound of the IMAP server in one value, so that nothing a client sends is unbounded in size, depth, count or time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    line_before_login: int = 8 * 1024
    line: int = 64 * 1024
    literal_before_login: int = 4 * 1024
    literal: int = 64 * 1024
    message_size: int = 25 * 1024 * 1024
    login_time: float = 60.0
    idle_time: float = 30 * 60.0
    write_time: float = 5 * 60.0
    handshake_time: float = 20.0
    connections: int = 10_000
    connections_per_account: int = 32
    connections_per_address: int = 200
    login_failures: int = 3
    login_delay: float = 1.0
    logins_at_once: int = 2
    searches_at_once: int = 2
    account_check: float = 10.0
    bad_commands: int = 100
    folders_per_account: int = 2000
