# SPDX-License-Identifier: Apache-2.0
"""Coverage-guided fuzzing of the guard's parser: `make fuzz`, or this file with libFuzzer's arguments.

What it finds lies below build/fuzz: crash-* is an input that ended in an exception. May import: parsing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("daemon", "tests")]

with atheris.instrument_imports(include=["homebound", "json"]):
    from fuzz import parsing, stages
    from homebound import channel

CORPUS = ROOT / "build/fuzz/corpus"
DICTIONARY = CORPUS.parent / "words.dict"
# Words that no fuzzer would come upon by itself.
WORDS = (
    "records name kind keys values arrays metrics config task run round message_type run_config counted "
    "update train evaluate query dtype shape data_offsets __metadata__ F16 F32 F64 I64 U8 BOOL 0.0 0.1 1.0 "
    "num-examples loss accuracy null true NaN Infinity 1e999 secaggplus_configs stage setup share_keys "
    "collect_masked_vectors unmask sample_num share_num threshold clipping_range target_range mod_range "
    "max_weight srcs ctxts active_nids dead_nids"
).split()


def seed() -> None:
    """The good inputs, for the fuzzer to begin with, and the words."""
    CORPUS.mkdir(parents=True, exist_ok=True)
    DICTIONARY.write_text("".join(f'"{word}"\n"\\"{word}\\""\n' for word in WORDS))
    for sender, frame in parsing.FRAMES.items():
        header = channel.encode_header(frame)
        for part, content in enumerate((parsing.wire(header, bytes(frame.body)), header, bytes(frame.body))):
            (CORPUS / f"seed-{sender}-{part}").write_bytes(bytes([sender | part << 1]) + content)
    for stage in stages.honest():
        head = bytes([parsing.TASKS | parsing.HEADER << 1])
        (CORPUS / f"seed-{stage}").write_bytes(head + channel.encode_header(parsing.asked(stage)))


def main() -> None:
    seed()
    words = [f"-artifact_prefix={CORPUS.parent}/", f"-dict={DICTIONARY}", "-max_len=4096", *sys.argv[1:]]
    atheris.Setup([sys.argv[0], *words, str(CORPUS)], parsing.judge)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
