"""What the pipeline promises of records: progress, dead letters, order."""

from __future__ import annotations

from tests.mutations.mutation import Edit, Mutation, mutation

_PIPELINE, _KAFKA = "worker/pipeline", "worker/kafka"
_HANDLER, _LANES, _OFFSETS, _RESTARTS = (
    "tests/pipeline/test_handler.py::",
    "tests/pipeline/test_lanes.py::",
    "tests/pipeline/test_offsets.py::",
    "tests/pipeline/test_restarts.py::",
)
_MOMENTS, _SHORTAGES = "tests/pipeline/test_hard_moments.py::", "tests/pipeline/test_shortages.py::"
_WHATEVER = "tests/pipeline/test_lanes_whatever_happens.py::test_whatever_happens_order_is_kept_and_no_call_is_lost"
_EARLIER, _HORIZON, _PROGRESS = (
    "tests/pipeline/test_earlier.py::",
    "tests/pipeline/test_horizon.py::",
    "tests/kafka/test_progress.py::",
)

# --- progress: what may be committed, and what a commit says -------------------------------------------------------

_OF_PROGRESS = (
    mutation(
        "commit before finish",
        f"{_PIPELINE}/handler.py",
        "        progress.start(ticket)\n",
        "        progress.pass_to(record.offset + 1)\n",
        f"{_HANDLER}test_a_wanted_record_holds_its_offset_until_all_its_calls_ended",
    ),
    mutation(
        "a filtered record not finished",
        f"{_PIPELINE}/handler.py",
        "progress.pass_to(records[index - 1].offset + 1)",
        "pass",
        f"{_HANDLER}test_a_record_that_nobody_wants_ends_at_once_and_may_be_committed",
    ),
    mutation(
        "skip the map when reading on",
        f"{_PIPELINE}/handler.py",
        "if (done is not None and record.offset in done) or",
        "if",
        f"{_RESTARTS}test_of_what_finished_behind_a_blocked_record_nothing_is_made_again_and_it_is_counted",
    ),
    mutation(
        "skip the map when committing",
        f"{_PIPELINE}/offsets.py",
        "return Progress(base, horizon, earlier.letters_below, tuple(done),",
        "return Progress(base, horizon, earlier.letters_below, (),",
        f"{_RESTARTS}test_of_what_finished_behind_a_blocked_record_nothing_is_made_again_and_it_is_counted",
    ),
    mutation(
        "the map of another offset believed",
        f"{_KAFKA}/progress.py",
        "if base != offset:",
        "if False:",
        f"{_RESTARTS}test_a_map_for_another_offset_is_not_believed",
        f"{_PROGRESS}test_why_metadata_is_not_used_is_told",
    ),
    mutation(
        "a damaged map believed",
        f"{_KAFKA}/progress.py",
        """if f"{zlib.crc32(body.encode('utf-8', 'replace')):08x}" != checksum:""",
        "if False:",
        f"{_PROGRESS}test_damage_is_noticed",
    ),
    mutation(
        "a map too long for Kafka believed more than it says",
        f"{_KAFKA}/progress.py",
        "horizon = max(progress.horizon, progress.done[-1].stop)",
        "horizon = progress.horizon",
        f"{_PROGRESS}test_what_does_not_fit_is_believed_unfinished_and_suspect_never_done",
    ),
    mutation(
        "the bits of a fan-out shifted by one",
        f"{_PIPELINE}/earlier.py",
        "return [_before(mark, is_below) for mark in started.calls]",
        "return [_before(mark, is_below) for mark in (started.calls[-1], *started.calls[:-1])]",
        f"{_EARLIER}test_calls_that_ended_keep_their_ends_under_the_same_rules_only",
        f"{_RESTARTS}test_of_a_fan_out_of_which_one_call_is_blocked_the_other_99_are_not_made_again",
    ),
    mutation(
        "bits read under other rules",
        f"{_PIPELINE}/earlier.py",
        "if started.rules != rules or len(started.calls) != count:",
        "if len(started.calls) != count:",
        f"{_EARLIER}test_calls_that_ended_keep_their_ends_under_the_same_rules_only",
        f"{_RESTARTS}test_the_99_are_asked_about_where_other_rules_made_them",
    ),
    mutation(
        "a failed call marked as delivered",
        f"{_PIPELINE}/tickets.py",
        "OutcomeKind.CAPPED: Mark.CAPPED,",
        "OutcomeKind.CAPPED: Mark.CAPPED,\n    OutcomeKind.FAILED: Mark.DELIVERED,",
        f"{_RESTARTS}test_a_call_that_failed_beside_one_that_is_blocked_fails_again_after_a_restart",
    ),
    mutation(
        "no horizon",
        f"{_PIPELINE}/lanes.py",
        "if known is None or ticket.offset < known.horizon.below:",
        "if True:",
        f"{_RESTARTS}test_no_call_is_attempted_at_or_above_the_horizon_that_kafka_has",
    ),
    mutation(
        "a call made that was let through before the horizon came down",
        f"{_PIPELINE}/lanes.py",
        "while (lane := site.take_ready()) is not None and self._stands_behind(site, lane):",
        "while (lane := site.take_ready()) is not None and False:",
        f"{_LANES}test_a_call_that_waits_for_a_place_is_not_made_when_the_horizon_has_come_down_before_it",
    ),
    mutation(
        "a horizon that comes down below what was attempted",
        f"{_PIPELINE}/horizon.py",
        "return max(behind, self._attempted_below, self._enough_heads(heads, enough))",
        "return max(behind, self._enough_heads(heads, enough))",
        f"{_HORIZON}test_it_never_comes_down_below_what_was_attempted",
        f"{_HORIZON}test_nothing_is_ever_attempted_that_the_group_may_not_know_of",
    ),
    mutation(
        "a shortage during a commit never looked at again",
        f"{_PIPELINE}/lanes.py",
        "        if any(map(self._is_short, self._sites.values())):",
        "        if False:",
        f"{_SHORTAGES}test_a_site_whose_calls_a_lowered_horizon_keeps_back_does_not_sleep_for_ever",
    ),
    mutation(
        "a horizon that comes down right after a shortage",
        f"{_PIPELINE}/horizon.py",
        "self._short_until_s = self._stays_until_s = now_s + SHORT_S",
        "self._short_until_s = now_s + SHORT_S",
        f"{_SHORTAGES}test_a_site_makes_its_calls_while_another_has_hardly_any_quota[1.0]",
    ),
    mutation(
        "a shortage forgotten with the next commit",
        f"{_PIPELINE}/horizon.py",
        "elif now_s >= self._short_until_s:",
        "else:",
        f"{_HORIZON}test_they_double_also_when_those_that_were_let_through_lasted_until_a_commit_was_under_way",
    ),
    mutation(
        "a partition that stands still while its site is busy",
        f"{_PIPELINE}/horizon.py",
        "if self._was_short or self._stands_still(heads):",
        "if self._was_short:",
        f"{_SHORTAGES}test_a_partition_whose_first_users_wait_has_its_turn_while_another_keeps_the_site_busy[0.0]",
    ),
    mutation(
        "a horizon that counts before its commit is acknowledged",
        f"{_PIPELINE}/horizon.py",
        "self.below = min(self.below, proposed)",
        "self.below = proposed",
        f"{_HORIZON}test_while_a_lower_one_is_under_way_it_counts_and_while_a_higher_one_is_the_old_one_does",
    ),
    mutation(
        "an end that is not sure kept as an end",
        f"{_PIPELINE}/tickets.py",
        "if outcome is None or (outcome.maybe_executed and outcome.kind is not OutcomeKind.DELIVERED):",
        "if outcome is None:",
        f"{_RESTARTS}test_an_end_that_is_not_sure_is_not_kept_but_found_out_anew",
    ),
    mutation(
        "two commits at a time",
        f"{_PIPELINE}/commits.py",
        "        async with self._lock:\n",
        "        if True:\n",
        f"{_MOMENTS}test_commits_do_not_overtake_each_other",
    ),
    mutation(
        "what a former assignment has read handed out",
        f"{_PIPELINE}/engine.py",
        " or not records or records[0].offset < progress.position:",
        " or not records:",
        f"{_MOMENTS}test_what_was_read_under_an_assignment_that_is_over_is_not_started_again",
    ),
    mutation(
        "a backlog that leaves nobody else a turn",
        f"{_PIPELINE}/engine.py",
        "                await asyncio.sleep(0)\n            if pending.index",
        "                pass\n            if pending.index",
        f"{_MOMENTS}test_a_long_batch_leaves_the_loop_to_others_every_few_milliseconds",
    ),
    mutation(
        "no suspects where the metadata says nothing",
        f"{_PIPELINE}/earlier.py",
        "below = min(committed.offset + max_ahead, end)",
        "below = committed.offset",
        f"{_EARLIER}test_without_usable_metadata_the_first_max_ahead_offsets_are_suspect_and_may_have_letters",
    ),
    mutation(
        "ignore the epoch when finishing",
        f"{_PIPELINE}/offsets.py",
        """        if ticket.epoch != self.epoch:
            return False
        if self.unfinished""",
        "        if self.unfinished",
        f"{_OFFSETS}test_a_late_finish_does_not_end_the_record_that_was_read_again",
    ),
    mutation(
        "ignore the epoch when a commit is acknowledged",
        f"{_PIPELINE}/offsets.py",
        "if progress is not None and progress.epoch == commit.epoch:",
        "if progress is not None:",
        f"{_OFFSETS}test_a_commit_confirmed_for_an_earlier_assignment_is_not_believed_for_this_one",
    ),
    mutation(
        "a clean stop that names nobody it is not sure of",
        f"{_PIPELINE}/tickets.py",
        "marks[index] = Mark.SUSPECT",
        "pass",
        f"{_RESTARTS}test_a_clean_stop_names_the_call_that_nobody_could_decide_and_it_is_asked_about",
    ),
)

# --- dead letters --------------------------------------------------------------------------------------------------

_OF_LETTERS = (
    mutation(
        "a commit that names all that die at once",
        f"{_PIPELINE}/offsets.py",
        "NAMED_AT_ONCE = 100\n",
        "NAMED_AT_ONCE = 100_000\n",
        f"{_OFFSETS}test_what_may_be_written_already_stays_named_however_many_die_before_it",
    ),
    mutation(
        "a letter that fits nowhere ends the trouble when another one is written",
        "worker/deadletters/writer.py",
        "was_failing = self._failing.pop(key, None) is not None",
        "was_failing = bool(self._failing)\n        self._failing.clear()",
        "tests/deadletters/test_writer.py::test_a_letter_of_which_even_a_reference_is_too_large_keeps_no_other_waiting",
    ),
    mutation(
        "headers that cost no memory",
        f"{_PIPELINE}/tickets.py",
        "if record.headers:",
        "if False:",
        "tests/pipeline/test_bounds.py::test_all_of_a_record_counts_for_the_memory_that_records_may_take",
    ),
    mutation(
        "a bounded run that waits for a stopped site without end",
        "worker/watchdog.py",
        "        self._engine.give_up()\n        return True",
        "        return False",
        "tests/test_standstill.py::test_a_stopped_site_ends_the_run_after_the_limit_and_is_named_with_what_to_do",
    ),
    mutation(
        "offset moved before the dead letter is acknowledged",
        f"{_PIPELINE}/letters.py",
        """            if await self._is_done(ticket, write):
                self._ended(ticket, end)""",
        """            self._ended(ticket, end)
            if await self._is_done(ticket, write):""",
        f"{_HANDLER}test_the_offset_moves_only_after_the_dead_letter_was_acknowledged",
    ),
    mutation(
        "the guard deciding after the write",
        f"{_PIPELINE}/handler.py",
        "if ticket.parked is not None or self._guard.died(ticket.number):\n            self._letters.bury(ticket)",
        "self._letters.bury(ticket)\n        if self._guard.died(ticket.number):\n            pass",
        f"{_HANDLER}test_the_record_that_trips_the_flood_guard_and_all_later_ones_stay_unfinished",
    ),
    mutation(
        "a letter written before a commit names its record",
        f"{_PIPELINE}/letters.py",
        "            self._unnamed[ticket] = None\n",
        "            self._enqueue(ticket, RecordEnd.DEAD_LETTERED)\n",
        f"{_HANDLER}test_a_letter_is_written_after_a_commit_that_names_its_record_and_makes_another_one_due_at_once",
    ),
    mutation(
        "no tombstone for a letter that a restart made untrue",
        f"{_PIPELINE}/handler.py",
        "            if ticket.may_have_letter:\n",
        "            if False:\n",
        f"{_RESTARTS}test_a_letter_that_a_restart_with_mended_rules_makes_untrue_is_withdrawn",
    ),
    mutation(
        "the offset moved before the tombstone is acknowledged",
        f"{_PIPELINE}/letters.py",
        "        self._enqueue(ticket, end)\n\n    def named",
        "        self._ended(ticket, end)\n        self._enqueue(ticket, end)\n\n    def named",
        f"{_HANDLER}test_the_offset_moves_only_after_the_tombstone_was_acknowledged",
    ),
    Mutation(
        "letters of records that are not ours any more",
        (
            Edit(f"{_PIPELINE}/letters.py", "            if ticket.is_void:\n                continue\n", ""),
            Edit(
                f"{_PIPELINE}/letters.py",
                "deque((ticket, end) for ticket, end in self._waiting if not ticket.is_void)",
                "deque(self._waiting)",
            ),
        ),
        (f"{_HANDLER}test_a_letter_of_a_record_that_is_not_ours_any_more_keeps_no_place_from_others",),
    ),
    mutation(
        "a dead letter given up after a failed write",
        "worker/deadletters/writer.py",
        "            return False\n        self._succeeded(message.key)",
        "            return True\n        self._succeeded(message.key)",
        "tests/deadletters/test_writer.py::test_a_write_that_fails_for_an_hour_is_written_after_it",
    ),
    mutation(
        "mapping not all-or-nothing: a rule that cannot be mapped is left out",
        "worker/mapping/mapper.py",
        """                if _matches(compiled.rule, plan.for_when, view):
                    made.append(_call(compiled, _results(compiled, plan.for_values, view), source, view, 0))""",
        """                try:
                    if _matches(compiled.rule, plan.for_when, view):
                        made.append(_call(compiled, _results(compiled, plan.for_values, view), source, view, 0))
                except Unmappable:
                    continue""",
        "tests/mapping/test_mapper.py::test_one_rule_that_fails_keeps_all_calls_of_the_record_from_being_made",
    ),
    mutation(
        "mapping not all-or-nothing: the second event of a record is forgotten",
        f"{_PIPELINE}/handler.py",
        "calls = tuple(call for event in events for call in calls_of(record, event))",
        "calls = calls_of(record, events[0]) if events else ()",
        f"{_HANDLER}test_a_record_of_several_events_makes_the_calls_of_all_or_none",
    ),
)

# --- lanes ----------------------------------------------------------------------------------------------------------

_OF_LANES = (
    Mutation(
        "a lane of two",
        (
            Edit(
                f"{_PIPELINE}/lanes.py",
                "lane = site.lanes.get(call.uid)\n        if lane is None:\n            lane",
                "key = f'{call.uid}/{job.ticket.offset % 2}'\n        lane = site.lanes.get(key)\n"
                "        if lane is None:\n            lane",
            ),
            Edit(f"{_PIPELINE}/lanes.py", "= site.lanes[call.uid] = Lane(call.uid)", "= site.lanes[key] = Lane(key)"),
        ),
        (f"{_LANES}test_calls_of_one_user_are_made_one_at_a_time_and_in_order",),
    ),
    mutation(
        "the newest call of a user first",
        f"{_PIPELINE}/lanes.py",
        "        else:\n            lane.jobs.append(job)\n        site.jobs += 1",
        "        else:\n            lane.jobs.insert(1, job)\n        site.jobs += 1",
        f"{_LANES}test_calls_of_one_user_are_made_one_at_a_time_and_in_order",
    ),
    mutation(
        "a call that is put off lets the next one of its user pass",
        f"{_PIPELINE}/lanes.py",
        "            lane.due_s = self._clock.monotonic_s() + later.wait_s\n",
        "            lane.due_s = self._clock.monotonic_s() + later.wait_s\n            lane.jobs.rotate(-1)\n",
        f"{_LANES}test_any_order_of_answers_keeps_every_users_order_and_loses_none[0]",
    ),
    mutation(
        "a release that comes too early forgotten",
        f"{_PIPELINE}/lanes.py",
        "            lane.released_early = True\n",
        "            pass\n",
        f"{_LANES}test_a_release_that_comes_before_the_hold_is_not_lost",
    ),
    mutation(
        "a lane that waits for a horizon never found again",
        f"{_PIPELINE}/lanes.py",
        "if lane in site.behind and lane.jobs[0].ticket.offset == offset:",
        "if lane in site.behind and offset % 2:",
        _WHATEVER,
    ),
    mutation(
        "the timer of a call that was dropped wakes the next one of its user too early",
        f"{_PIPELINE}/lanes.py",
        "            lane.stop_timer()\n            self._make_ready(site, lane)\n",
        "            self._make_ready(site, lane)\n",
        f"{_LANES}test_the_pause_of_a_call_that_was_dropped_does_not_shorten_the_next_ones",
    ),
    mutation(
        "the result of a void record heard",
        f"{_PIPELINE}/lanes.py",
        "        if job.ticket.is_void:\n",
        "        if False:\n",
        f"{_LANES}test_a_result_that_comes_after_revocation_is_not_reported",
    ),
    mutation(
        "the user picked before the permit",
        f"{_PIPELINE}/lanes.py",
        """            permit = await site.sender.admit()
            lane = self._take_ready(site) if self._running.is_set() else None""",
        """            lane = self._take_ready(site) if self._running.is_set() else None
            permit = await site.sender.admit()""",
        f"{_LANES}test_the_user_is_picked_after_the_permit",
    ),
    mutation(
        "a permit kept that nobody uses",
        f"{_PIPELINE}/lanes.py",
        "                site.sender.give_back(permit)\n",
        "",
        f"{_LANES}test_a_permit_is_given_back_when_nobody_is_ready_any_more",
    ),
    mutation(
        "a drain that does not wait for what is in flight",
        f"{_PIPELINE}/lanes.py",
        "                if not self._count(partitions):\n                    return\n",
        "                if is_late:\n                    return\n",
        f"{_LANES}test_a_drain_waits_for_what_is_in_flight_even_when_its_time_is_over",
    ),
    mutation(
        "a flood that goes on making calls",
        f"{_PIPELINE}/engine.py",
        "            self._lanes.hold()\n",
        "",
        "tests/pipeline/test_engine.py::test_while_the_guard_holds_no_further_call_is_made",
    ),
)

OF_RECORDS: tuple[Mutation, ...] = (*_OF_PROGRESS, *_OF_LETTERS, *_OF_LANES)
