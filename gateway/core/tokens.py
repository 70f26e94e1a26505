"""How many tokens a request will take: a guess from its bytes, by a ratio learned from what providers report.

No tokenizer runs on the request path: it would cost more than all the rest, and every model has its own. What a provider reports
as usage teaches how many bytes of a body are a token for this model and these clients, and how long answers usually are. Images,
audio and files are no text; `dialects.prompt` measures them by rules of their own. How far the guesses are off is a metric.
"""

from __future__ import annotations

from typing import Final, Protocol

from gateway.core.bucket import Cost

BYTES_PER_TOKEN: Final = 4.0
"""Of English and JSON in OpenAI's vocabularies, until something is known."""
USUAL_OUTPUT: Final = 400.0
PRIOR_BYTES: Final = 4_000.0
"""What the first guess weighs."""
MEMORY: Final = 0.98
"""What an old report weighs beside the next one: fifty of them make the ratio."""
BOUNDS = (0.02, 2.0)
"""Tokens per byte beyond these are a mistake of somebody's."""
USUAL_ERROR: Final = 0.1
"""How far an estimate is off, until something is known; a share of it."""
MARGIN: Final = 2.0
MOST_MARGIN: Final = 1.0
"""So many times its mean error is reserved on top of an estimate: a mean is too low half the time, and at the edge of a limit each
time is a refusal. What was not needed is given back."""


class Prompt(Protocol):
    """A request as measured by its dialect."""

    text_bytes: int
    """Of the body, without what is no text."""
    media_tokens: float
    """For images, audio and files."""
    max_output: int | None
    """The most that all answers together may have, where the request says so."""


class Ratio:
    """What one model's usage has taught."""

    __slots__ = ("_bytes", "_error", "_output", "_tokens")

    def __init__(self) -> None:
        self._bytes = PRIOR_BYTES
        self._tokens = PRIOR_BYTES / BYTES_PER_TOKEN
        self._output = USUAL_OUTPUT
        self._error = USUAL_ERROR

    def cost(self, prompt: Prompt) -> Cost:
        """Return the estimate: the prompt, and the most that the answer may have, which is what providers reckon with."""
        output = self._output if prompt.max_output is None else float(prompt.max_output)
        text = prompt.text_bytes * self._tokens / self._bytes
        margin = text * min(MARGIN * self._error, MOST_MARGIN)
        guess = text + prompt.media_tokens
        return Cost(guess + margin, output, guess)

    def learn(self, prompt: Prompt, input_tokens: int, output_tokens: int) -> None:
        """Take in what a provider reported for a request."""
        if prompt.max_output != 0:
            self._output += (output_tokens - self._output) * (1.0 - MEMORY)
        least, most = BOUNDS
        if not prompt.media_tokens and prompt.text_bytes and least <= input_tokens / prompt.text_bytes <= most:
            text = prompt.text_bytes * self._tokens / self._bytes
            self._error += (min(abs(input_tokens - text) / text, MOST_MARGIN) - self._error) * (1.0 - MEMORY)
            self._bytes = self._bytes * MEMORY + prompt.text_bytes
            self._tokens = self._tokens * MEMORY + input_tokens
