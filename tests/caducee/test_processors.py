"""Each process on a processor of its own, its children not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from caducee.processors import PROCESSOR, processor_of

usable = sorted(os.sched_getaffinity(0))
needs_two = pytest.mark.skipif(len(usable) < 2, reason="one processor only")
ASK = (
    "import os; from caducee.processors import keep_to_processor; keep_to_processor();"
    "print(sorted(os.sched_getaffinity(0)), dict(os.environ))"
)


def asked(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=os.environ | environment, check=True, capture_output=True, text=True
    )
    return done.stdout


@needs_two
def test_a_process_stays_where_it_is_told() -> None:
    for index in range(len(usable) + 1):
        told = processor_of(index)
        assert told == {PROCESSOR: str(usable[index % len(usable)])}
        said = asked(**told)
        assert said.startswith(f"[{told[PROCESSOR]}] ") and PROCESSOR not in said, "its children are not told"


@pytest.mark.parametrize("word", ["", "x", "99999", "-1"])
def test_a_word_that_means_nothing_changes_nothing(word: str) -> None:
    assert asked(**{PROCESSOR: word}).startswith(f"{usable} ")


@needs_two
def test_the_library_process_of_such_a_process_is_free() -> None:
    program = (
        "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])});"
        "from smime.library_process import serve;"
        "serve(lambda first: (print(sorted(os.sched_getaffinity(0)), file=sys.stderr), lambda one: one)[1])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(usable[0])], input=b"", capture_output=True, check=True)
    assert done.stderr.decode().strip() == str(usable)
