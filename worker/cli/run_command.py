"""`run`: the worker itself."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.options import Config

if TYPE_CHECKING:
    import asyncio


def run(
    config: Config = None,
    until_end: Annotated[
        bool,
        typer.Option(
            "--until-end",
            help="Stop at the ends of the partitions as seen at start, print the ledger, and exit 3 if it does not "
            "balance or 4 if something was left unfinished: the flood guard holds, or a site is stopped and nothing "
            "has ended for admin.stuck_after_s.",
        ),
    ] = False,
    accept_gap: Annotated[
        bool,
        typer.Option(
            "--accept-gap",
            help="Go on at the oldest record where records were lost to retention before they could be read.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="The whole worker, but nothing is sent and no dead letter written: in the group <group_id>.dry-run, "
            "whose offsets stay for the next dry run. Tells what would have been called.",
        ),
    ] = False,
    preflight: Annotated[
        bool, typer.Option("--preflight", help="First do what `preflight` does; do not start where a check failed.")
    ] = False,
) -> None:
    """Read events and make calls until SIGTERM or Ctrl-C; a second one cancels what is still under way."""
    if dry_run and preflight:
        raise typer.BadParameter("--dry-run sends nothing, and --preflight asks the sites: run preflight by itself")
    from worker.cli.loading import rules_of, settings_and_rules
    from worker.settings.site_files import secrets_of
    from worker.settings.tree import load, secret_values

    loaded, rules = settings_and_rules(config)
    settings = loaded.settings
    if preflight:
        from worker.cli.preflight_command import before_run

        before_run(settings, rules)
    from worker import app, logs, signals  # after the checks, so that what is refused is refused at once

    key_lines = {line for site in settings.sites.values() for line in secrets_of(site)}
    logs.configure(secrets=secret_values(settings) | key_lines)
    work = app.run(
        loaded,
        rules,
        until_end=until_end,
        accept_gap=accept_gap,
        dry_run=dry_run,
        reread=None if dry_run else lambda: load(config),  # without a request there is no key to rotate
        reread_rules=lambda: rules_of(settings),
    )
    raise typer.Exit(run_on_loop(signals.stoppable(work)))


def run_on_loop(work: Coroutine[object, object, int]) -> int:
    """Run to the end on the fastest event loop there is."""
    import asyncio
    import gc

    # The start leaves some 70,000 objects that live to the end: the collector need not look at them again. And 200
    # attempts in flight are more objects than it thinks worth a look by default (700), all of them alive.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)
    with asyncio.Runner(loop_factory=_fast_loop()) as runner:
        return runner.run(work)


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes a uvloop; None, for asyncio's own, where there is none (Windows)."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
