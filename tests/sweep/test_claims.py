"""Claims: between processes, of the dead and of other machines."""

import os
import sys
import time
from subprocess import PIPE

import pytest
from conftest import wait_for

from ptlib.sweep import claims
from ptlib.sweep.claims import Others, birth, claim_of, claimed, machine

HOLD = """
import sys
from pathlib import Path
from ptlib.sweep.claims import claimed

with claimed({"a": Path(sys.argv[1])}) as mine:
    print(*mine, flush=True)
    sys.stdin.read()
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only the touching tells who is dead")


@linux
def test_a_claim_holds_as_long_as_its_process(tmp_path, started):
    wanted = {"a": tmp_path / "a.json", "b": tmp_path / "b.json"}
    holder = started("-c", HOLD, str(wanted["a"]), stdin=PIPE, stdout=PIPE)
    assert holder.stdout.readline() == "a\n"
    Others().wait(wanted.values())
    with claimed(wanted) as mine:
        assert mine == {"b": wanted["b"]}
    holder.kill()
    wait_for(lambda: birth(holder.pid) is None)  # though nobody has asked for its exit code yet
    began = time.monotonic()
    Others().wait(wanted.values())
    with claimed(wanted) as mine:
        assert mine == wanted
    assert time.monotonic() - began < 5
    assert not list(tmp_path.iterdir())


@linux
def test_another_process_of_the_same_number_is_not_the_owner(tmp_path):
    path = tmp_path / "a.json"
    for born, there in ((birth(os.getpid()), True), ("0", False)):
        claim_of(path).write_text(f"{machine()} {os.getpid()} {born}")
        Others().wait([path])
        assert claim_of(path).exists() == there


def test_the_claim_of_another_machine_holds_as_long_as_it_is_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "STALE", 1)
    path, others = tmp_path / "a.json", Others()
    claim_of(path).write_text(f"elsewhere {os.getpid()} 0")
    began = time.monotonic()
    for touched in range(10):
        os.utime(claim_of(path), (touched, touched))
        others.wait([path])
        assert claim_of(path).exists()
    assert time.monotonic() - began > claims.STALE
    left = time.monotonic()
    while claim_of(path).exists():
        others.wait([path])
    assert 1 < time.monotonic() - left + claims.POLL < 10


def test_an_owner_touches_its_claim(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "TOUCH", 0.05)
    path = tmp_path / "a.json"
    with claimed({"a": path}):
        os.utime(claim_of(path), (0, 0))
        wait_for(lambda: claim_of(path).stat().st_mtime > 0)


def test_a_claim_on_a_full_disk_is_an_error_and_leaves_none(small_disk):
    with pytest.raises(OSError, match="No space"), open(small_disk / "ballast", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(OSError, match="No space"), claimed({"a": small_disk / "a.json"}):
        pass
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]
