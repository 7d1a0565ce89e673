"""`lora ui`: the page in a browser."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from urllib.parse import urlunsplit

import click

from lora_training import workspace
from lora_training.cli.output import say

_PORT = 8765


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", default=_PORT, show_default=True, type=click.IntRange(0, 65535), help="0: any free one.")
@click.option("--allow-host", "named", multiple=True, metavar="NAME", help="Another name of this server; repeatable.")
def ui(host: str, port: int, *, named: tuple[str, ...]) -> None:
    """Watch, compare, start and stop runs in a browser."""
    from lora_training.ui import app, guard

    here = workspace.find()
    listening = app.listen(host, port)
    address, port = listening.getsockname()[:2]
    is_open = not ipaddress.ip_address(address).is_loopback
    token = guard.token(here.state / "ui" / f"token-{os.geteuid()}")
    hosts = guard.Hosts(tuple(name.lower() for name in (*named, host) if name), open=is_open)
    shown = "127.0.0.1" if ipaddress.ip_address(address).is_unspecified else f"[{host}]" if ":" in host else host
    say(f"the page: {urlunsplit(('http', f'{shown}:{port}', '/', f'token={token}', ''))}")
    if is_open:
        say(f"warning: others in the network can reach port {port}, and what is sent is not encrypted", err=True)
        say(f"hint: from another machine, `ssh -L {port}:127.0.0.1:{port} THIS-MACHINE` needs no --host", err=True)
    say("Ctrl-C ends the page; runs go on", err=True)
    with contextlib.suppress(KeyboardInterrupt):
        app.serve(app.create(here, token, hosts), listening)
