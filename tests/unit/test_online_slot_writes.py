from __future__ import annotations

from typing import Any

import hiredis
from hypothesis import given
from hypothesis import strategies as st

from streamfti.stores.online.slot_writes import SlotWrite, SlotWrites

WRITES = st.lists(st.builds(SlotWrite, st.binary(), st.integers(0, 2**40), st.binary()))


@given(WRITES)
def test_the_commands_are_those_that_the_driver_packs(writes: list[SlotWrite]) -> None:
    commands: list[Any] = [("SETRANGE", *write) for write in writes]
    expected = b"".join(map(hiredis.pack_command, commands))
    assert SlotWrites.of(writes).commands() == expected


@given(WRITES, WRITES)
def test_writes_keep_their_order(first: list[SlotWrite], then: list[SlotWrite]) -> None:
    both = SlotWrites.of(first)
    both.extend(SlotWrites.of(then))
    assert list(both) == first + then
    assert len(both) == len(first) + len(then)
