"""Who fails again and again is left alone, longer each time, and tried by one request before all others come."""

from node.upstream.breaker import FIRST_REST_S, LONGEST_REST_S, MOST_FAILURES, PROBE_S, Breaker


def opened() -> Breaker:
    breaker = Breaker()
    for _ in range(MOST_FAILURES):
        breaker.failed(0)
    return breaker


def test_it_opens_after_a_few_failures_in_a_row() -> None:
    breaker = Breaker()
    for _ in range(MOST_FAILURES - 1):
        breaker.failed(0)
        assert breaker.state(0) == "closed"
    breaker.failed(0)
    assert breaker.state(FIRST_REST_S - 1) == "open"
    assert breaker.state(FIRST_REST_S) == "half open"


def test_one_probe_passes_at_a_time() -> None:
    breaker = opened()
    breaker.begin(FIRST_REST_S)
    assert breaker.state(FIRST_REST_S + 1) == "open"
    assert breaker.state(FIRST_REST_S + PROBE_S) == "half open", "a probe that was never heard of again is given up"


def test_a_failed_probe_doubles_the_rest_up_to_a_bound() -> None:
    breaker, now, rests = opened(), 0.0, []
    for _ in range(9):
        opened_at = now
        while breaker.state(now) == "open":
            now += 1
        rests.append(now - opened_at)
        breaker.begin(now)
        breaker.failed(now)
    assert rests[:3] == [FIRST_REST_S, 2 * FIRST_REST_S, 4 * FIRST_REST_S]
    assert rests[-1] == LONGEST_REST_S


def test_a_server_that_asks_for_a_rest_gets_it_at_once() -> None:
    breaker = Breaker()
    breaker.failed(0, at_least_s=30)
    assert (breaker.state(29), breaker.state(30)) == ("open", "half open")
