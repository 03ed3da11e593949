"""`caducee card`: what is in the readers, who holds the card, a signature to try it."""

from __future__ import annotations

import getpass
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

import smime
from caducee.commands.common import JsonOption, done, show
from caducee.errors import UsageError
from smime import cps_reader
from smime.cps import CpsCard, model_of
from smime.cps_errors import CardError, ExpiredCard, UnsuitableCard
from smime.cps_model import CardSigner

app = typer.Typer(no_args_is_help=True, help="Carte CPS : lecteurs, porteur, essai / CPS card: readers, holder, try.")
ReaderOption = Annotated[str, typer.Option(help="Partie du nom du lecteur / part of the reader's name.")]


@app.command()
def readers(as_json: JsonOption = False) -> None:
    """Montre les lecteurs et ce qu'ils contiennent / show readers and what is in them."""
    try:
        found = cps_reader.readers()
    except CardError as error:
        raise _usage(error) from None
    rows = [{"lecteur": one.name, "carte": _model(one.atr), "atr": one.atr.hex().upper()} for one in found]
    show(rows, as_json=as_json)


@app.command("show")
def show_card(reader: ReaderOption = "", as_json: JsonOption = False) -> None:
    """Montre le porteur, les certificats et les essais restants ; sans code PIN / holder, certificates, tries left."""
    try:
        with cps_reader.session(cps_reader.find_reader(reader)) as card:
            rows = [{"quoi": key, "valeur": value} for key, value in _described(card)]
    except CardError as error:
        raise _usage(error) from None
    show(rows, as_json=as_json)


@app.command()
def sign(
    message: Annotated[Path, typer.Argument(help="Message RFC 5322 à signer / message to sign.", exists=True)],
    reader: ReaderOption = "",
) -> None:
    """Signe un message avec la carte, sur la sortie standard / sign a message with the card, on standard output."""
    try:
        with cps_reader.session(cps_reader.find_reader(reader)) as card:
            left = card.pin_status().left
        pin = getpass.getpass(f"Code PIN ({left} essais avant blocage / tries left): ")
        with cps_reader.session(cps_reader.find_reader(reader)) as card:
            card.verify_pin(pin.encode("ascii", "replace"), take_last_try=True)
            signed = smime.sign_message(message.read_bytes(), CardSigner(card), at=datetime.now(UTC))
    except CardError as error:
        raise _usage(error) from None
    sys.stdout.buffer.write(signed)
    done(f"signé / signed: {message}")


def _described(card: CpsCard) -> list[tuple[str, object]]:
    holder, signature, login = card.holder(), card.signature_certificate(), card.authentication_certificate()
    try:
        card.check_period(datetime.now(UTC))
        state = "en vigueur / in force"
    except ExpiredCard as error:
        state = str(error)
    return [
        ("carte", card.model.value),
        ("numéro", card.serial),
        ("porteur", f"{holder.given_name} {holder.surname}"),
        ("identifiant", holder.national_id or ""),
        ("profession", holder.profession),
        ("spécialité", card.speciality()),
        ("état", state),
        ("essais PIN", card.pin_status().left),
        ("signature", f"{signature.serial_number:x}, {signature.not_valid_after_utc:%d/%m/%Y}"),
        ("authentification", f"{login.serial_number:x}, {login.not_valid_after_utc:%d/%m/%Y}"),
    ]


def _model(atr: bytes) -> str:
    if not atr:
        return ""
    try:
        return model_of(atr).value
    except UnsuitableCard as error:
        return str(error)


_TEXTS = {
    "no-reader": "aucun lecteur, ou service PC/SC arrêté (pcscd) / no reader, or PC/SC service stopped",
    "no-card": "aucune carte dans le lecteur / no card in the reader",
    "several-cards": "plusieurs cartes : choisir par --reader / several cards: choose with --reader",
    "card-removed": "carte retirée / card removed",
    "reader-failed": "le lecteur ne répond pas : le rebrancher / the reader does not answer: plug it in again",
    "wrong-pin": "code PIN refusé / wrong PIN",
    "pin-blocked": "code PIN bloqué : débloquer la carte avec son code de secours / PIN blocked",
    "bad-pin": "un code PIN a 4 à 8 chiffres ; il n'a pas été présenté / a PIN is 4 to 8 digits; it was not shown",
    "expired-card": "carte ou certificat hors de ses dates / card or certificate out of its dates",
}


def _usage(error: CardError) -> UsageError:
    return UsageError(f"carte / card: {_TEXTS.get(error.code, error.code)} ({error})")
