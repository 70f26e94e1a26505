"""The command line: `gateway serve | init | check | key | demo | health`.

Each command imports what it needs, so that all start fast.
"""

from __future__ import annotations

import argparse
import http.client
import json
import logging
import os
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gateway import __version__
from gateway.build import build
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from gateway.config.snapshot import Snapshot

EXIT_UNUSABLE = 2


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_UNUSABLE
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python would complain once more while closing it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gateway", description="A resilience gateway for AI APIs.")
    parser.add_argument("--version", action="version", version=f"gateway {__version__} ({build()})")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the gateway")
    serve.add_argument("--config", metavar="FILE", help="configuration (default: $GATEWAY_CONFIG, else from the environment)")
    serve.set_defaults(command=_serve)

    init = commands.add_parser("init", help="write a commented configuration from the keys found in the environment")
    init.add_argument(
        "file", nargs="?", default="gateway.yaml", metavar="FILE", help="where to (default: %(default)s; - for stdout)"
    )
    init.set_defaults(command=_init)

    check = commands.add_parser("check", help="check a configuration; every mistake at once, exit status 2 if there are any")
    check.add_argument("file", metavar="FILE")
    check.set_defaults(command=_check)

    key = commands.add_parser("key", help="make keys for clients")
    keys = key.add_subparsers(required=True, metavar="COMMAND")
    new = keys.add_parser("new", help="print a fresh key for a client, its hash, and the line that lets it in; nothing is stored")
    new.add_argument("--name", type=_client_name, default="new-client", metavar="NAME", help="the client's (default: %(default)s)")
    new.set_defaults(command=_key_new)

    demo = commands.add_parser("demo", help="survive a staged outage of three simulated providers")
    demo.add_argument("--seconds", type=float, default=30.0, metavar="N", help="how long (default: %(default)g)")
    demo.add_argument("--keep", action="store_true", help="go on serving afterwards, and print the base URL to try")
    demo.set_defaults(command=_demo)

    health = commands.add_parser("health", help="ask a running gateway whether it is alive; for container health checks")
    health.add_argument("--config", metavar="FILE", help="as for serve; tells where the admin port is")
    health.set_defaults(command=_health)
    return parser


def _loader(config: str | None) -> Callable[[], Snapshot]:
    path = config or os.environ.get("GATEWAY_CONFIG")
    if path:
        from gateway.config.load import load

        return lambda: load(path, os.environ)
    from gateway.config.environment import from_environment

    return lambda: from_environment(os.environ)


def _serve(arguments: argparse.Namespace) -> int:
    from gateway.fleet.serve import serve

    return serve(_loader(arguments.config))


def _init(arguments: argparse.Namespace) -> int:
    from gateway.config.environment import starter_yaml

    text = starter_yaml(os.environ)
    if arguments.file == "-":
        sys.stdout.write(text)
        return 0
    path = Path(arguments.file)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        print(f"{path} exists already; name another file, or remove it first", file=sys.stderr)
        return EXIT_UNUSABLE
    except OSError as error:
        print(f"cannot write {path}: {error.strerror}", file=sys.stderr)
        return EXIT_UNUSABLE
    print(f"wrote {path}; run it with: gateway serve --config {path}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from gateway.config.describe import describe
    from gateway.config.load import load

    for line in describe(load(arguments.file, os.environ)):
        print(line)
    return 0


def _client_name(written: str) -> str:
    from gateway.config.units import Mistake
    from gateway.config.values import name

    try:
        return name(written)
    except Mistake as mistake:
        raise argparse.ArgumentTypeError(mistake.message) from None


def _key_new(arguments: argparse.Namespace) -> int:
    from gateway.config.clientkeys import handout

    sys.stdout.write(handout(arguments.name))
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from gateway.drill.demo import demo

    # The table is what there is to see; the gateway's own lines would run through it.
    logging.getLogger("gateway").setLevel(logging.ERROR)
    return demo(seconds=arguments.seconds, keep=arguments.keep)


def _health(arguments: argparse.Namespace) -> int:
    admin = _loader(arguments.config)().admin
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(admin.host, admin.host)
    url = f"http://[{host}]:{admin.port}/healthz" if ":" in host else f"http://{host}:{admin.port}/healthz"
    try:
        # A proxy set for the way to providers must not stand between a container and itself.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=3) as answer:
            print(json.load(answer)["status"])
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        print(f"not alive: {url}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
