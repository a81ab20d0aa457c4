# SPDX-License-Identifier: Apache-2.0
"""The ledger's key: who may read it, when it is made, and that a ledger is never continued with another."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from homebound.books import ledger, signing
from homebound.books.chain import SIGNED_PREFIX
from homebound.books.signing import Signer, Verifier
from homebound.errors import ConfigError, HomeboundError, ViolationPresent
from unit.books.rig import COUNT, faults, fill, read, writer_at

SIGNER = Signer(bytes(range(32)))
DIGEST = "ab" * 32
SIGNATURE = SIGNER.sign(DIGEST)


def test_a_signature_is_ed25519_over_prefix_and_hash() -> None:
    """By the library alone, as somebody else would check it."""
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(SIGNER.public))
    key.verify(bytes.fromhex(SIGNATURE), SIGNED_PREFIX + DIGEST.encode())
    assert Verifier(SIGNER.public).is_signed(DIGEST, SIGNATURE)


@given(st.integers(0, 127), st.characters(codec="utf-8"))
def test_any_change_of_a_signature_is_seen(position: int, character: str) -> None:
    changed = SIGNATURE[:position] + character + SIGNATURE[position + 1 :]
    assert Verifier(SIGNER.public).is_signed(DIGEST, changed) == (changed == SIGNATURE)


@pytest.mark.parametrize("public", ["", "zz", "ab" * 31, Signer(bytes(32)).public])
def test_another_key_or_none_has_signed_nothing(public: str) -> None:
    assert not Verifier(public).is_signed(DIGEST, SIGNATURE)


@pytest.mark.parametrize("signature", ["", "ab", " " + SIGNATURE[1:], SIGNATURE + "\n", SIGNATURE.upper()])
def test_what_is_no_signature(signature: str) -> None:
    assert not Verifier(SIGNER.public).is_signed(DIGEST, signature)


def test_a_key_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "k"
    assert signing.load_key(path) is None
    made = signing.make_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    found = signing.load_key(path)
    assert found is not None
    assert found.public == made.public
    with pytest.raises(HomeboundError, match="cannot make"):
        signing.make_key(path)
    assert [file.name for file in tmp_path.iterdir() if not file.name.endswith(".new")] == ["k"]
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read"):
        signing.load_key(path)


@pytest.mark.parametrize("text", [b"", b"\0" * 32, b"ab" * 31, b"AB" * 32, b"ab" * 33])
def test_what_is_no_key_is_not_repeated(text: bytes) -> None:
    with pytest.raises(ConfigError, match="holds no key") as caught:
        signing.read_key(text, "the file")
    assert not text or text.decode() not in str(caught.value)
    assert signing.read_key(b"ab" * 32 + b"\n", "the file").public == Signer(b"\xab" * 32).public


def test_a_ledger_is_not_continued_with_another_key(tmp_path: Path) -> None:
    path, key = tmp_path / "l", tmp_path / ledger.KEY_FILE
    with closing(writer_at(path)) as writer:
        fill(writer)
    kept = key.read_bytes()
    key.unlink()
    with pytest.raises(ConfigError, match=r"the key of the ledger .* is missing"):
        writer_at(path)
    with pytest.raises(ConfigError, match="begun with another key"):
        ledger.open_writer(path, lambda: 0.0, SIGNER)
    signing.make_key(key)
    with pytest.raises(ConfigError, match="begun with another key"):
        writer_at(path)
    key.write_bytes(kept)
    with closing(writer_at(path)) as writer:
        writer.append("release", "t", 1)
    assert faults(path) == ()


def test_a_handed_key_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "l"
    with closing(ledger.open_writer(path, lambda: 0.0, SIGNER)) as writer:
        fill(writer)
        assert writer.reader.public_key() == SIGNER.public
    assert not (tmp_path / ledger.KEY_FILE).exists()
    assert faults(path) == ()
    with pytest.raises(ConfigError, match="is missing"):
        writer_at(path)


def test_an_end_that_is_not_signed_is_not_continued(tmp_path: Path) -> None:
    """Hashes can be made by anybody: an entry forged with a right hash falls by its signature."""
    path = tmp_path / "l"
    with closing(writer_at(path)) as writer:
        fill(writer)
        writer._signer = SIGNER  # somebody who may write but has no key
        writer.append("release", "forged", 1)
    assert [fault.number for fault in faults(path)] == [COUNT + 1]
    with pytest.raises(ViolationPresent, match="is not signed by its key"):
        writer_at(path)
    assert len(read(path)) == COUNT + 1


FIRST_START = """
import os, sys, time
from pathlib import Path
from homebound.books import ledger, signing
step = int(sys.argv[2])
real = {name: getattr(os, name) for name in ("fsync", "link", "unlink")}
count = 0
def dying(name):
    def call(*words, **more):
        global count
        count += 1
        if count == step:
            os.kill(os.getpid(), 9)
        return real[name](*words, **more)
    return call
for name in real:
    setattr(os, name, dying(name))
ledger.open_writer(Path(sys.argv[1]), time.time).append("release", "t", 1)
print("done")
"""


def test_killed_in_the_first_start(tmp_path: Path) -> None:
    """At each step of making the key. The next start goes on, and never with a half key."""
    for step in range(1, 20):
        path = tmp_path / str(step) / "l"
        path.parent.mkdir()
        words = [sys.executable, "-c", FIRST_START, str(path), str(step)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        with closing(writer_at(path)) as writer:
            writer.append("release", "t", 2)
        assert faults(path) == ()
        if done.stdout == "done\n":
            break
        assert done.returncode == -9, done.stderr
    assert step > 3


def test_no_room_for_a_key(tmp_path: Path) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    folder.chmod(0o500)
    script = (
        "import sys; from pathlib import Path; from homebound.books import signing\n"
        "try:\n    signing.make_key(Path(sys.argv[1]))\n"
        "except signing.HomeboundError as error:\n    print(error.hint)"
    )
    command = [sys.executable, "-c", script, str(folder / "k")]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    shutil.rmtree(folder)
    assert done.stdout == "see that its folder has room\n", done.stderr
