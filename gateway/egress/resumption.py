"""The hands of `stream.resume`: what the client has got of a stream, and the second one that is made its continuation.

One object per exchange on a route that resumes, made at the commit; routes that do not pay nothing. The core decides that and where
a broken stream goes on; how streams are read and spliced the dialects know. Between the two stands what this keeps: the transcript,
the splice under way, and whether the seam has been declared.
"""

from __future__ import annotations

from gateway.core.attempt import Attempt
from gateway.core.plan import Family, Prefill
from gateway.core.sse import data_of
from gateway.core.sse import events as split
from gateway.dialects.prefill import continuation_body
from gateway.dialects.splice import seam, splicer_for
from gateway.dialects.splice_generic import Splicer
from gateway.dialects.streams_generic import without_noise
from gateway.dialects.transcript import ChatTranscript, ResponsesTranscript, transcript_for
from gateway.dialects.usage_chunk import ask_for_usage, without_usage


class Resumption:
    """One exchange's stream, as the client reads it."""

    __slots__ = ("_attempt", "_cut_short", "_dropped", "_splicer", "_strips", "_transcript", "_uninvited")

    def __init__(self, transcript: ChatTranscript | ResponsesTranscript | None, *, uninvited: bool, strips: bool) -> None:
        self._transcript = transcript
        """None: whatever comes, it cannot be continued."""
        self._uninvited = uninvited
        """The client did not ask for the chunk that tells the usage."""
        self._strips = strips
        """Such a chunk is there because we asked for it."""
        self._splicer: Splicer | None = None
        self._attempt: Attempt | None = None
        """Whose stream continues ours, until the client has been told."""
        self._cut_short = False
        """The terminator came before the finish."""
        self._dropped = 0

    @classmethod
    def of(cls, family: Family, body: bytes, *, asked: bool, over: bool) -> Resumption | None:
        """Return what keeps track of the answer to this request; None where there is nothing to be done with it.

        `asked`: the answer's provider is one that the gateway asks for the usage on its own account. `over`: it is whole already.
        """
        transcript = None if over else transcript_for(family, body)
        uninvited = family is Family.CHAT and ask_for_usage(body) is not None
        strips = asked and uninvited
        return None if transcript is None and not strips else cls(transcript, uninvited=uninvited, strips=strips)

    @property
    def possible(self) -> bool:
        """Whether another stream could continue what the client has got so far."""
        return self._transcript is not None and self._transcript.resumable

    @property
    def spliced(self) -> bool:
        """Whether another stream was asked to continue the first one: from then on the client gets whole events only."""
        return self._splicer is not None

    @property
    def whole(self) -> bool:
        """Whether what the client has got may end here."""
        return not self._cut_short if self._splicer is None else self._splicer.finished

    @property
    def usage(self) -> tuple[int, int] | None:
        """(input, output) tokens that all providers of the spliced stream reported together; None without a splice, or a report."""
        return None if self._splicer is None else self._splicer.usage

    @property
    def usage_complete(self) -> bool:
        """False: a provider of one part reported none."""
        return self._splicer is None or self._splicer.usage_complete

    def begin(self, attempt: Attempt, body: bytes) -> bytes:
        """Prepare for this attempt's stream and return the request for it; `body` is what any attempt there would send."""
        transcript = self._transcript
        assert transcript is not None  # noqa: S101 - only what is `possible` is resumed
        asked = continuation_body(body, transcript, attempt.prefill)
        if asked is None:
            attempt.prefill = Prefill.NONE
        self._splicer = splicer_for(transcript, attempt.prefill)
        self._strips = self._uninvited
        self._attempt = attempt
        attempt.catching_up = True
        return body if asked is None else asked

    def relay(self, events: bytes) -> bytes | None:
        """Take events of the attempt under way and return those for the client, maybe none; None: it cannot be continued so."""
        splicer, transcript = self._splicer, self._transcript
        events, dropped = without_noise(events)
        self._dropped += dropped
        if splicer is not None:
            spliced = splicer.feed(events)
            if spliced is None:
                return None
            attempt = self._attempt
            if spliced and attempt is not None and (splicer.joined or splicer.finished):
                spliced = seam(attempt.provider) + spliced
                attempt.catching_up = False
                self._attempt = None
            events = spliced
        if events and transcript is not None:
            transcript.feed(events)
            if splicer is None and b"[DONE]" in events and transcript.resumable:
                # Whoever puts it behind every stream puts it behind one that broke off, too.
                events = self._without_terminator(events)
        return without_usage(events) if self._strips else events

    def take_dropped(self) -> int:
        """Return how many frames were left out, since this was last asked, because they are no JSON."""
        dropped, self._dropped = self._dropped, 0
        return dropped

    def _without_terminator(self, events: bytes) -> bytes:
        kept = [event for event in split(events) if not data_of(event).startswith(b"[DONE]")]
        left = b"".join(kept)
        self._cut_short = len(left) < len(events)
        return left
