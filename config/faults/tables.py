#!/usr/bin/env python3
"""Writes the tables of faults that people read, from the tables that the gateway decides by.

    python config/faults/tables.py            # README.md's section and config/faults/README.md
    python config/faults/tables.py --check    # exit status 1 where one of them is stale

What a fault allows is `FAULTS`, which answers are which fault are the dialects' rules; only the words for them stand here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway.core.matcher import Rule
from gateway.core.verdicts import FAULTS, Again, Fault, FaultRule, Parked, Scope
from gateway.dialects.faults_openai import AZURE_RULES, OPENAI_RULES

HERE = Path(__file__).resolve().parent
README = HERE.parent.parent / "README.md"
REFERENCE = HERE / "README.md"
BEGIN, END = "<!-- faults:begin, made by config/faults/tables.py -->\n", "<!-- faults:end -->\n"

WHAT: dict[Fault, str] = {
    Fault.CONNECT: "refuses connections; DNS or TLS fails",
    Fault.TIMEOUT: "silent past `first_token` (streams) or `answer`",
    Fault.STALLED: "began, then silent past `stall`",
    Fault.OVERLOADED: "503, 529, 498, a 429 that means capacity",
    Fault.RATE_LIMITED: "429 with a limit behind it",
    Fault.SERVER_ERROR: "500, 502, 504, 408, 409; resets the connection",
    Fault.BILLING: "402, or a 429 that means an empty wallet",
    Fault.CREDENTIAL: "401, 403 with our key",
    Fault.MODEL_GONE: "404 for the model or deployment",
    Fault.CONTEXT_LENGTH: "400: the prompt is too long for the model",
    Fault.CONTENT_POLICY: "400: refused on content",
    Fault.CALLER: "400, 404, 413, 422: the request is wrong",
    Fault.STREAM_BROKEN: "breaks off in the middle of an answer",
    Fault.EDGE_BLOCKED: "an HTML page, Cloudflare 52x",
    Fault.UNKNOWN: "an answer that nobody knows",
}
AGAIN = {
    Again.NEVER: "no",
    Again.LAST_RESORT: "if no other can serve: after a backoff, within the budget",
    Again.WAIT: "when the limit allows: at once elsewhere if that is later than `rate_limit_wait`",
}
ELSEWHERE = {
    Fault.CONTEXT_LENGTH: "only targets marked `only_for: [context_length]`",
    Fault.CONTENT_POLICY: "only with `content_policy: failover`",
    Fault.CALLER: "one, for a second opinion, when 400s from this target jumped from rare to common",
}
SCOPE = {
    Scope.NOBODY: "nobody's",
    Scope.CREDENTIAL: "the key's",
    Scope.KEY_ON_MODEL: "the key's, for this model",
    Scope.TARGET: "the target's",
    Scope.PROVIDER: "the provider's",
}
PARKED = {
    Parked.NOT: "",
    Parked.STATED: "parked as long as stated, 60 s at most, then one probe",
    Parked.BENCHED: "benched for 1 to 15 min or until changed, then one probe; next key, next target",
}


def faults_table() -> str:
    """Return the table of what each fault allows."""
    rows = [["the provider ...", "fault", "same target again", "next target", "whose failure", "the client, if nobody could serve"]]
    for fault, rule in FAULTS.items():
        again = AGAIN[rule.again]
        if fault in (Fault.CONNECT, Fault.SERVER_ERROR):
            again += "; one quick try for a lone reset, refusal or 500"
        blamed = SCOPE[rule.scope] + (f": {PARKED[rule.parked]}" if rule.parked is not Parked.NOT else "")
        rows.append([WHAT[fault], f"`{fault}`", again, _elsewhere(fault, rule), blamed, _sees(fault, rule)])
    return _markdown(rows)


def rules_table(rules: Sequence[Rule]) -> str:
    """Return one dialect's rules, in the order in which they are tried."""
    rows = [["status", "and", "fault", "whose failure", "remarks"]]
    for rule in rules:
        if rule.fault is None:
            continue
        scope = SCOPE[rule.scope if rule.scope is not None else FAULTS[rule.fault].scope]
        rows.append([_statuses(rule), _conditions(rule), f"`{rule.fault}`", scope, _remarks(rule)])
    return _markdown(rows)


def reference() -> str:
    """Return the text of `config/faults/README.md`."""
    return "\n".join(
        [
            "# Which answer is which fault",
            "",
            "Made by `tables.py` beside this file from the tables that the gateway decides by; the first row that fits counts.",
            "What each fault allows is in the [README](../../README.md#what-happens-when-); what clients see of a stream that goes",
            "wrong, by how it is delivered, in [streams.md](streams.md). Rules of your own go before these:",
            "",
            "```yaml",
            "providers:",
            "  local:",
            "    base_url: http://10.0.0.7:8000/v1",
            "    errors:",
            "      - {status: 500, body: 'CUDA out of memory', fault: overloaded}",
            "```",
            "",
            "## OpenAI and everyone compatible",
            "",
            rules_table(OPENAI_RULES),
            "## Azure: these first, then the ones above",
            "",
            rules_table([rule for rule in AZURE_RULES if rule not in OPENAI_RULES]),
        ]
    )


def readme(text: str) -> str:
    """Return README.md's text with its section made anew; raises ValueError where the marks are missing."""
    before, mark, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError("README.md has lost the marks of its table of faults")
    return before + BEGIN + faults_table() + END + after


def _elsewhere(fault: Fault, rule: FaultRule) -> str:
    return ELSEWHERE[fault] if not rule.elsewhere else "at once"


def _sees(fault: Fault, rule: FaultRule) -> str:
    if rule.scope is Scope.NOBODY:
        return "the provider's own answer, untouched"
    if fault in (Fault.CONNECT, Fault.TIMEOUT, Fault.STALLED, Fault.STREAM_BROKEN):
        return f"{rule.status}; after the first content an in-band error" if fault is Fault.STREAM_BROKEN else f"{rule.status}"
    return "the provider's own answer, with our advice" if rule.relayed else f"{rule.status}, never the provider's text"


def _statuses(rule: Rule) -> str:
    return ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in rule.statuses) or "any"


def _conditions(rule: Rule) -> str:
    said: list[str] = []
    for value, yes, no in (
        (rule.html, "an HTML page", "no HTML page"),
        (rule.shaped, "an error object", "no error object"),
        (rule.oversize, "larger than the whole limit", "within the limit"),
        (rule.stated_delay, "says when to come back", "does not say when to come back"),
        (rule.own_key, "our key", "the caller's key"),
    ):
        if value is not None:
            said.append(yes if value else no)
    if rule.names:
        said.append("named " + ", ".join(f"`{name}`" for name in sorted(rule.names)))
    if rule.text is not None:
        said.append("text `" + rule.text.pattern.replace("|", "\\|") + "`")
    return "; ".join(said)


def _remarks(rule: Rule) -> str:
    said = []
    if rule.ambiguous:
        said.append("may have been carried out")
    if rule.quick:
        said.append("one quick try")
    if not rule.waits:
        said.append("waiting cannot help")
    if not rule.retry_same:
        said.append("not here again")
    return "; ".join(said)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what is stale, or with `--check` only tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file is stale")
    check = parser.parse_args(arguments).check
    wanted = {README: readme(README.read_text()), REFERENCE: reference()}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if check:
            print(f"{path.name} is stale: run config/faults/tables.py", file=sys.stderr)
        else:
            path.write_text(wanted[path])
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
