"""The hands of `stream.resume`: what the client has got of a stream, and the second one that is made its continuation.

One object per exchange on a route that resumes, made at the commit; routes that do not pay nothing. The core decides that and where
a broken stream goes on; how streams are read and spliced the dialects know. Between the two stands what this keeps: the transcript,
the splice under way, and whether the seam has been declared.
"""

from __future__ import annotations

from gateway.core.attempt import Attempt
from gateway.core.plan import Family, Prefill
from gateway.dialects.prefill import continuation_body
from gateway.dialects.splice import seam, splicer_for
from gateway.dialects.splice_generic import Splicer
from gateway.dialects.transcript import ChatTranscript, ResponsesTranscript, transcript_for
from gateway.dialects.usage_chunk import ask_for_usage, without_usage


class Resumption:
    """One exchange's stream, as the client reads it."""

    __slots__ = ("_provider", "_splicer", "_strips", "_transcript")

    def __init__(self, transcript: ChatTranscript | ResponsesTranscript, *, strips: bool) -> None:
        self._transcript = transcript
        self._strips = strips
        """The client did not ask for the chunk that tells the usage."""
        self._splicer: Splicer | None = None
        self._provider = ""
        """Whose stream continues ours, until the client has been told."""

    @classmethod
    def of(cls, family: Family, body: bytes, *, asked: bool) -> Resumption | None:
        """Return what keeps track of the answer to this request; None where it can never be continued.

        `asked`: the gateway may have asked for the usage on its own account.
        """
        transcript = transcript_for(family, body)
        if transcript is None:
            return None
        return cls(transcript, strips=asked and family is Family.CHAT and ask_for_usage(body) is not None)

    @property
    def possible(self) -> bool:
        """Whether another stream could continue what the client has got so far."""
        return self._transcript.resumable

    @property
    def whole(self) -> bool:
        """Whether the splice under way, if any, has brought the stream to its end."""
        return self._splicer is None or self._splicer.finished

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
        asked = continuation_body(body, self._transcript, attempt.prefill)
        if asked is None:
            attempt.prefill = Prefill.NONE
        self._splicer = splicer_for(self._transcript, attempt.prefill)
        self._provider = attempt.provider
        return body if asked is None else asked

    def relay(self, events: bytes) -> bytes | None:
        """Take events of the attempt under way and return those for the client, maybe none; None: it cannot be continued so."""
        splicer = self._splicer
        if splicer is not None:
            spliced = splicer.feed(events)
            if spliced is None:
                return None
            if spliced and self._provider and splicer.joined:
                spliced = seam(self._provider) + spliced
                self._provider = ""
            events = spliced
        if events:
            self._transcript.feed(events)
        return without_usage(events) if self._strips else events
