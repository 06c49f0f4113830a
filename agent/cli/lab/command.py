"""``lom-agent lab``: the embedded MDM server without a fleet; its options. `agent.cli.lab.running` runs it."""

from __future__ import annotations

import click

from agent.cli.signals import importing


@click.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, metavar="PORT", help="The HTTPS port; 0: a free port."
)
@click.option(
    "--listen",
    metavar="ADDRESS",
    help="Listen at this address, so that Macs of other machines reach the lab.  [default: 127.0.0.1]",
)
@click.option(
    "--advertise",
    metavar="NAME",
    help="The name or address by which they reach it, in its certificate and URLs.  [default: the address of --listen]",
)
@click.option(
    "--identity",
    type=click.Choice(["pkcs12", "scep", "acme"]),
    default="pkcs12",
    show_default=True,
    help="How the enrollment profile gives a Mac its identity.",
)
@click.option(
    "--scep-port", type=click.IntRange(0, 65535), default=0, metavar="PORT", help="The SCEP port; 0: a free port."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Keep the state of the lab in this folder: a lab started there again has the same CA, ports, token, Macs and "
    "queues. Also writes ca.pem, enrollment.mobileconfig and token.",
)
@click.option(
    "--reenrollment/--no-reenrollment",
    default=True,
    show_default=True,
    help="Whether an enrolled Mac may enroll again with a new identity and without CheckOut, as an erased Mac does.",
)
@click.option(
    "--apns",
    metavar="URL",
    help="Push through the APNs gateway at this https URL when a command is queued; docs/push.md.",
)
@click.option(
    "--apns-ca",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="The CA of the gateway's certificate; without it the CAs of the system are trusted.",
)
@click.option(
    "--defect",
    "defects",
    multiple=True,
    metavar="NAME",
    help="Behave wrongly in this way, so that a requirement of lom-agent conform fails; list: print the names. "
    "Repeatable.",
)
def lab(
    port: int,
    listen: str | None,
    advertise: str | None,
    identity: str,
    scep_port: int,
    out: str | None,
    reenrollment: bool,
    apns: str | None,
    apns_ca: str | None,
    defects: tuple[str, ...],
) -> None:
    """Run the embedded MDM server in the foreground until Ctrl-C.

    It listens on loopback, or where --listen says. Its API queues commands and returns their results; docs/lab-api.md
    describes it.
    """
    if "list" in defects:
        with importing():
            from agent.lab.defects import all_defects
        for each in all_defects():
            needs = "" if each.identity == "pkcs12" else f" Needs --identity {each.identity}."
            click.echo(f"{each.name:32}{each.changes} Fails: {', '.join(each.fails)}.{needs}")
        return
    if scep_port and identity != "scep":
        raise click.UsageError("--scep-port needs --identity scep")
    if advertise is not None and listen is None:
        raise click.UsageError("--advertise needs --listen")
    if apns_ca is not None and apns is None:
        raise click.UsageError("--apns-ca needs --apns")
    with importing():
        from agent.cli.lab.running import run_lab
    run_lab(port, identity, scep_port, out, reenrollment, apns, apns_ca, defects, listen=listen, advertise=advertise)
