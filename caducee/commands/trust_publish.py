"""`caducee trust publish`: sign a private white list and publish it, with its schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from cryptography.x509.oid import NameOID

from caducee.commands.common import FolderOption, done, show
from caducee.commands.trust_explain import change_row
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.wiring import now
from trustspace import Anchors, Issued, PracticeAuthority, Purpose
from trustspace.publishing import COLUMNS, publish, read_entries


def publish_list(
    entries: Annotated[Path, typer.Argument(help=f"CSV : {';'.join(COLUMNS)} (operator : DN ou/or certificat.pem).")],
    authority: Annotated[
        Path | None, typer.Option(help="Autorité d'exercice qui signe / practice authority that signs.")
    ] = None,
    signer: Annotated[Path | None, typer.Option(help="Sinon, certificat (PEM) du signataire / signer's.")] = None,
    key: Annotated[Path | None, typer.Option(help="Et sa clé (PEM) / and its key.")] = None,
    output: Annotated[Path | None, typer.Option(help="Dossier, sinon published/ / folder, else published/.")] = None,
    folder: FolderOption = Path(),
) -> None:
    """Signe et publie une liste blanche privée, avec son XSD / sign and publish a private white list, with its XSD.

    Servie en HTTPS sous /trust/ si trust.serve_list = true / served over HTTPS if trust.serve_list = true.
    """
    issued, anchors = _signer(authority, signer, key, folder)
    names = [str(one.value) for one in issued.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(names) != 1:
        raise UsageError("le certificat du signataire n'a pas un CN / the signer's certificate has not one CN")
    place = output or OperatorFolder(folder).published
    publication = publish(
        read_entries(entries),
        issued,
        place,
        anchors=anchors,
        signer_cn=names[0],
        at=now().replace(microsecond=0),
    )
    done(f"{len(publication.white_list.entries)} entrées / entries: {publication.path} (signer_cn = {names[0]})")
    if publication.changes:
        show([change_row(one) for one in publication.changes], as_json=False)


def _signer(authority: Path | None, signer: Path | None, key: Path | None, folder: Path) -> tuple[Issued, Anchors]:
    """Who signs, and the anchors of those who will read: the authority's own, or those of the operator's folder."""
    if authority is not None and signer is None and key is None:
        opened = PracticeAuthority.open(authority)
        return opened.signer, Anchors(opened.anchors, opened.intermediates)
    if authority is None and signer is not None and key is not None:
        return Issued.read(signer, key), Anchors.load(OperatorFolder(folder).trust, Purpose.LIST)
    raise UsageError("donner --authority, ou --signer et --key / give --authority, or --signer and --key")
