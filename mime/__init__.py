"""Pure MIME over bytes: a tree of exact places, header fields, writers. No I/O, no policy; every room may import it."""

from mime.addresses import addresses
from mime.fields import (
    Field,
    canonical_header,
    content_fields,
    header_end,
    iter_fields,
    split,
    to_crlf,
    values_of,
    without_fields,
)
from mime.sevenbit import is_seven_bit, to_seven_bit
from mime.tree import Part, parse, spans
from mime.words import decode_base64, decode_words, split_parameters, unfold
from mime.write import (
    LINE_OCTETS,
    Base64Lines,
    base64_lines,
    fresh_boundary,
    header_field,
    leaf,
    message,
    multipart,
    prepend_fields,
)

__all__ = [
    "LINE_OCTETS",
    "Base64Lines",
    "Field",
    "Part",
    "addresses",
    "base64_lines",
    "canonical_header",
    "content_fields",
    "decode_base64",
    "decode_words",
    "fresh_boundary",
    "header_end",
    "header_field",
    "is_seven_bit",
    "iter_fields",
    "leaf",
    "message",
    "multipart",
    "parse",
    "prepend_fields",
    "spans",
    "split",
    "split_parameters",
    "to_crlf",
    "to_seven_bit",
    "unfold",
    "values_of",
    "without_fields",
]
