# SPDX-License-Identifier: Apache-2.0
"""What `make fuzz` runs for ten minutes, here for a second: good inputs are good, any other has a word."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import parsing, stages
from homebound import channel
from homebound.records import RefusalCode

WORDS = {"nothing", "no frame", "task", "stage", "released", *RefusalCode}


def test_the_good_inputs_are_good() -> None:
    """Each seed of frames.py in each of its forms: else the fuzzer would begin at a closed door."""
    for sender, word in ((parsing.UPDATES, "released"), (parsing.TASKS, "task")):
        frame = parsing.FRAMES[sender]
        header = channel.encode_header(frame)
        parts = {
            parsing.STREAM: parsing.wire(header, bytes(frame.body)),
            parsing.HEADER: header,
            parsing.BODY: bytes(frame.body),
        }
        for part, content in parts.items():
            for filler in (0, 8, 248):
                assert parsing.judge(bytes([sender | part << 1 | filler]) + content) == word


def test_each_stage_of_secure_aggregation_is_reached() -> None:
    for stage in stages.honest():
        header = channel.encode_header(parsing.asked(stage))
        assert parsing.judge(bytes([parsing.TASKS | parsing.HEADER << 1]) + header) == "stage", stage


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_input_ends_in_a_word(data: bytes) -> None:
    assert parsing.judge(data) in WORDS
