"""The mutants of the webhook process. See `table`."""

from __future__ import annotations

from typing import Final

from tests.evidence.mutants.mutant import Mutant

_HERE: Final = "tests/projections/webhooks/"
WEBHOOK_MUTANTS: Final = (
    Mutant(
        "one good address is enough",
        "Not one address of a webhook's host may be private.",
        "projections/webhooks/guard.py",
        "if not all(may_reach(",
        "if not any(may_reach(",
        (_HERE + "test_guard.py::test_no_private_address_is_dialled",),
    ),
    Mutant(
        "the name is dialled",
        "The very address that was judged is dialled; a name may lead to another one a moment later.",
        "projections/webhooks/guard.py",
        "        return await self._inner.connect_tcp(last, port,",
        "        return await self._inner.connect_tcp(host, port,",
        (_HERE + "test_guard.py::test_a_name_that_flips_is_looked_up_once_and_that_address_is_dialled",),
    ),
    Mutant(
        "http for the internet",
        "Only networks that an operator allows are reached by http and at any port.",
        "projections/webhooks/posting.py",
        "        return self._local\n",
        "        return self._internet\n",
        (_HERE + "test_posting.py::test_what_only_a_local_network_may_take_goes_nowhere_else",),
    ),
    Mutant(
        "the end is overtaken",
        "What ends an order is sent, whatever comes after it.",
        "projections/webhooks/store.py",
        "WHERE w.state = 'PENDING' AND w.version < new.version AND w.event_type NOT IN ({_TERMINAL})",
        "WHERE w.state = 'PENDING' AND w.version < new.version AND '' NOT IN ({_TERMINAL})",
        (_HERE + "test_deliveries.py::test_the_end_of_an_order_is_never_overtaken",),
    ),
    Mutant(
        "two processes, twice as many",
        "The bound on attempts at an endpoint holds for all processes together.",
        "projections/webhooks/store.py",
        "    WHERE want.leased >= (",
        "    WHERE 1000000 >= (",
        (_HERE + "test_sending.py::test_a_lease_that_ran_out_is_somebody_elses",),
    ),
    Mutant(
        "a late failure undoes",
        "Of a delivery that another process has leased, a late failure changes nothing.",
        "projections/webhooks/store.py",
        "(d.state = 'PENDING' AND d.leased_until = lease) AS counts",
        "(d.state <> '') AS counts",
        (_HERE + "test_sending.py::test_a_lease_that_ran_out_is_somebody_elses",),
    ),
    Mutant(
        "no pause for the silent",
        "An endpoint that does not answer gets probes with pauses, not its whole backlog.",
        "projections/webhooks/rules.py",
        "    return max(spread_s(min(probe_s, PROBE_MAX_S), chance), ",
        "    return max(0.0, ",
        (
            _HERE + "test_rules.py::test_a_silent_endpoint_gets_probes_with_growing_pauses",
            _HERE + "test_sending.py::test_a_silent_endpoint_gets_probes_and_everything_when_it_is_back",
        ),
    ),
    Mutant(
        "the slow take all slots",
        "Endpoints that hang get half of the slots at most.",
        "projections/webhooks/lines.py",
        "in_flight_max // one_in for lane",
        "in_flight_max for lane",
        (_HERE + "test_lines.py::test_dead_endpoints_get_half_of_the_slots_at_most",),
    ),
    Mutant(
        "a change is not seen",
        "An endpoint gets the first event after it was made.",
        "projections/webhooks/handler.py",
        "        if changes != self._changes:",
        "        if False:",
        (_HERE + "test_deliveries.py::test_a_change_counts_for_the_next_event",),
    ),
    Mutant(
        "an old secret signs for ever",
        "A replaced secret signs until its time is over.",
        "projections/webhooks/signing.py",
        "if one.valid_until is None or one.valid_until > now]",
        "if one.sealed]",
        (_HERE + "test_posting.py::test_while_a_secret_is_replaced_both_verify",),
    ),
    Mutant(
        "quiet hours are not quiet",
        "In quiet hours nothing is sent.",
        "projections/webhooks/store.py",
        "        quiet_from IS NULL OR (kind = 'email'",
        "        kind <> '' OR (kind = 'email'",
        (_HERE + "test_preferences.py::test_quiet_hours_delay_and_conflate",),
    ),
    Mutant(
        "an address is told unasked",
        "An e-mail address is told nothing of orders before its owner has confirmed it.",
        "projections/webhooks/store.py",
        """    AND (kind <> 'email' OR confirmed_at IS NOT NULL)
ORDER BY endpoint_id""",
        """ORDER BY endpoint_id""",
        (_HERE + "test_mailing.py::test_an_unconfirmed_address_gets_a_code_and_no_orders",),
    ),
    Mutant(
        "what is skipped overtakes",
        "A version that its user did not want takes no other one's place.",
        "projections/webhooks/store.py",
        "            AND there.state <> 'SKIPPED'\n",
        "",
        (_HERE + "test_preferences.py::test_a_skipped_version_overtakes_nothing",),
    ),
    Mutant(
        "a stranger's mailbox is flooded",
        "An address gets three codes a day, whoever asks for them.",
        "order_api/notifications/store.py",
        "SET sent = c.sent + 1 WHERE c.sent < $2 RETURNING sent",
        "SET sent = c.sent + 1 WHERE $2 > 0 RETURNING sent",
        ("tests/order_api/notifications/test_notifications.py::test_nobody_has_others_flooded_with_codes",),
    ),
)
