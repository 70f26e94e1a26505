"""Two kinds of circumstantial evidence against a target, neither of which one client alone can give (law 11).

Nobody's fault in a single exchange, a provider's when many of them agree:
- a 400 is the caller's, but when 400s jump from rare to common across unrelated clients, the target is suspect (it has happened: an
  engine older than its configuration answered 400 for twenty hours). Then one other target may give a second opinion, which either
  convicts the first or clears it;
- a client whose patience ends is nobody's failure, but a target that stays silent to one client after the other, and shows life to
  nobody meanwhile, hangs: without this, a provider that accepts everything and answers nothing would never be found out by clients
  less patient than the policy.
"""

from __future__ import annotations

from typing import Final

WINDOW_S: Final = 60.0
"""How far back "now" reaches for the rate of 400s, at least; with little traffic, as far as it takes to see `MIN_USUAL` answers."""
LONGEST_WINDOW_S: Final = 900.0
COMMON: Final = 0.3
"""From this share of all answers on, 400s are common. The outage this was learned from had about a third."""
RARE: Final = 0.05
"""Up to this share they are what clients do."""
MIN_COMMON: Final = 5
MIN_USUAL: Final = 20
"""So many 400s now, without those of the client that got most of them, and so many answers before, are needed to tell."""
MAX_CLIENTS: Final = 64
"""Clients told apart; beyond, they count as one."""
USUAL_CAP: Final = 1000.0
"""What was usual is remembered by about so many answers: older ones fade."""

SILENT_STREAM_S: Final = 10.0
SILENT_ANSWER_S: Final = 60.0
"""A stream should have begun by then, another answer might have: shorter patience proves nothing."""
MEMORY_S: Final = 600.0
"""Two clients further apart than this are no pattern."""


class Rejections:
    """How often a target says 400, and to whom."""

    __slots__ = ("_clients", "_rejected", "_since", "_usual_answers", "_usual_rejected", "served")

    def __init__(self) -> None:
        self.served = 0
        """Good answers since the window began; counted up by whoever hears of one."""
        self._rejected = 0
        self._since = 0.0
        self._clients: dict[str, int] = {}
        """How often it was said to each."""
        self._usual_answers = 0.0
        self._usual_rejected = 0.0

    def rejected(self, now: float, client: str) -> None:
        """Count a 400 to this client."""
        lasted_s = now - self._since
        if lasted_s >= LONGEST_WINDOW_S or (lasted_s >= WINDOW_S and self._rejected + self.served >= MIN_USUAL):
            self._turn(now)
        self._rejected += 1
        if client not in self._clients and len(self._clients) >= MAX_CLIENTS:
            client = ""
        self._clients[client] = self._clients.get(client, 0) + 1

    @property
    def suspect(self) -> bool:
        """Whether 400s have jumped from rare to common, for clients that have nothing to do with each other."""
        return (
            self._rejected - max(self._clients.values(), default=0) >= MIN_COMMON
            and self._rejected >= COMMON * (self._rejected + self.served)
            and self._usual_answers >= MIN_USUAL
            and self._usual_rejected <= RARE * self._usual_answers
        )

    def cleared(self) -> None:
        """Another target says 400 to the same request: it was the caller's after all, and so, for now, are the others."""
        self._rejected = 0
        self._clients.clear()

    def _turn(self, now: float) -> None:
        """Begin a new window. What a suspect target did is not what is usual; it stays suspect on what is known."""
        if not self.suspect:
            answers = self._usual_answers + self._rejected + self.served
            kept = min(1.0, USUAL_CAP / answers) if answers else 1.0
            self._usual_answers = answers * kept
            self._usual_rejected = (self._usual_rejected + self._rejected) * kept
            self._clients.clear()
            self._rejected = 0
        else:
            self._fade()
        self.served = 0
        self._since = now

    def _fade(self) -> None:
        """Forget half of it, so that the suspicion needs new food and ends by itself.

        Each client's count is halved; of those who were told so once, the later half are remembered.
        """
        once = [client for client, count in self._clients.items() if count == 1]
        self._clients = {client: count // 2 for client, count in self._clients.items() if count > 1}
        self._clients.update(dict.fromkeys(once[(len(once) + 1) // 2 :], 1))
        self._rejected = sum(self._clients.values())


class Silence:
    """Which client last gave up on a target that had shown nothing, and when."""

    __slots__ = ("_at", "_client")

    def __init__(self) -> None:
        self._client = ""
        self._at = float("-inf")

    def gave_up(self, now: float, client: str, *, sent_at: float, lived_at: float, stream: bool) -> bool:
        """Note that a client left unanswered; return whether that is the target's failure.

        It is when the client waited long, the target has shown life to nobody since (`lived_at`), and another client has gone
        the same way before it.
        """
        if now - sent_at < (SILENT_STREAM_S if stream else SILENT_ANSWER_S) or lived_at >= sent_at:
            return False
        known, at = self._client, self._at
        self._client, self._at = client, now
        return at > lived_at and now - at <= MEMORY_S and known != client
