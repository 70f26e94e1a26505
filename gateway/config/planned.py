"""Keys that a configuration may hold one day, and what they may say until then.

One law: a key never does nothing. The schema knows these keys already, so that their names and shapes are settled and editors can
tell what is coming; saying anything but the value that means "without it" is an error. When a feature is built, its line goes.
"""

from __future__ import annotations

from typing import Final

from gateway import __version__
from gateway.config import schema
from gateway.config.document import Findings
from gateway.config.section import Section, sections
from gateway.config.validate import Remainder

NOT_BUILT: Final[dict[tuple[type[Section], str], tuple[tuple[object, ...], str]]] = {
    # (section, key): (values that may be said, what to do)
    (schema.Provider, "dialect"): (("openai", "azure"), "use openai where the provider has an OpenAI-compatible address"),
}


def report(configuration: Section, rest: Remainder, findings: Findings) -> None:
    """Report every key whose feature is not built in this version."""
    for path, section in sections(configuration):
        for key in section.model_fields_set:
            value = getattr(section, key)
            allowed, advice = NOT_BUILT.get((type(section), key), ((value,), ""))
            if value not in allowed:
                message = f"not built yet in version {__version__} ({value}); {advice}"
                findings.add((*rest.origin(path), key), message, at_key=True)
