"""Deciding whether a found document may be deposited by the machine (dmp.md §3.1, §6.4).

Invariant: fail closed. A rule that cannot be evaluated is a refusal; a refusal is a NEEDS_ATTENTION deposit with its code
and reason, so that a person sees it. Reasons hold rule names, never a value of the patient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mime
from dmp_bridge.context import DepositContext
from dmp_bridge.find import FoundDocument, Problem, find_documents
from ihe.cda import CdaHeader, CdaLevel
from ihe.codes import class_of, format_of, is_dmp_type
from ihe.datatypes import STRUCTURE_ROOT
from ihe.ins import INS_DEMO, INS_TEST
from mailstore.model import DepositState, NewDeposit

Rule = Callable[[CdaHeader, DepositContext], Problem | None]
_PATIENT_DOMAIN = "patient.mssante.fr"

# Header parts without which the metadata of dmp.md §3.3 (cardinality R) cannot be built, by the reader's warning words.
_REQUIRED = {
    "no-author": ("l'auteur", "the author"),
    "no-legal-authenticator": ("le responsable légal (legalAuthenticator)", "legalAuthenticator"),
    "no-service-start": ("la date de début de l'acte", "the start of the service event"),
    "no-practice-setting": ("le cadre d'exercice (standardIndustryClassCode)", "the practice setting"),
    "no-facility-type": ("le type de structure (healthCareFacility)", "the facility type"),
    "no-title": ("le titre", "the title"),
    "no-body": ("le corps du document", "the body"),
    "no-embedded-body": ("le corps du document (base64)", "the base64 body"),
}


def _identifier(header: CdaHeader, _: DepositContext) -> Problem | None:
    if header.document_id.extension:
        return Problem(
            "id-extension",
            "l'identifiant du document a une extension, que le DMP n'admet pas",
            "the document id has an extension, which the DMP does not accept",
        )
    return None


def _style(header: CdaHeader, context: DepositContext) -> Problem | None:
    if header.style_sheet and context.refuse_style_sheet:
        return Problem(
            "style-sheet", "le CDA dépend d'une feuille de style séparée", "the CDA needs a separate style sheet"
        )
    return None


def _patient(header: CdaHeader, _: DepositContext) -> Problem | None:
    if "several-patients" in header.warnings or "several-ins" in header.warnings:
        return Problem(
            "several-patients", "le document désigne plusieurs patients", "the document names several patients"
        )
    check = header.patient.check_ins()
    if not check.present:
        return Problem("ins-missing", "l'INS du patient est absente", "the patient's INS is missing")
    if check.missing:
        names = ", ".join(trait.value for trait in check.missing)
        return Problem("ins-traits", f"traits d'identité incomplets : {names}", f"identity traits are missing: {names}")
    return None


def _environment(header: CdaHeader, context: DepositContext) -> Problem | None:
    check = header.patient.check_ins()
    test = header.patient.ins_oid in (INS_TEST, INS_DEMO)
    if check.production == context.practice or test != context.practice:
        return Problem(
            "ins-environment",
            "l'OID de l'INS n'est pas celui de cet environnement (production ou test)",
            "the INS OID does not belong to this environment (production or test)",
        )
    if not check.key_valid and check.production:
        return Problem("ins-key", "la clé du matricule INS est fausse", "the key of the INS is wrong")
    if not check.consistent and check.production:
        return Problem(
            "ins-inconsistent",
            "le matricule INS contredit le sexe ou la date de naissance",
            "the INS contradicts the sex or the birth date",
        )
    return None


def _type(header: CdaHeader, _: DepositContext) -> Problem | None:
    if not is_dmp_type(header.type.code):
        return Problem(
            "type-not-dmp", "le type du document n'est pas admis par le DMP (JDV_J66)", "not a DMP document type (J66)"
        )
    if class_of(header.type.code) is None:
        return Problem("class-unknown", "aucune classe connue pour ce type", "no known class for this document type")
    if header.level is not CdaLevel.NONE and format_of(header) is None:
        return Problem("format-unknown", "le format du corps n'est pas admis", "the format of the body is not accepted")
    return None


def _confidentiality(header: CdaHeader, _: DepositContext) -> Problem | None:
    code = header.confidentiality.code if header.confidentiality is not None else ""
    if code == "N":
        return None
    if code in ("R", "V"):
        return Problem(
            "confidentiality",
            "document restreint : ne devrait pas être partagé",
            "restricted document: should not be shared",
        )
    return Problem("confidentiality", "confidentialité absente ou inconnue", "confidentiality is missing or unknown")


def _required(header: CdaHeader, _: DepositContext) -> Problem | None:
    for word, (french, english) in _REQUIRED.items():
        if word in header.warnings:
            return Problem("metadata-missing", f"il manque {french}", f"missing: {english}")
    return None


def _replacement(header: CdaHeader, _: DepositContext) -> Problem | None:
    """A new version needs the entryUUID of the old one (TD3.1b, dmp.md §3.9), which the bridge does not look up yet: depositing it
    as new would leave two versions current in the record."""
    if header.replaces is not None:
        return Problem(
            "replacement",
            "le document en remplace un autre : à déposer par une personne",
            "the document replaces another one: a person has to deposit it",
        )
    return None


def _sender(header: CdaHeader, context: DepositContext) -> Problem | None:
    """The sender must belong to what it deposits: author's or custodian's structure, or be one of the authors."""
    if not context.structure_id:
        return Problem(
            "structure-unknown", "la structure de l'expéditeur est inconnue", "the sender's structure is unknown"
        )
    organisations = [header.custodian, *(author.organisation for author in header.authors)]
    structures = {
        organisation.identifier.extension
        for organisation in organisations
        if organisation.identifier is not None and organisation.identifier.root == STRUCTURE_ROOT
    }
    people = {author.identifier.extension for author in header.authors if author.identifier is not None}
    if context.structure_id in structures or (context.responsible_id and context.responsible_id in people):
        return None
    return Problem(
        "sender-mismatch",
        "ni la structure ni la personne qui envoie ne figure parmi les auteurs du document",
        "neither the sending structure nor the sender is among the document's authors",
    )


RULES: tuple[Rule, ...] = (
    _identifier,
    _style,
    _patient,
    _environment,
    _type,
    _confidentiality,
    _required,
    _replacement,
    _sender,
)


def decide(found: FoundDocument, context: DepositContext) -> NewDeposit:
    """One found document as a deposit row: READY, or NEEDS_ATTENTION with the first rule that refuses it."""
    return _deposit(found, context, _judge(found, context))


def _judge(found: FoundDocument, context: DepositContext) -> Problem | None:
    if found.problem is not None or found.header is None:
        return found.problem or Problem("cda-unreadable", "document CDA illisible", "unreadable CDA")
    if found.action == "D":
        return Problem(
            "deletion-asked",
            "l'expéditeur demande une suppression, qui n'est pas automatique",
            "the sender asks for a deletion, which is not automatic",
        )
    for rule in RULES:
        problem = rule(found.header, context)
        if problem is not None:
            return problem
    return None


def _deposit(found: FoundDocument, context: DepositContext, problem: Problem | None) -> NewDeposit:
    return NewDeposit(
        unique_id=found.header.unique_id if found.header is not None else f"sha1:{found.sha1}",
        sha1=found.sha1,
        content=found.content,
        context=context.to_json(),
        state=DepositState.READY if problem is None else DepositState.NEEDS_ATTENTION,
        reason="" if problem is None else problem.text(),
    )


def plan_deposits(message: bytes, context: DepositContext) -> tuple[NewDeposit, ...]:
    """Every deposit a clear message asks for, in message order; the same bytes attached twice are one deposit. Never raises.

    Rules over the whole message: documents of two patients, one uniqueId for two contents, a patient's address among the
    recipients that is not the documents' patient → nothing is deposited by the machine.
    """
    documents: list[FoundDocument] = []
    seen: set[str] = set()
    for found in find_documents(message).documents:
        if found.sha1 not in seen:
            seen.add(found.sha1)
            documents.append(found)
    overall = _judge_together(documents, message)
    return tuple(_deposit(found, context, _judge(found, context) or overall) for found in documents)


def _judge_together(documents: Sequence[FoundDocument], message: bytes) -> Problem | None:
    headers = [found.header for found in documents if found.header is not None]
    patients = {(header.patient.ins_oid, header.patient.ins) for header in headers}
    if len(patients) > 1:
        return Problem(
            "two-patients",
            "le message contient des documents de plusieurs patients",
            "the message mixes several patients",
        )
    if len({header.unique_id for header in headers}) < len(headers):
        return Problem(
            "id-reused", "deux documents différents portent le même identifiant", "two documents share one identifier"
        )
    addressed = _addressed_patients(message)
    if headers and addressed and addressed != {header.patient.ins for header in headers}:
        return Problem(
            "recipient-mismatch",
            "le message est adressé à un autre patient que celui du document",
            "the message is addressed to another patient than the document's",
        )
    return None


def _addressed_patients(message: bytes) -> set[str]:
    """The matricules of `<INS>@patient.mssante.fr` recipients (dmp.md §4.3), as written in To and Cc."""
    root = mime.parse(message, max_depth=1)
    pairs = [*root.addresses("To"), *root.addresses("Cc")]
    split = (address.rpartition("@") for _, address in pairs)
    return {local.upper() for local, _, domain in split if domain == _PATIENT_DOMAIN}
