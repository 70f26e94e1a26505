"""What the admin port may see and steer: a small protocol that the running process implements."""

from __future__ import annotations

from typing import Any, Protocol


class Control(Protocol):
    """The running gateway, as its operators meet it."""

    @property
    def ready(self) -> bool:
        """Configuration loaded, listening, not draining. The health of providers never changes it."""
        ...

    @property
    def state(self) -> str:
        """One word: `starting`, `ready` or `draining`."""
        ...

    def reload(self) -> list[str]:
        """Read the configuration again and swap it in as a whole; returns what is noteworthy about it.

        Raises ConfigError, and then nothing has changed.
        """
        ...

    def status(self) -> dict[str, Any]:
        """Return the configuration in force and the live state behind it, ready for JSON."""
        ...

    def metrics(self) -> tuple[bytes, str]:
        """Return the metrics page and its content type."""
        ...

    def admin_token(self) -> str | None:
        """Return the token that guards the admin port, None where it needs none."""
        ...
