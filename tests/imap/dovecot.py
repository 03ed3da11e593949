"""A private Dovecot, the oracle of the transcripts and the peer of the bench: one user, loopback, stopped by its pid."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

USER = "claire"
PASSWORD = "motdepasse"


def available() -> bool:
    """Whether Dovecot is installed and may be started here (it changes users: only root can)."""
    return shutil.which("dovecot") is not None and os.geteuid() == 0


def free_port() -> int:
    """A loopback port above 20000 that is free now."""
    for port in range(24000 + os.getpid() % 4000, 60000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


class Dovecot:
    """Serves IMAP in clear on `port`, IMAPS on `port_tls` when a certificate is given. `mail` is its mail_location, `fsync` its
    mail_fsync ("optimized" is its default)."""

    def __init__(
        self,
        folder: Path,
        *,
        mail: str = "sdbox:~/mail",
        certificate: tuple[Path, Path] | None = None,
        fsync: str = "optimized",
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.port_tls = 0
        home = folder / "home"
        home.mkdir(parents=True)
        nobody = pwd.getpwnam("nobody")
        os.chown(home, nobody.pw_uid, nobody.pw_gid)
        for parent in (folder, *folder.parents):
            if parent != Path("/tmp") and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)
        tls = "ssl = no"
        listener = ""
        if certificate:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port_tls = probe.getsockname()[1]
            tls = f"ssl = yes\nssl_cert = <{certificate[0]}\nssl_key = <{certificate[1]}"
            listener = f"inet_listener imaps {{\n port = {self.port_tls}\n ssl = yes\n }}"
        (folder / "dovecot.conf").write_text(
            f"""base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
protocols = imap
listen = 127.0.0.1
{tls}
disable_plaintext_auth = no
mail_location = {mail}
mail_uid = nobody
mail_gid = nogroup
first_valid_uid = 1
first_valid_gid = 1
mail_fsync = {fsync}
mail_max_userip_connections = 20000
passdb {{
  driver = static
  args = password={PASSWORD}
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={home}
}}
namespace inbox {{
  inbox = yes
  separator = /
  mailbox Drafts {{
    special_use = \\Drafts
  }}
}}
service imap-login {{
  chroot =
  service_count = 0
  process_min_avail = 1
  client_limit = 8000
  inet_listener imap {{
    port = {self.port}
  }}
  {listener}
}}
service imap {{
  process_limit = 8000
}}
service anvil {{
  chroot =
  client_limit = 20000
}}
service auth {{
  client_limit = 20000
}}
"""
        )
        self._process = subprocess.Popen(["dovecot", "-F", "-c", str(folder / "dovecot.conf")])
        self._wait()

    @property
    def pid(self) -> int:
        """Its master process."""
        return self._process.pid

    def _wait(self) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"Dovecot did not start: see {self.folder}/log")

    def stop(self) -> None:
        """Ends it and its children."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
