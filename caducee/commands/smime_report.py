"""What `caducee smime` tells, as plain rows: for tables and for JSON alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mime
import smime
from smime import enveloped_codec, layers, signed_codec
from smime.algorithms import SIGNATURE_OIDS
from smime.asn1 import CertificateName
from smime.enveloped_codec import AgreementRecord, RecipientRecord
from smime.layers import LayerKind
from smime.signed_codec import SignerRecord

Row = dict[str, Any]


def verification_row(one: smime.Verification, *, revocation_checked: bool = True) -> Row:
    """One signer and every finding about it."""
    certificate = one.signer_certificate
    found = one.findings
    revocation = found.revocation.value if revocation_checked else smime.Finding.UNKNOWN.value
    return {
        "layer": one.layer,
        "verdict": one.verdict.value,
        "digest": found.digest.value,
        "signature": found.signature.value,
        "path": found.path.value,
        "revocation": revocation,
        "time": found.time.value,
        "usage": found.usage.value,
        "from": found.sender.value,
        "reasons": list(one.reasons),
        "notes": [note.value for note in one.notes],
        "algorithm": one.algorithm,
        "signed_at": one.signed_at.isoformat() if one.signed_at else None,
        "signer": certificate.subject.rfc4514_string() if certificate is not None else None,
        "serial": f"{certificate.serial_number:x}" if certificate is not None else None,
        "addresses": list(one.addresses),
        "national_id": one.national_id,
    }


def survey_rows(opened: smime.Opened) -> tuple[list[Row], list[Row], list[str]]:
    """(parts with what covers them, nested S/MIME parts, header fields that nothing protects)."""
    survey = opened.survey()
    outside = set(survey.outside(opened.verifications))
    parts = [
        {
            "part": part.section,
            "type": part.media_type or "texte hors des parties / text outside the parts",
            "octets": [part.start, part.end],
            "signatures": list(part.layers),
            "nested": list(part.nested),
            "covered_by_valid": part not in outside,
        }
        for part in survey.parts
    ]
    nested = [
        {
            "part": one.section,
            "kind": one.kind.value,
            "in_attached_message": one.in_message,
            "signers": [verification_row(verification) for verification in one.verifications],
        }
        for one in survey.nested
    ]
    return parts, nested, list(survey.unprotected_fields)


def headers_row(headers: smime.ProtectedHeaders | None) -> Row | None:
    """The protected fields (RFC 9788)."""
    if headers is None:
        return None
    return {
        "mode": headers.mode.value,
        "fields": {one.name: one.text for one in headers.fields},
        "hidden": [one.name for one in headers.fields if one.is_hidden],
        "mismatched": list(headers.mismatched),
    }


def structure(raw: bytes) -> list[Row]:
    """The S/MIME layers that can be seen without a key, outermost first, then the MIME tree of what is clear."""
    rows: list[Row] = []
    current, start, end = raw, 0, len(raw)
    for depth in range(layers.MAX_LAYERS):
        layer = layers.outermost(current, start, end)
        if layer.kind is LayerKind.CLEAR:
            break
        rows.append({"layer": depth, "kind": layer.kind.value, **_layer(layer)})
        if layer.kind is LayerKind.DETACHED:
            start, end = layer.start, layer.end
            continue
        content = layers.opaque_content(layer.cms) if layer.kind is LayerKind.OPAQUE else None
        if content is None:
            return rows
        current = b"".join(content)
        start, end = 0, len(current)
    root = mime.parse(current, start=start, end=end)
    rows += [
        {"kind": "mime", "type": part.media_type, "octets": part.end - part.start, "encoding": part.encoding}
        for part in root.walk()
    ]
    return rows


def _layer(layer: layers.Layer) -> Row:
    try:
        if layer.kind is LayerKind.ENVELOPED:
            record = enveloped_codec.read_enveloped(layer.cms)
            return {
                "cipher": record.cipher.value,
                "authenticated": record.cipher.authenticated,
                "octets": sum(map(len, record.ciphertext)),
                "recipients": [_recipient(one) for one in record.recipients],
            }
        if layer.kind in (LayerKind.DETACHED, LayerKind.OPAQUE):
            signed = signed_codec.read_signed(layer.cms)
            return {
                "micalg": layer.micalg,
                "signers": [_signer(one) for one in signed.signers],
                "certificates": len(signed.certificates),
            }
    except smime.SmimeError as error:
        return {"problem": error.code, "why": str(error)}
    return {"problem": "malformed-cms"}


def _name(name: CertificateName | bytes) -> str:
    return f"key id {name.hex()}" if isinstance(name, bytes) else f"serial {name.serial:x}"


def _recipient(one: RecipientRecord) -> Row:
    if isinstance(one, AgreementRecord):
        kdf = f"{'hkdf' if one.derivation.hkdf else 'x9.63'}-{one.derivation.digest}"
        return {"for": _name(one.rid), "transport": f"ecdh {kdf} aes{one.wrap_length * 8}-wrap"}
    transport = "rsa pkcs1-v1.5" if one.oaep is None else f"rsa oaep {'/'.join(one.oaep)}"
    return {"for": _name(one.rid), "transport": transport}


def _signer(one: SignerRecord) -> Row:
    named = SIGNATURE_OIDS.get(one.algorithm.oid, (one.algorithm.oid, None))[0]
    said = one.attributes
    return {
        "signer": _name(one.sid),
        "digest": one.digest,
        "signature": named,
        "signed_at": said.signing_time.isoformat() if said.signing_time else None,
        "attributes": one.signed is not None,
        "reads": [cipher.value for cipher in said.capabilities.ciphers] if said.capabilities else [],
    }


def flat(rows: Sequence[Row]) -> list[Row]:
    """Rows for a table: lists as text."""
    return [{key: _text(value) for key, value in row.items()} for row in rows]


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return "\n".join(_text(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(item)}" for key, item in value.items())
    if isinstance(value, bool):
        return "oui / yes" if value else "non / no"
    return "" if value is None else str(value)
