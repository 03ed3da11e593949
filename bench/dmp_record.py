"""The embedded record as a process of its own, for `bench.dmp_bridge`: prints its repository URL, serves until SIGTERM."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path

import uvloop

from caducee.processors import keep_to_processor, processor_of
from dossier import Authority, RecordServer, RecordStore, bind, make_record_app, remember
from trustspace import Anchors, Issued, PathValidator, Usage, read_crl, server_context


def main(trust: Path, folder: Path) -> None:
    """Serve the practice certificates in `trust` (see tests.dossier.house.Trust)."""
    os.environ.update(processor_of(0))
    keep_to_processor()
    anchors = Anchors.load(trust)
    crls = [read_crl(path) for path in sorted((trust / "crl").glob("*.crl"))]
    validator = PathValidator(anchors, crls)
    authority = Authority(
        remember(lambda c, s, at: validator.check(c, s, at=at, usage=Usage.SIGNATURE)),
        remember(lambda c, s, at: validator.check(c, s, at=at, usage=Usage.TLS_CLIENT)),
    )
    store = RecordStore(f"sqlite:///{folder / 'record.sqlite'}", folder / "documents", bytes(range(32)))
    server_identity = Issued.read(folder / "server.pem", folder / "server.key")
    context = server_context(server_identity.chain, server_identity.key, client_anchors=anchors, client="required")
    server = RecordServer(make_record_app(store, authority), context)
    listener = bind("127.0.0.1", 0)
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    print(f"https://localhost:{listener.getsockname()[1]}/si-dmp-server/v2/services/repository", flush=True)
    gc.freeze()  # as every process of `caducee serve`
    uvloop.run(server.serve(listener))
    store.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
