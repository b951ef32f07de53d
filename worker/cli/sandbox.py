"""`sandbox`: a local Kafka and a local Gigya to try settings and rules on, until Ctrl-C."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.exits import PROBLEMS

if TYPE_CHECKING:
    from worker.sandbox.gigya import LocalGigya

TOPIC = "user-events"
DEAD_LETTERS = "user-events.dead"


def sandbox(
    write: Annotated[
        Path | None,
        typer.Option("--write", metavar="FILE", help="Also write the settings to this file; it must not exist yet."),
    ] = None,
    kafka_port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: a free one.")] = None,
    gigya_port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    partitions: Annotated[int, typer.Option(min=1, max=100, help=f"Of the topic {TOPIC}.")] = 4,
) -> None:
    """Run a local Kafka and a local Gigya until Ctrl-C, and print the settings to use them."""
    import asyncio

    from worker.sandbox.jars import BrokerUnavailable

    if write is not None and write.exists():
        print(f"gigya-worker: {write} exists already; nothing was started", file=sys.stderr)
        raise typer.Exit(PROBLEMS)
    try:
        asyncio.run(_serve(write, kafka_port, gigya_port, partitions))
    except BrokerUnavailable as unavailable:
        print(f"gigya-worker: {unavailable}", file=sys.stderr)
        raise typer.Exit(PROBLEMS) from None
    except OSError as error:
        print(f"gigya-worker: {error.strerror or type(error).__name__}; give other ports", file=sys.stderr)
        raise typer.Exit(PROBLEMS) from None


async def _serve(write: Path | None, kafka_port: int | None, gigya_port: int, partitions: int) -> None:
    import asyncio
    import signal

    from worker.sandbox.broker import LocalKafka, Topic, create_topics
    from worker.sandbox.gigya import GigyaConfig, LocalGigya

    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    gigya = LocalGigya(GigyaConfig())
    await gigya.start(port=gigya_port)
    kafka = await asyncio.to_thread(LocalKafka, port=kafka_port)
    try:
        await asyncio.to_thread(kafka.start)
        await create_topics(kafka.bootstrap(), [Topic(TOPIC, partitions), Topic.dead_letters(DEAD_LETTERS)])
        text = settings_text(kafka.bootstrap(), gigya)
        if write is not None:
            await asyncio.to_thread(write.write_text, text)
        _show(text, kafka.bootstrap(), gigya.base_url, write)
        await ended.wait()
    finally:
        await asyncio.to_thread(kafka.close)
        await gigya.stop()
    print("Both servers are stopped, their data is gone.")


def settings_text(bootstrap: str, gigya: LocalGigya) -> str:
    """Return a settings file for the two servers. Its secret is the local Gigya's own, made for this run."""
    from worker.sandbox.gigya import credentials

    sites = credentials(gigya)["sites"]
    lines = [
        "kafka:",
        f'  bootstrap_servers: "{bootstrap}"',
        "  group_id: sandbox",
        f"  topics: [{TOPIC}]",
        f"  dead_letter_topic: {DEAD_LETTERS}",
        "sites:",
    ]
    for name, site in sites.items() if isinstance(sites, dict) else ():
        keys = site if isinstance(site, dict) else {}
        lines += [
            f"  {name}:",
            f'    base_url: "{gigya.base_url}"',
            f'    api_key: "{keys.get("api_key")}"',
            f'    auth: {{mode: signed, user_key: "{keys.get("user_key")}", secret: "{keys.get("secret")}"}}',
            f"    quota_per_s: {keys.get('quota_per_s') or 'null'}",
        ]
    return "\n".join([*lines, "rules: rules.yaml", ""])


def _show(text: str, bootstrap: str, base_url: str, write: Path | None) -> None:
    file = write or Path("worker.yaml")
    print(f"Kafka on {bootstrap}, Gigya on {base_url} (both local; every signature is verified)")
    print(f"topics  {TOPIC}, {DEAD_LETTERS}")
    print(f"ledger  {base_url}/_control/ledger\n")
    print(text)
    print(
        f"Written to {write}." if write is not None else f"Put these settings into {file}, your rules into rules.yaml;"
    )
    print(f"then, in another terminal: gigya-worker check --config {file} && gigya-worker run --config {file}")
    print(f"Send events to {TOPIC} with any Kafka producer. Ctrl-C ends both servers.", flush=True)
