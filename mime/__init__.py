"""Pure MIME over bytes: a tree of exact places, header fields, writers. No I/O, no policy; every room may import it."""

from mime.addresses import addresses
from mime.fields import Field, canonical_header, header_end, iter_fields, split, to_crlf, without_fields
from mime.sevenbit import is_seven_bit, to_seven_bit
from mime.tree import Part, parse
from mime.words import decode_words, split_parameters, unfold
from mime.write import Base64Lines, base64_lines, fresh_boundary, header_field, leaf, message, multipart, prepend_fields

__all__ = [
    "Base64Lines",
    "Field",
    "Part",
    "addresses",
    "base64_lines",
    "canonical_header",
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
    "split",
    "split_parameters",
    "to_crlf",
    "to_seven_bit",
    "unfold",
    "without_fields",
]
