"""`caducee smime`: look at, verify, sign, encrypt and open S/MIME messages in files and pipes.

Exit codes: 0 done, or everything asked for is valid; 1 not valid, or it could not be opened; 2 wrong use.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509

import smime
from caducee.commands import smime_report as report
from caducee.commands.common import JsonOption, show
from caducee.commands.smime_files import (
    KeyFiles,
    read_bytes,
    read_certificates,
    read_message,
    read_moment,
)
from caducee.errors import UsageError
from trustspace import Anchors, Usage
from trustspace.paths import PathValidator
from trustspace.verdict import PathVerdict

app = typer.Typer(
    no_args_is_help=True,
    help="Messages S/MIME en fichiers / S/MIME messages in files: inspect, verify, sign, encrypt, decrypt.\n\n"
    "FILE « - » lit l'entrée standard / reads standard input. Par exemple / for example:\n\n"
    "  caducee smime sign lettre.eml --cert moi.pem --key moi.key | caducee smime encrypt - --to elle.pem > out.eml",
)
FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="Message (.eml), CMS (.p7m), ou - / message, CMS, or - for stdin.")
]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="Fichier à écrire, sinon la sortie standard / file to write.")
]
CertOption = Annotated[
    Path, typer.Option("--cert", help="Certificats de la clé, le sien d'abord / its chain, leaf first.")
]
KeyOption = Annotated[Path | None, typer.Option("--key", help="Clé privée, PEM ou DER / private key file.")]
PasswordOption = Annotated[
    Path | None, typer.Option("--password-file", help="Fichier du mot de passe de la clé / file with its password.")
]
LibraryOption = Annotated[Path | None, typer.Option("--pkcs11", help="Module PKCS#11 (HSM) / PKCS#11 module.")]
TokenOption = Annotated[str | None, typer.Option("--token", help="Étiquette du jeton / token label.")]
LabelOption = Annotated[str | None, typer.Option("--key-label", help="Étiquette de la clé / key label.")]
PinOption = Annotated[Path | None, typer.Option("--pin-file", help="Fichier du code PIN / file with the PIN.")]
CaOption = Annotated[list[Path] | None, typer.Option("--ca", help="Racines de confiance, PEM ou DER / trusted roots.")]
IntermediateOption = Annotated[
    list[Path] | None, typer.Option("--intermediate", help="Autorités intermédiaires / intermediate authorities.")
]
CrlOption = Annotated[list[Path] | None, typer.Option("--crl", help="Listes de révocation / revocation lists.")]
RevocationOption = Annotated[
    bool,
    typer.Option("--no-revocation", help="Ne pas exiger de liste de révocation / do not require revocation lists."),
]
AtOption = Annotated[
    str | None, typer.Option("--at", help="Juger à cette date (ISO 8601) / judge at this moment; default: now.")
]
TripleDesOption = Annotated[
    bool, typer.Option("--allow-3des", help="Ouvrir aussi les vieux messages triple DES / open old triple DES mail.")
]


@app.command()
def inspect(file: FileArgument, as_json: JsonOption = False) -> None:
    """Montre la structure, sans clé ni verdict / show the structure, without a key or a verdict."""
    rows = report.structure(read_message(file))
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    secured = [row for row in rows if row["kind"] != "mime"]
    for row in report.flat(secured):
        show([{"": key, " ": value} for key, value in row.items() if value != ""], as_json=False)
    show(report.flat([row for row in rows if row["kind"] == "mime"]), as_json=False, title="MIME", empty="")


@dataclass(frozen=True, slots=True)
class _Checker:
    """A path checker over files. `revocation` False: paths are checked without lists, and the report says so."""

    validator: PathValidator
    revocation: bool

    def __call__(self, certificate: x509.Certificate, others: Sequence[x509.Certificate], at: datetime) -> PathVerdict:
        return self.validator.check(certificate, others, at=at, usage=Usage.SIGNATURE, revocation=self.revocation)


@app.command()
def verify(
    file: FileArgument,
    ca: CaOption = None,
    intermediate: IntermediateOption = None,
    crl: CrlOption = None,
    no_revocation: RevocationOption = False,
    at: AtOption = None,
    as_json: JsonOption = False,
) -> None:
    """Juge chaque signature, et dit ce qu'elle couvre / judge each signature, and tell what it covers.

    Code de sortie / exit code: 0 toutes valables / all valid, 1 sinon / otherwise."""
    checker = _checker(ca, intermediate, crl, revocation=not no_revocation)
    opened = _open(read_message(file), (), read_moment(at), checker, smime.ReadingPolicy())
    _tell(opened, as_json=as_json, revocation=not no_revocation)
    survey = opened.survey()
    every = [*opened.verifications, *(one for layer in survey.nested for one in layer.verifications)]
    if not every or any(one.verdict is not smime.Verdict.VALID for one in every):
        raise typer.Exit(1)


def _checker(
    ca: list[Path] | None, intermediate: list[Path] | None, crl: list[Path] | None, *, revocation: bool
) -> _Checker | None:
    if not ca:
        return None
    roots = tuple(one for path in ca for one in read_certificates(path))
    between = tuple(one for path in intermediate or [] for one in read_certificates(path))
    lists = [_read_crl(path) for path in crl or []]
    return _Checker(PathValidator(Anchors(roots, between), lists), revocation)


def _read_crl(path: Path) -> x509.CertificateRevocationList:
    data = read_bytes(path)
    load = x509.load_pem_x509_crl if data.lstrip().startswith(b"-----") else x509.load_der_x509_crl
    try:
        return load(data)
    except ValueError as error:
        raise UsageError(f"{path}: liste de révocation illisible / not a revocation list") from error


def _open(
    raw: bytes,
    decryptors: Sequence[smime.Decryptor],
    at: datetime,
    checker: _Checker | None,
    policy: smime.ReadingPolicy,
) -> smime.Opened:
    try:
        return smime.open_message(raw, decryptors, at=at, path=checker, policy=policy)
    except smime.SmimeError as error:
        raise UsageError(f"message refusé / message refused: {error} ({error.code})") from error


def _tell(opened: smime.Opened, *, as_json: bool, revocation: bool) -> None:
    parts, nested, fields = report.survey_rows(opened)
    signers = [report.verification_row(one, revocation_checked=revocation) for one in opened.verifications]
    if as_json:
        whole: dict[str, Any] = {
            "signers": signers,
            "encrypted": opened.encrypted,
            "opened": opened.opened,
            "problems": list(opened.problems),
            "ciphers": [cipher.value for cipher in opened.ciphers],
            "parts": parts,
            "nested": nested,
            "unprotected_fields": fields,
            "headers": report.headers_row(opened.headers),
        }
        typer.echo(json.dumps(whole, ensure_ascii=False, indent=2))
        return
    for row in report.flat(signers):
        show([{"": key, " ": value} for key, value in row.items() if value != ""], as_json=False)
    if not signers:
        show([], as_json=False, empty="aucune signature autour du message / no signature round the message")
    show(report.flat(parts), as_json=False, title="Parties / parts")
    inner = [{"part": one["part"], "kind": one["kind"], **signer} for one in nested for signer in one["signers"]]
    show(report.flat(inner), as_json=False, title="Signatures internes / nested signatures", empty="")
    show([{"champs non protégés / unprotected fields": ", ".join(fields)}], as_json=False)


@app.command()
def sign(
    file: FileArgument,
    cert: CertOption,
    key: KeyOption = None,
    password_file: PasswordOption = None,
    pkcs11: LibraryOption = None,
    token: TokenOption = None,
    key_label: LabelOption = None,
    pin_file: PinOption = None,
    algorithm: Annotated[
        str | None, typer.Option(help="Par exemple / for example rsa-pss-sha256; sinon l'usuel / else the usual one.")
    ] = None,
    opaque: Annotated[bool, typer.Option("--opaque", help="Contenu dans la signature / opaque signature.")] = False,
    protect_headers: Annotated[
        bool, typer.Option("--protect-headers", help="Signer aussi De, À, Objet, Date / sign the header fields too.")
    ] = False,
    hide_subject: Annotated[
        bool,
        typer.Option("--hide-subject", help="Cacher l'objet (à chiffrer ensuite) / hide the subject; then encrypt."),
    ] = False,
    at: AtOption = None,
    out: OutOption = None,
) -> None:
    """Signe un message / sign a message. La chaîne de --cert part avec / the chain of --cert goes along."""
    signer = KeyFiles(cert, key, password_file, pkcs11, token, key_label, pin_file).signer()
    protect = smime.HeaderMode.CIPHER if hide_subject else smime.HeaderMode.CLEAR if protect_headers else None
    signing = signer if algorithm is None else (signer, _mechanism(algorithm))
    try:
        raw = smime.sign_message(read_message(file), signing, at=read_moment(at), opaque=opaque, protect=protect)
    except smime.SmimeError as error:
        raise UsageError(f"signature impossible / cannot sign: {error} ({error.code})") from error
    _write(out, raw)


def _mechanism(name: str) -> smime.Mechanism:
    try:
        return smime.Mechanism(name)
    except ValueError as error:
        known = ", ".join(one.value for one in smime.Mechanism)
        raise UsageError(f"{name}: algorithme inconnu, un de / unknown algorithm, one of: {known}") from error


@app.command()
def encrypt(
    file: FileArgument,
    to: Annotated[list[Path], typer.Option("--to", help="Certificat d'un destinataire / a recipient's certificate.")],
    cipher: Annotated[
        str | None, typer.Option(help="aes256-cbc, aes128-cbc, aes256-gcm, aes128-gcm; sinon choisi / else chosen.")
    ] = None,
    oaep: Annotated[bool, typer.Option("--oaep", help="RSA-OAEP pour tous / RSA-OAEP for all.")] = False,
    hide_subject: Annotated[
        bool, typer.Option("--hide-subject", help="Protéger et cacher l'objet / protect headers, hide the subject.")
    ] = False,
    out: OutOption = None,
) -> None:
    """Chiffre un message pour tous les --to / encrypt a message to every --to."""
    recipients = [read_certificates(path)[0] for path in to]
    if cipher is not None and cipher not in [one.value for one in smime.EncryptionPolicy().ciphers]:
        raise UsageError(f"{cipher}: chiffrement inconnu / unknown cipher")
    try:
        raw = smime.encrypt_message(
            read_message(file),
            recipients,
            cipher=None if cipher is None else smime.ContentCipher(cipher),
            transport=smime.Transport.OAEP_SHA256 if oaep else None,
            protect=smime.HeaderMode.CIPHER if hide_subject else None,
        )
    except smime.SmimeError as error:
        raise UsageError(f"chiffrement impossible / cannot encrypt: {error} ({error.code})") from error
    _write(out, raw)


@app.command()
def decrypt(
    file: FileArgument,
    cert: CertOption,
    key: KeyOption = None,
    password_file: PasswordOption = None,
    pkcs11: LibraryOption = None,
    token: TokenOption = None,
    key_label: LabelOption = None,
    pin_file: PinOption = None,
    allow_3des: TripleDesOption = False,
    ca: CaOption = None,
    intermediate: IntermediateOption = None,
    crl: CrlOption = None,
    no_revocation: RevocationOption = False,
    at: AtOption = None,
    out: OutOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Verdicts en JSON, sur l'erreur standard / verdicts as JSON, on stderr.")
    ] = False,
) -> None:
    """Ouvre un message et rend le clair, une signature intérieure restant en place / open a message.

    Code de sortie / exit code: 0 ouvert / opened, 1 sinon / otherwise."""
    decryptor = KeyFiles(cert, key, password_file, pkcs11, token, key_label, pin_file).decryptor()
    checker = _checker(ca, intermediate, crl, revocation=not no_revocation)
    policy = smime.ReadingPolicy(triple_des=allow_3des)
    opened = _open(read_message(file), [decryptor], read_moment(at), checker, policy)
    if as_json:
        rows = [report.verification_row(one, revocation_checked=not no_revocation) for one in opened.verifications]
        told = {
            "opened": opened.opened,
            "problems": list(opened.problems),
            "ciphers": [one.value for one in opened.ciphers],
            "signers": rows,
            "headers": report.headers_row(opened.headers),
        }
        typer.echo(json.dumps(told, ensure_ascii=False, indent=2), err=True)
    if not opened.opened:
        why = ", ".join(opened.problems) or "pas d'enveloppe / no envelope"
        typer.echo(f"caducee: {file}: non ouvert / not opened: {why}", err=True)
        raise typer.Exit(1)
    _write(out, opened.content)


def _write(out: Path | None, raw: bytes) -> None:
    if out is None:
        sys.stdout.buffer.write(raw)
        sys.stdout.buffer.flush()
    else:
        out.write_bytes(raw)
