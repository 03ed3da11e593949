"""Tests of the document codecs."""
