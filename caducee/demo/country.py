"""A country in a folder: a practice authority, the national services (directory, record) and two operators.

    pki/         the practice trust space's authority
    national/    the directory with 300 synthetic professionals, and the patient's record
    chu/         operator of chu-exemple.mssante.fr, the hospital
    medecin/     operator of medecin.mssante.fr, the GPs
    agent/       the desk agent of the GP who signs with her card (made when that step is played)

Used by `caducee demo` and by the tests of the journey. Every password and code is drawn anew.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

from caducee.demo.practice_card_files import Pair, Personalisation
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.initialise import create_operator, publish_practice_list
from caducee.mailboxes import NewMailbox, add_mailbox
from caducee.sections import DirectorySection, DmpSection, ListenSection, OperatorSection, ServicesSection, TrustSection
from caducee.settings import Settings, build_settings
from caducee.wiring import DIRECTORY_ADMIN, open_store
from directory import Entry, people
from mailstore import MailboxKind
from proxy import CodeDesk
from trustspace import PRACTICE_SIGNER_CN, Issued, ListedDomain, PracticeAuthority, pem

HOSPITAL = "chu-exemple.mssante.fr"
DOCTORS = "medecin.mssante.fr"
_MARK = ".caducee-demo"


@dataclass(frozen=True, slots=True)
class Place:
    """One folder of the country with its settings."""

    folder: OperatorFolder
    settings: Settings

    @property
    def name(self) -> str:
        return self.folder.root.name


@dataclass(frozen=True, slots=True)
class Country:
    """Everything a scenario needs: where things listen, who has which secret.

    `gateway` is the hospital gateway's client certificate; `stranger` that of an operator listed for another domain;
    `own_key` the decryption key of the GP who keeps hers, also in
    `own_key_file` (PKCS#12 under her mailbox's password) for her mail program; `card` is what is in her practice card;
    `passwords` are by address.
    """

    root: Path
    authority: PracticeAuthority
    national: Place
    hospital: Place
    doctors: Place
    gateway: Issued
    stranger: Issued
    own_key: Issued
    own_key_file: Path
    card: Personalisation
    send_code: str
    passwords: Mapping[str, str]

    @property
    def places(self) -> tuple[Place, ...]:
        return self.national, self.hospital, self.doctors


@dataclass(frozen=True, slots=True)
class Cast:
    """The people of the demonstration: two GPs, the second of whom keeps her own key, and the hospital's cardiologist."""

    gp: people.Professional
    gp_with_own_key: people.Professional
    cardiologist: people.Professional


def cast() -> Cast:
    """The same people at each run."""
    others = (
        one
        for one in people.synthetic_professionals()
        if one.mail.endswith(f"@{DOCTORS}") and one != people.CLAIRE_EXEMPLE
    )
    return Cast(people.CLAIRE_EXEMPLE, next(others), people.ALICE_MARTIN_DURAND)


def create_country(root: Path, *, at: datetime, base_port: int = 20000) -> Country:
    """Build the folders (a few seconds: some twenty RSA keys). A former demonstration at `root` is replaced.

    Raises UsageError when `root` holds anything else.
    """
    _clear(root)
    authority = PracticeAuthority.create(root / "pki", at=at)
    settings = all_settings(base_port)
    chu = people.CHU_EXEMPLE
    gateway = authority.issue_organisation(
        "PASSERELLE CHU EXEMPLE", chu.name, chu.national_id, chu.city.department, usage="auth", at=at
    )
    gateway.write(root / "pki", "passerelle")
    stranger = authority.issue_server(
        "mss.autre-operateur.exemple", "AUTRE OPERATEUR", people.STRUCTURES[1].national_id, "Paris (75)", at=at
    )
    places = {
        name: Place(create_operator(root / name, settings[name], at=at, authority=authority), settings[name])
        for name in ("chu", "medecin")
    }
    publish_practice_list(
        authority,
        [(place.folder, place.settings) for place in places.values()],
        at,
        others=[ListedDomain.of("autre-operateur.mssante.fr", stranger.certificate)],
    )
    card = _card(authority, cast().gp_with_own_key, at)
    mailboxes = _mailboxes(gateway, card)
    passwords = {mailbox.address: secrets.token_urlsafe(15) for mailbox, _ in mailboxes}
    opened = [_open(places, mailbox, custody, authority, passwords, at) for mailbox, custody in mailboxes]
    published = {entry.mail: entry for entry, _ in opened}
    entries = {entry.mail: entry for entry in people.synthetic_entries()} | published
    national = create_operator(
        root / "national", settings["national"], at=at, authority=authority, entries=list(entries.values())
    )
    own_key = next(keys["encrypt"] for entry, keys in opened if entry.mail == cast().gp_with_own_key.mail)
    return Country(
        root,
        authority,
        Place(national, settings["national"]),
        places["chu"],
        places["medecin"],
        gateway=gateway,
        stranger=stranger,
        own_key=own_key,
        own_key_file=_pkcs12(root / "pki" / "cle-personnelle.p12", own_key, passwords[cast().gp_with_own_key.mail]),
        card=card,
        send_code=_issue_code(places["chu"], at),
        passwords=passwords,
    )


def _clear(root: Path) -> None:
    if root.exists() and any(root.iterdir()) and not (root / _MARK).exists():
        raise UsageError(
            f"{root} n'est pas un dossier de démonstration : en donner un autre / is not a demo folder: give another"
        )
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True, mode=0o711)
    (root / _MARK).touch()


def all_settings(base_port: int) -> dict[str, Settings]:
    """The settings of the three places, by folder name."""
    national = ListenSection.above(base_port)
    listen = {"chu": ListenSection.above(base_port + 1000), "medecin": ListenSection.above(base_port + 2000)}
    surgery = people.Structure(people.synthetic_finess(90), "MAISON MEDICALE EXEMPLE", DOCTORS, people.LYON)
    trust = TrustSection(practice=True, authority="../pki", signer_cn=PRACTICE_SIGNER_CN)
    routes = {
        "chu": {DOCTORS: f"127.0.0.1:{listen['medecin'].reception}"},
        "medecin": {HOSPITAL: f"127.0.0.1:{listen['chu'].reception}"},
    }
    settings = {
        name: build_settings(
            Path("caducee demo"),
            operator=OperatorSection(
                hostname=f"mss.{structure.domain}",
                domains=(structure.domain,),
                organisation=structure.name,
                structure_id=structure.national_id,
                department=structure.city.department,
            ),
            listen=listen[name],
            trust=trust,
            directory=DirectorySection(
                url=f"ldap://127.0.0.1:{national.ldap}",
                bind_dn=DIRECTORY_ADMIN,
                password_file="../national/keys/directory.password",  # noqa: S106 - a path
            ),
            dmp=DmpSection(url=f"https://127.0.0.1:{national.record}/si-dmp-server/v2/services"),
            routes=routes[name],
        )
        for name, structure in (("chu", people.CHU_EXEMPLE), ("medecin", surgery))
    }
    settings["national"] = build_settings(
        Path("caducee demo"),
        operator=OperatorSection(
            hostname="national.exemple",
            organisation="SERVICES NATIONAUX DE DEMONSTRATION",
            structure_id=people.STRUCTURES[2].national_id,
            department="Paris (75)",
        ),
        services=ServicesSection(mail=False, deposits=False, directory=True, record=True),
        listen=national,
        trust=trust,
    )
    return settings


def _card(authority: PracticeAuthority, holder: people.Professional, at: datetime) -> Personalisation:
    """A practice card: one pair to sign, one to log in, certified as those of a CPS card are."""
    names = (holder.national_id, holder.surname, holder.given_name, holder.profession_label)
    signature = authority.issue_professional(*names, usage="sign", email=None, at=at)
    login = authority.issue_professional(*names, usage="auth", email=None, at=at)
    pin = f"{secrets.randbelow(10_000):04}".encode()
    return Personalisation(
        Pair(signature.key, signature.certificate), Pair(login.key, login.certificate), pin=pin, activities=()
    )


def agent_port(country: Country) -> int:
    """Where the desk agent listens, on loopback: beside the submission port of its operator."""
    return country.doctors.settings.listen.submission + 1


def _mailboxes(gateway: Issued, card: Personalisation) -> list[tuple[NewMailbox, bool]]:
    """The mailboxes that open, and whether their operator holds their keys."""
    chu, people_here = people.CHU_EXEMPLE, cast()
    return [
        (
            NewMailbox(
                people.GATEWAY,
                MailboxKind.APP,
                chu.national_id,
                "CHU EXEMPLE - Passerelle",
                client_certificate=gateway.certificate,
            ),
            True,
        ),
        (NewMailbox(people.CARDIOLOGY, MailboxKind.ORG, chu.national_id, "CHU EXEMPLE - Cardiologie"), True),
        (_person(people_here.cardiologist), True),
        (_person(people_here.gp), True),
        (replace(_person(people_here.gp_with_own_key), client_certificate=card.authentication.certificate), False),
    ]


def _person(one: people.Professional) -> NewMailbox:
    return NewMailbox(
        one.mail,
        MailboxKind.PER,
        one.national_id,
        f"Dr {one.given_name} {one.surname}",
        surname=one.surname,
        given_name=one.given_name,
        profession=one.profession_label,
        profession_code=one.profession,
        city=one.city.name,
    )


def _open(
    places: Mapping[str, Place],
    mailbox: NewMailbox,
    custody: bool,
    authority: PracticeAuthority,
    passwords: Mapping[str, str],
    at: datetime,
) -> tuple[Entry, dict[str, Issued]]:
    place = places["medecin" if mailbox.address.endswith(f"@{DOCTORS}") else "chu"]
    store = open_store(place.folder, place.settings)
    try:
        with_password = replace(mailbox, password=passwords[mailbox.address])
        made = add_mailbox(store, with_password, place.settings.operator, at=at, authority=authority, custody=custody)
        if not custody:
            store.set_policy(mailbox.address, "custody", "owner", at)
            store.set_policy(mailbox.address, "sign", "own", at)
        return made
    finally:
        store.close()


def _pkcs12(path: Path, issued: Issued, password: str) -> Path:
    """Write a key and its chain as mail programs import them, sealed under the password."""
    sealed = BestAvailableEncryption(password.encode())
    content = serialize_key_and_certificates(None, issued.key, issued.certificate, issued.chain[1:], sealed)
    pem.write_private(path, content)
    return path


def _issue_code(place: Place, at: datetime) -> str:
    store = open_store(place.folder, place.settings)
    try:
        account = store.find_account(people.GATEWAY)
        assert account is not None  # noqa: S101 - opened just above
        return CodeDesk(store).issue(account, at=at, life=timedelta(days=1)).text
    finally:
        store.close()
