"""What the delivery promises of calls: permits, answers, evidence, quota; and what Kafka's client must be kept from."""

from __future__ import annotations

from tests.mutations.mutation import Edit, Mutation, mutation

_DELIVERY, _PIPELINE, _KAFKA = "worker/delivery", "worker/pipeline", "worker/kafka"
_LADDER, _SENDER, _TROUBLE = (
    "tests/delivery/test_ladder.py::",
    "tests/delivery/test_sender.py::",
    "tests/delivery/test_site_trouble.py::",
)

# --- permits and the lease ---------------------------------------------------------------------------------------

_OF_GATES = (
    mutation(
        "a permit lost with who waited for it",
        f"{_DELIVERY}/gate.py",
        "                self.give_back(turn.result())\n",
        "                pass\n",
        "tests/delivery/test_sender.py::test_a_permit_that_falls_due_as_its_waiter_is_cancelled_goes_to_the_next",
    ),
    Mutation(
        "sign before the permit",
        (
            Edit(
                f"{_DELIVERY}/sender.py",
                "            permit = await self._gate.admit_call()\n",
                "            self._signer.signed_s = self._clock.now_s()\n"
                "            permit = await self._gate.admit_call()\n",
            ),
            Edit(
                f"{_DELIVERY}/signer.py",
                "self._clock.now_s() + self.site_clock.offset_s",
                "getattr(self, 'signed_s', self._clock.now_s()) + self.site_clock.offset_s",
            ),
        ),
        (f"{_SENDER}test_a_request_does_not_age_while_it_waits_for_its_permit",),
    ),
    mutation(
        "no lease before a byte",
        f"{_DELIVERY}/sender.py",
        "        if not self.may_write():\n            attempt.is_withdrawn = True",
        "        if False:\n            attempt.is_withdrawn = True",
        f"{_SENDER}test_a_request_that_may_not_be_written_is_put_off_and_blames_nobody",
    ),
    mutation(
        "no lease before a connection",
        f"{_DELIVERY}/sender.py",
        "            if self.may_write():\n                return permit",
        "            if True:\n                return permit",
        f"{_SENDER}test_without_a_lease_nobody_is_admitted_and_no_permit_is_lost",
    ),
    mutation(
        "a lease that forgets how long an attempt may take",
        "worker/wiring.py",
        "clock.monotonic_s() + attempt_s < source.lease_valid_until_s()",
        "clock.monotonic_s() < source.lease_valid_until_s()",
        "tests/test_wiring.py::test_an_attempt_starts_only_if_it_ends_within_the_lease",
    ),
)

# --- what answers mean, and what is done about those that do not come ------------------------------------------------

_OF_ANSWERS = (
    mutation(
        "answers of the log about a call in doubt kept in the common cache only",
        f"{_DELIVERY}/inquiry.py",
        "(*doubt.looked, *seen)",
        "seen",
        f"{_LADDER}test_more_users_in_doubt_than_answers_are_kept_for_are_all_decided",
    ),
    mutation(
        "a call in doubt sent again before a commit has told of it",
        f"{_DELIVERY}/ladder.py",
        "leaves_entries(delivery.call) and not is_told:",
        "False:",
        f"{_LADDER}test_a_call_is_sent_again_unasked_only_once_the_group_knows_that_it_may_have_been_made",
    ),
    mutation(
        "a suspect made again undecided, and nothing told of it",
        f"{_DELIVERY}/ladder.py",
        "            self._may_be_many(delivery, doubt)  # also",
        "            pass  # also",
        f"{_LADDER}test_a_suspect_is_sent_again_unasked_only_once_the_group_knows_that_it_may_be[is forbidden]",
    ),
    mutation(
        "a call that this process made itself forgotten with the partition",
        f"{_DELIVERY}/ladder.py",
        "if doubt.is_earlier and self._inquiry.remembers(delivery):",
        "if False:",
        f"{_LADDER}test_a_call_that_this_process_has_made_itself_is_neither_asked_about_nor_made_again",
    ),
    mutation(
        "every entry of a suspect's kind taken for its own, however often it may have been made",
        f"{_DELIVERY}/inquiry.py",
        "if earlier is None or earlier.recent is None or earlier.recent.copies_untold:",
        "if False:",
        f"{_LADDER}test_what_an_owner_before_may_have_made_again_untold_explains_no_other_call",
    ),
    mutation(
        "403004 read as success",
        "worker/gigya/error_codes.py",
        '(403004, "duplicate nonce", "duplicate_nonce",',
        '(403004, "duplicate nonce", "ok",',
        f"{_LADDER}test_a_duplicate_nonce_is_never_read_as_a_success",
        "tests/gigya/test_replies.py::test_each_code_has_its_verdict",
    ),
    mutation(
        "403003 read as a dead letter",
        "worker/gigya/error_codes.py",
        '(403003, "invalid request signature", "invalid_signature",',
        '(403003, "invalid request signature", "invalid_parameter_value",',
        f"{_TROUBLE}test_a_secret_revoked_for_twenty_seconds_under_load_loses_and_fails_nothing",
        "tests/gigya/test_replies.py::test_each_code_has_its_verdict",
    ),
    mutation(
        "500001 read as a refusal",
        "worker/gigya/error_codes.py",
        '(500001, "general server error", "server_error",',
        '(500001, "general server error", "invalid_parameter_value",',
        "tests/gigya/test_replies.py::test_each_code_has_its_verdict",
    ),
    mutation(
        "no answer read as never arrived",
        f"{_DELIVERY}/transport.py",
        'return NoReply(_named(error, _AFTER_SEND, "no_reply"), may_have_arrived=True)',
        'return NoReply(_named(error, _AFTER_SEND, "no_reply"), may_have_arrived=False)',
        "tests/delivery/test_transport.py::test_a_reset_before_the_answer_may_have_arrived_and_is_not_sent_again",
    ),
    mutation(
        "400124 after a lost answer read as capped",
        f"{_DELIVERY}/ladder.py",
        "        if doubt is None or outcome.kind is OutcomeKind.DELIVERED:\n",
        "        if doubt is None or outcome.kind in (OutcomeKind.DELIVERED, OutcomeKind.CAPPED):\n",
        f"{_LADDER}test_a_final_refusal_after_an_attempt_that_was_executed_is_a_delivery[400124]",
    ),
    mutation(
        "a suspect made without a question",
        f"{_DELIVERY}/sender.py",
        "if delivery.suspect and not delivery.attempts and delivery.doubt is None:",
        "if False:",
        f"{_LADDER}test_a_suspect_is_asked_about_before_its_first_attempt_and_sent_if_it_is_not_there",
    ),
    mutation(
        "the log asked once only",
        f"{_DELIVERY}/ladder.py",
        "elif len(settled) >= doubt.asks_needed and says is LogSays.ABSENT:",
        "elif settled and says is LogSays.ABSENT:",
        f"{_LADDER}test_a_suspect_is_asked_about_before_its_first_attempt_and_sent_if_it_is_not_there",
    ),
    Mutation(
        "the log given no time to settle",
        (
            Edit(
                f"{_DELIVERY}/ladder.py",
                "settled_s = doubt.asked_from_s + self._settings.log_settle_s\n",
                "settled_s = doubt.asked_from_s\n",
            ),
            Edit(f"{_DELIVERY}/ladder.py", "due_s = doubt.asked_from_s + settle_s\n", "due_s = doubt.asked_from_s\n"),
        ),
        (f"{_LADDER}test_a_call_that_the_log_does_not_show_twice_is_sent_again_with_the_same_nonce",),
    ),
    mutation(
        "the entry of another call of the user taken for this one's",
        f"{_DELIVERY}/inquiry.py",
        "if noted.place != place and noted.from_s <= snapshot.taken_s:",
        "if False:",
        f"{_LADDER}test_the_entry_of_the_same_users_call_before_is_not_taken_for_this_ones",
    ),
    mutation(
        "other writers of the site not thought of",
        f"{_DELIVERY}/ladder.py",
        "is_shared=means.site.other_writers,",
        "is_shared=False,",
        f"{_LADDER}test_where_others_write_an_entry_proves_nothing_and_its_absence_still_does",
    ),
    mutation(
        "a possible duplicate not counted",
        f"{_DELIVERY}/ladder.py",
        "            self._means.metrics.possible_duplicates.labels(self._means.site.name).inc()\n",
        "            pass\n",
        f"{_LADDER}test_a_possible_duplicate_is_counted_and_logged_before_it_is_written",
    ),
    mutation(
        "a resend not said before its first byte",
        f"{_DELIVERY}/sender.py",
        "        if attempt.delivery.may_be_executed or attempt.delivery.doubt is not None:\n",
        "        if False:\n",
        f"{_LADDER}test_a_possible_duplicate_is_counted_and_logged_before_it_is_written",
    ),
    mutation(
        "policy before evidence",
        f"{_DELIVERY}/ambiguity.py",
        "    if doubt.says is None and can_ask:\n        return Move.ASK_LOG\n",
        "",
        f"{_LADDER}test_a_call_that_the_log_shows_is_delivered_and_not_sent_again",
    ),
    mutation(
        "a stale call in doubt not asked about",
        f"{_DELIVERY}/ambiguity.py",
        "    if doubt.says is None and can_ask:\n",
        "    if doubt.says is None and can_ask and not is_stale:\n",
        f"{_LADDER}test_a_call_that_turns_stale_in_doubt_is_asked_about[there-delivered-False]",
    ),
    mutation(
        "a 403004 followed by the same nonce",
        f"{_DELIVERY}/ambiguity.py",
        "is_first_copy = nonces_are_known and not doubt.has_arrived and nonce_serial == doubt.nonce_serial",
        "is_first_copy = nonces_are_known",
        f"{_LADDER}test_a_call_without_a_log_is_sent_again_with_its_nonce_and_then_with_the_next",
    ),
    mutation(
        "nonces not derived",
        f"{_DELIVERY}/signer.py",
        "if not nonce or not self.nonces_are_known:",
        "if True:",
        f"{_LADDER}test_a_call_that_the_log_does_not_show_twice_is_sent_again_with_the_same_nonce",
        f"{_LADDER}test_two_processes_give_one_call_the_same_nonce_and_other_calls_others",
    ),
    mutation(
        "refusals not counted into the nonce",
        f"{_DELIVERY}/sender.py",
        "            attempt.delivery.nonce_serial += 1  #",
        "            pass  #",
        f"{_LADDER}test_whatever_follows_a_refusal_carries_the_next_nonce",
    ),
    mutation(
        "one nonce for all calls of a record",
        f"{_DELIVERY}/nonces.py",
        '{timestamp_ms},{event},{item},{refusals},{texts}"',
        '{timestamp_ms},{event},{refusals},{texts}"',
        "tests/delivery/test_nonces.py",
    ),
)

# --- the site, its quota and its clock -------------------------------------------------------------------------------

_OF_SITES = (
    mutation(
        "an outage counting one user",
        f"{_DELIVERY}/hosts.py",
        "silence.uids.add(uid)",
        "silence.uids.add(f'{uid}{len(silence.uids)}')",
        f"{_TROUBLE}test_one_user_whose_calls_break_the_server_is_no_outage",
    ),
    mutation(
        "a row of silences that no answer breaks",
        f"{_DELIVERY}/hosts.py",
        "            self._silences.pop(host, None)\n\n    def is_silent_alone",
        "            pass\n\n    def is_silent_alone",
        "tests/delivery/test_hosts.py::"
        "test_a_host_is_silent_for_as_many_users_as_have_had_no_answer_since_its_last_one",
    ),
    mutation(
        "an outage that uses up the calls' budgets",
        f"{_DELIVERY}/sender.py",
        "            delivery.budget.refund(charge)\n",
        "            pass\n",
        f"{_TROUBLE}test_an_outage_gives_back_what_its_first_failures_took_from_budgets",
    ),
    mutation(
        "the timestamp not corrected by the site's clock",
        f"{_DELIVERY}/signer.py",
        "self._clock.now_s() + self.site_clock.offset_s",
        "self._clock.now_s()",
        f"{_SENDER}test_a_wrong_clock_is_corrected_from_the_date_header_and_the_call_signed_again",
    ),
    mutation(
        "one refusal enough for 403003 and 403005",
        f"{_DELIVERY}/asks.py",
        "is_second=accepted_in == self.epoch)",
        "is_second=True)",
        "tests/delivery/test_asks.py::test_the_first_acceptance_sends_a_call_again_and_the_second_decides_it",
    ),
    mutation(
        "an acceptance from before the refusal counted",
        f"{_DELIVERY}/asks.py",
        "if held.tick < started and held.uid != by_uid]",
        "if held.uid != by_uid]",
        "tests/delivery/test_asks.py::test_what_started_before_the_refusal_was_read_says_nothing_about_it",
    ),
    mutation(
        "a throttled call charged for it",
        f"{_DELIVERY}/sender.py",
        "        return Later(verdict.reason, 0.0)  # the gate makes it wait, as it does everybody\n",
        "        delivery = attempt.delivery\n        delivery.budget.attempts += 1\n"
        "        return Later(verdict.reason, 0.0)\n",
        f"{_SENDER}test_throttling_uses_no_budget_and_lowers_the_rate",
    ),
    mutation(
        "no window over the written requests",
        f"{_DELIVERY}/quota.py",
        "return max(self._slot_s - _EARLY_S, self._window_due_s(rate, now_s), self._hold_until_s)",
        "return max(self._slot_s - _EARLY_S, self._hold_until_s)",
        "tests/delivery/test_quota.py::test_a_request_that_hangs_before_it_is_written_counts_when_it_is_written",
    ),
    mutation(
        "permits that are not written yet left out of the window",
        f"{_DELIVERY}/quota.py",
        "excess = len(written) + len(pending) - size + 1",
        "excess = len(written) - size + 1",
        "tests/delivery/test_quota_whatever_happens.py::TestQuotaWhateverHappens",
    ),
    mutation(
        "a pace by the wall clock",
        f"{_DELIVERY}/gate.py",
        "not self.is_paused:\n            now_s = self._clock.monotonic_s()",
        "not self.is_paused:\n            now_s = self._clock.now_s()",
        "tests/delivery/test_quota_whatever_happens.py::"
        "test_a_wall_clock_that_is_set_again_and_again_changes_nothing_of_the_pace",
    ),
    mutation(
        "a low rate that recovers faster than its throttling is forgotten",
        f"{_DELIVERY}/quota.py",
        "min(_RECOVERY_SHARE * self._reference, _RECOVERY_PART * self._rate)",
        "_RECOVERY_SHARE * self._reference",
        "tests/delivery/test_quota.py::test_the_rate_settles_below_what_a_stricter_server_grants",
    ),
    mutation(
        "idleness saved up for a burst",
        f"{_DELIVERY}/quota.py",
        "late_from_s = now_s - _CREDIT_S if waited else now_s",
        "late_from_s = now_s - 60.0",
        "tests/delivery/test_quota.py::test_permits_are_even_and_idleness_saves_nothing_up",
    ),
    mutation(
        "the share not re-divided",
        f"{_PIPELINE}/group_quota.py",
        "            self._shares[site].read(rates[members.index(self._member)])\n",
        "",
        "tests/pipeline/test_group_quota.py::"
        "test_a_backlog_of_one_member_gets_nearly_all_and_an_even_load_is_divided_evenly",
    ),
    mutation(
        "more of the quota taken after one reading",
        f"{_DELIVERY}/shares.py",
        "READINGS_FOR_MORE = 2",
        "READINGS_FOR_MORE = 1",
        "tests/delivery/test_shares.py::test_less_is_taken_at_once_and_more_after_two_readings",
    ),
    mutation(
        "a UID in the log",
        "worker/delivery/site_log.py",
        "self._mark(delivery.call.uid)",
        "delivery.call.uid",
        "tests/delivery/test_sender.py::test_no_log_line_holds_a_uid_or_a_key",
    ),
)

# --- Kafka's client --------------------------------------------------------------------------------------------------

_SOURCE, _NAMES = "tests/contracts/test_source.py::", "tests/contracts/test_aiokafka_names.py::"
_OF_KAFKA = (
    mutation(
        "getmany() with an empty list",
        f"{_KAFKA}/source.py",
        "*(wanted or (NOWHERE,)), timeout_ms",
        "*wanted, timeout_ms",
        f"{_SOURCE}test_asking_for_nothing_hands_out_nothing_and_drops_nothing[kafka]",
        needs_broker=True,
    ),
    mutation(
        "auto_offset_reset left to the default",
        f"{_KAFKA}/source.py",
        '            auto_offset_reset="none",',
        "           ",
        f"{_SOURCE}test_an_offset_beyond_the_end_stops_the_partition[kafka]",
        needs_broker=True,
    ),
    mutation(
        "no lease before a commit",
        f"{_KAFKA}/source.py",
        "if self._clock.monotonic_s() >= membership.lease_valid_until_s():",
        "if False:",
        f"{_NAMES}test_without_a_lease_a_commit_waits_for_better_times",
        needs_broker=True,
    ),
    mutation(
        "a lease that counts from the answer of a heartbeat that was refused",
        f"{_KAFKA}/membership.py",
        'self._last_sign_s = float("-inf")  # the group has gone on without us',
        "self._last_sign_s = max(self._last_sign_s, sent_s)",
        f"{_NAMES}test_an_unknown_member_learns_from_its_heartbeat_that_the_lease_is_over",
        needs_broker=True,
    ),
    mutation(
        "a commit by somebody outside the group",
        f"{_KAFKA}/membership.py",
        "if (self._coordinator.generation, self._coordinator.member_id) != self._member:",
        "if False:",
        f"{_NAMES}test_a_commit_from_outside_the_group_is_refused_though_the_broker_would_take_it",
        needs_broker=True,
    ),
    mutation(
        "a commit of what was given back",
        f"{_KAFKA}/source.py",
        "if self._consumer is None or not self._owned.issuperset(positions):",
        "if self._consumer is None:",
        f"{_SOURCE}test_a_commit_of_what_was_given_back_is_refused[kafka]",
        needs_broker=True,
    ),
    mutation(
        "events of transactions that were taken back",
        f"{_KAFKA}/source.py",
        'isolation_level="read_committed",',
        'isolation_level="read_uncommitted",',
        f"{_NAMES}test_positions_pass_the_markers_of_transactions_and_taken_back_events_never_happened",
        needs_broker=True,
    ),
)

OF_CALLS: tuple[Mutation, ...] = (*_OF_GATES, *_OF_ANSWERS, *_OF_SITES, *_OF_KAFKA)
