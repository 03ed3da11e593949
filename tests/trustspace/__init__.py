"""Tests of the trust space."""
