"""Deciding whether a found document may be deposited by the machine (dmp.md §3.1, §6.4).

Invariant: fail closed. A rule that cannot be evaluated is a refusal; a refusal is a NEEDS_ATTENTION deposit with every rule that
holds it back, so that a person sees them all. Reasons hold rule names, never a value of the patient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import mime
from dmp_bridge import metrics
from dmp_bridge.context import DELETE, DepositContext
from dmp_bridge.find import NOT_QUALIFIED, FoundDocument, Problem, documents_of, find_documents
from dmp_bridge.understand import Check
from ihe.cda import CdaHeader, CdaLevel
from ihe.cda_rules import Finding, Severity
from ihe.codes import class_of, format_of, is_dmp_type
from ihe.datatypes import STRUCTURE_ROOT
from ihe.hand_over import HandOver
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


def _relation(header: CdaHeader, _: DepositContext) -> Problem | None:
    """RPLC and XFRM are the profile's only relations (dmp.md §3.9); a transformation has no transaction of its own here."""
    if any(relation.relation == "XFRM" for relation in header.related):
        return Problem(
            "transformation",
            "le document en transforme un autre : à déposer par une personne",
            "the document transforms another one: a person has to deposit it",
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
    _relation,
    _sender,
)


# Findings about the header that hold a deposit back; the others are only shown: real documents lack a setId or a
# version (dmp.md §4.7).
_HOLDING = frozenset(
    {
        "future-date",
        "birth-date",
        "facility-unknown",
        "practice-unknown",
        "type-system",
        "null-flavor",
        "forbidden",
        "relation",
        "relations",
        "check-failed",
    }
)


@dataclass(frozen=True, slots=True)
class Desk:
    """How this operator decides. `checks` are its schema and schematrons; `opposed` asks its register whether a
    patient (INS, OID)
    opposes deposits; `schematron_holds`: an error of a schematron holds the document back, instead of being shown only."""

    checks: Sequence[Check] = ()
    opposed: Callable[[str, str], bool] | None = None
    schematron_holds: bool = True


def decide(found: FoundDocument, context: DepositContext, desk: Desk | None = None) -> NewDeposit:
    """One found document as a deposit row: READY, or NEEDS_ATTENTION with every rule that holds it back."""
    return _deposit(found, context, judge(found, context, desk))


def judge(found: FoundDocument, context: DepositContext, desk: Desk | None = None) -> list[Problem]:
    """Everything that holds a document back, the gravest first."""
    if found.header is None:
        return [found.problem or Problem("cda-unreadable", "document CDA illisible", "unreadable CDA")]
    desk = desk or Desk()
    problems = [found.problem] if found.problem is not None else []
    problems += [problem for rule in RULES if (problem := rule(found.header, context)) is not None]
    problems += _will(found.header, desk)
    if found.action == "C" and found.header.replaces is None:
        problems.append(
            Problem(
                "replacement",
                "remplacement annoncé, mais le document n'en nomme aucun autre",
                "a replacement is announced, but the document names no other",
            )
        )
    problems += _found(found.findings, desk)
    return problems


def _will(header: CdaHeader, desk: Desk) -> list[Problem]:
    """The patient's opposition (dmp.md §3.1, rule 3); a register that does not answer holds everything back."""
    if desk.opposed is None or not header.patient.ins:
        return []
    try:
        opposed = desk.opposed(header.patient.ins, header.patient.ins_oid)
    except Exception:
        return [
            Problem("register", "registre des oppositions indisponible", "the register of oppositions does not answer")
        ]
    if not opposed:
        return []
    return [Problem("opposed", "le patient s'oppose au dépôt", "the patient opposes the deposit")]


def _found(findings: Sequence[Finding], desk: Desk) -> list[Problem]:
    """Findings that hold back, each code once with its places."""
    places: dict[str, list[str]] = {}
    firsts: dict[str, Finding] = {}
    for one in findings:
        outside = one.source != "CI-SIS"
        holds = one.code in _HOLDING or (outside and (one.source == "XSD" or desk.schematron_holds))
        if one.severity is Severity.ERROR and holds:
            firsts.setdefault(one.code, one)
            places.setdefault(one.code, []).append(one.place)
    problems = []
    for code, one in firsts.items():
        where = ", ".join(dict.fromkeys(place for place in places[code][:5] if place))
        suffix = f" [{where}]" if where else ""
        problems.append(Problem(code, one.french + suffix, one.english))
    return problems


def _deposit(found: FoundDocument, context: DepositContext, problems: Sequence[Problem]) -> NewDeposit:
    delete = found.action == "D"
    name = found.header.unique_id if found.header is not None else f"sha1:{found.sha1}"
    asked = replace(
        context,
        action=DELETE if delete else "",
        visibility=tuple(dict.fromkeys((*context.visibility, *found.visibility))),
        secret_connection=context.secret_connection or found.secret_connection,
    )
    metrics.PLANNED.labels("held" if problems else "ready").inc()
    return NewDeposit(
        # A deletion is a row of its own beside the document's deposit, which has the same identifier and bytes.
        unique_id=f"{DELETE}:{name}" if delete else name,
        sha1=found.sha1,
        content=found.content,
        context=asked.to_json(),
        state=DepositState.NEEDS_ATTENTION if problems else DepositState.READY,
        reason=" ; ".join(problem.text() for problem in problems)[:_MAX_REASON],
    )


_MAX_REASON = 1900


def plan_deposits(
    message: bytes, context: DepositContext, *, at: datetime | None = None, desk: Desk | None = None
) -> tuple[NewDeposit, ...]:
    """Every deposit a clear message asks for, in message order; the same bytes attached twice are one deposit. Never raises.

    Rules over the whole message: documents of two patients, one uniqueId for two contents, a patient's address among the
    recipients that is not the documents' patient, an identity that the message itself calls unqualified → nothing is deposited by
    the machine. `at` is the present (None: dates are not held against it).
    """
    desk = desk or Desk()
    documents: list[FoundDocument] = []
    seen: set[str] = set()
    for found in find_documents(message, at=at, checks=desk.checks).documents:
        if found.sha1 not in seen:
            seen.add(found.sha1)
            documents.append(found)
    if not documents:
        return ()
    overall = _judge_together(documents, message)
    return tuple(_deposit(found, context, [*judge(found, context, desk), *overall]) for found in documents)


def plan_handed_over(given: HandOver, context: DepositContext, *, at: datetime, desk: Desk) -> tuple[NewDeposit, ...]:
    """The deposits of an HL7 v2 hand-over. Never raises."""
    documents = documents_of(given, at=at, checks=desk.checks)
    return tuple(_deposit(found, context, judge(found, context, desk)) for found in documents)


def _judge_together(documents: Sequence[FoundDocument], message: bytes) -> list[Problem]:
    headers = [found.header for found in documents if found.header is not None]
    patients = {(header.patient.ins_oid, header.patient.ins) for header in headers}
    problems = []
    if len(patients) > 1:
        problems.append(
            Problem(
                "two-patients",
                "le message contient des documents de plusieurs patients",
                "the message mixes several patients",
            )
        )
    if len({header.unique_id for header in headers}) < len(headers):
        problems.append(
            Problem(
                "id-reused",
                "deux documents différents portent le même identifiant",
                "two documents share one identifier",
            )
        )
    root = mime.parse(message, max_depth=1)
    addressed = _addressed_patients(root)
    if headers and addressed and addressed != {header.patient.ins for header in headers}:
        problems.append(
            Problem(
                "recipient-mismatch",
                "le message est adressé à un autre patient que celui du document",
                "the message is addressed to another patient than the document's",
            )
        )
    if addressed and any("INVISIBLE_PATIENT" in found.visibility for found in documents):
        problems.append(
            Problem(
                "invisible-sent",
                "un document non visible par le patient lui est adressé",
                "a document the patient must not see is addressed to the patient",
            )
        )
    said = [value.strip().upper() for value in root.get_all("X-MSS-INS")]
    if "N" in said:
        problems.append(NOT_QUALIFIED)
    return problems


def _addressed_patients(root: mime.Part) -> set[str]:
    """The matricules of `<INS>@patient.mssante.fr` recipients (dmp.md §4.3), as written in To and Cc."""
    pairs = [*root.addresses("To"), *root.addresses("Cc")]
    split = (address.rpartition("@") for _, address in pairs)
    return {local.upper() for local, _, domain in split if domain == _PATIENT_DOMAIN}
