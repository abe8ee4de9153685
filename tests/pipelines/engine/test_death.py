from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from radloom.pipelines.engine.death import Remains, is_of_memory, last_words, reason_of_death


@pytest.mark.parametrize(
    ("remains", "words", "of_memory"),
    [
        (Remains(-9, held=3 << 30), "killed (SIGKILL, exit 137), most often because memory", True),
        (Remains(137), "SIGKILL", True),
        (Remains(-11), "crashed in native code (SIGSEGV)", False),
        (Remains(-signal.SIGBUS), "crashed in native code (SIGBUS)", False),
        (Remains(-6, words="std::bad_alloc"), "last words: std::bad_alloc", True),
        (Remains(-15), "ended by SIGTERM", False),
        (Remains(-64), "ended by SIGRTMAX", False),
        (Remains(3), "ended by itself with status 3", False),
        (Remains(-9, "time", seconds=3600), "came to no end in 3600 s", False),
        (Remains(-9, "memory", 3 << 30, 4 << 30, 3 << 30), "memory ran out: it held 3.0 GiB", True),
    ],
)
def test_the_reason_says_what_is_known(remains, words, of_memory):
    assert words in reason_of_death(remains)
    assert is_of_memory(remains) is of_memory


def test_last_words_name_where_native_code_crashed(tmp_path):
    log = tmp_path / "log"
    code = (
        "import ctypes, faulthandler\nfaulthandler.enable(all_threads=False)\n"
        "print('DOE^JANE 1970', flush=True)\ndef decode():\n    ctypes.string_at(8)\ndecode()\n"
    )
    script = tmp_path / "codec.py"
    script.write_text(code)
    with log.open("wb") as output:
        status = subprocess.run(
            [sys.executable, script], stdout=output, stderr=output, check=False
        ).returncode
    assert status == -signal.SIGSEGV
    words = last_words(log)
    assert words.startswith("Fatal Python error: Segmentation fault, in __init__.py:")
    assert words.endswith(" string_at")
    assert "DOE" not in words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("terminate called after throwing an instance of 'std::bad_alloc'", "std::bad_alloc"),
        ("free(): invalid pointer", "free(): invalid pointer"),
        ("ModuleNotFoundError: No module named 'doe'", "ModuleNotFoundError"),
        ("RuntimeError: CUDA error: out of memory", "RuntimeError"),
        ("converting DOE^JANE, born 1970", ""),
        ("Convert 12 DICOM as /data/doe_jane/t1 (256x256)", ""),
        ("doe jane", ""),
    ],
)
def test_only_what_runtimes_say_is_quoted(tmp_path, line, words):
    (tmp_path / "log").write_text(f"an earlier study\n{line}\n")
    said = last_words(tmp_path / "log", len("an earlier study\n"))
    assert words in said
    assert bool(said) is bool(words)
    assert "doe" not in said.lower()


def test_words_of_an_earlier_study_are_not_quoted(tmp_path):
    log = tmp_path / "log"
    log.write_text("Fatal Python error: Aborted\n")
    assert last_words(log, log.stat().st_size) == ""
    assert last_words(tmp_path / "absent") == ""
