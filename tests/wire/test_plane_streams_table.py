"""The table of faults and deliveries that people read is what the gateway does: every cell of it is a run, on real sockets.

The page has the words, and so the expectation; here is only how each fault is made, and how what a client got is put into words.
"""

from pathlib import Path

import pytest

from tests.wire.plane import DONE, ROLE, SSE, STOP, STREAM_BODY, chat, chunked, delta, error_of, event, plane, serving
from tests.wire.test_plane_hedging import TWO, Slow, begin
from tests.wire.test_plane_streams import last_error
from tests.wire.test_plane_timers import pass_time
from tests.wire.upstream_script import moved_time, turns

PAGE = Path(__file__).parents[2] / "config" / "faults" / "streams.md"

CONTENT = delta(content="hello")
ERROR = event({"error": {"message": "The server had an error", "type": "server_error", "code": "server_error"}})
CUT = None
"""The connection ends, and the body does not."""
LIFE = chunked(ROLE, end=False)
BEGUN = chunked(ROLE, CONTENT, end=False)

FAULTS = {
    "has no content in time (`first_token`)": [LIFE, 8.1],
    "has an error event before any content": [LIFE, chunked(ERROR)],
    "is cut before any content": [LIFE, CUT],
    "has an error event 0.2 s after its first content": [BEGUN, 0.2, chunked(ERROR)],
    "is cut 2 s after its first content": [BEGUN, 2.0, CUT],
    "falls silent after its first content (`stall`)": [BEGUN, 8.1],
    "ends without a finish reason, 2 s after its first content": [BEGUN, 2.0, b"0\r\n\r\n"],
    "ends with a finish reason, but without its terminator": [BEGUN, chunked(STOP)],
}
"""What the provider writes, the seconds that pass, and cuts, in order."""
HOLDS = ["none", "500ms", "all"]
POLICY = "{{attempts: {attempts}, timeouts: {{first_token: 8s, stall: 8s}}, stream: {{hold: {hold}, keepalive: off}}}}"


def cells():
    """Read the page: (section, fault, hold) and what stands there."""
    found, section, columns = {}, "", []
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            section, columns = line[3:], []
        elif line.startswith("| ") and not columns:
            columns = [cell.strip() for cell in line.strip("|").split("|")]
        elif line.startswith("| ") and "---" not in line:
            name, *words = [cell.strip() for cell in line.strip("|").split("|")]
            found |= {(section, name, column): word for column, word in zip(columns[1:], words, strict=True)}
    return found


ANOTHER, NONE_LEFT = "Where another target can serve", "Where no other target is left"
CELLS = cells()


def test_the_page_has_a_cell_for_every_fault_and_delivery():
    assert list(CELLS) == [
        (section, fault, f"`hold: {hold}`") for section in (ANOTHER, NONE_LEFT) for fault in FAULTS for hold in HOLDS
    ]


def words(response):
    """Say what the client got; raises where it is nothing that may ever happen."""
    if response.status != 200:
        assert error_of(response)["message"]
        assert b"hello" not in response.body
        return f"an error: {response.status}"
    assert response.whole
    if response.body == b"".join(TWO):
        assert response.get(b"x-gateway-provider") == b"two"
        return "whole, from the next target"
    if response.body == ROLE + CONTENT + STOP + DONE:
        return "whole"
    assert response.body.startswith(ROLE + CONTENT + b"data: ")
    assert response.body.count(b"data: ") == 3
    assert last_error(response.body)["message"]
    return "an error event"


@moved_time
@pytest.mark.parametrize(("section", "fault", "delivery"), CELLS)
async def test_the_client_sees_what_the_page_says(section, fault, delivery):
    one = Slow()
    others = [serving(SSE + chunked(*TWO))] if section == ANOTHER else []
    policy = POLICY.format(hold=delivery.strip("`").removeprefix("hold: "), attempts=1 + len(others))
    async with plane(one, *others, policy=policy) as stage:
        # A client's own retry gets no quick second try at the same target, which would blur what is shown here.
        client = await begin(stage, chat(STREAM_BODY, b"x-stainless-retry-count: 1"), one)
        one.visit.write(SSE)
        for step in FAULTS[fault]:
            if isinstance(step, float):
                await pass_time(step)
            elif step is CUT:
                one.visit.close()
            else:
                one.visit.write(step)
                await turns(20)
        assert words(await client.response()) == CELLS[section, fault, delivery]
