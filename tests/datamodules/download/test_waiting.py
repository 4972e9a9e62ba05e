"""The order in which addresses are asked for."""

import random

from datamodules.download.waiting import Address, Waiting


def address(name, host):
    return Address(name, f"http://{host}/{name}", host)


def test_hosts_take_turns_and_none_has_more_than_its_share():
    waiting = Waiting(2, 0)
    for i in range(5):
        waiting.add(address(f"a{i}", "a"))
    waiting.add(address("b0", "b"))
    first = [waiting.take(0.0) for _ in range(3)]
    assert [found.id for found in first] == ["a0", "b0", "a1"]
    assert waiting.take(0.0) is None
    waiting.done("a")
    assert waiting.take(0.0).id == "a2"
    assert waiting.take(0.0) is None
    assert len(waiting) == 2


def test_what_waits_for_a_time_is_next_then():
    waiting = Waiting(1, 0)
    waiting.add_later(address("late", "a"), 5.0)
    waiting.add(address("soon", "a"))
    assert waiting.next_time() == 5.0
    assert waiting.take(0.0).id == "soon"
    waiting.add(address("other", "a"))
    assert waiting.take(6.0) is None
    waiting.done("a")
    assert waiting.take(6.0).id == "late"


def test_every_address_has_its_turn_once():
    random.seed(1)
    waiting, running, seen, most = Waiting(3, 0), [], [], 0
    pending = [address(str(i), random.choice("abcd")) for i in range(500)]
    while pending or running or len(waiting):
        for _ in range(random.randrange(4)):
            if pending:
                waiting.add(pending.pop())
        found = waiting.take(0.0)
        if found:
            running.append(found)
            seen.append(found.id)
        for host in "abcd":
            most = max(most, sum(each.host == host for each in running))
        if running and (not found or random.random() < 0.3):
            waiting.done(running.pop(random.randrange(len(running))).host)
    assert sorted(map(int, seen)) == list(range(500))
    assert most == 3


def test_a_host_is_dead_after_failures_in_a_row():
    waiting = Waiting(1, 3)
    for answered in (False, False, True, False, False):
        waiting.heard("a", answered)
        assert not waiting.is_dead("a")
    waiting.heard("a", False)
    assert waiting.is_dead("a")
    assert not waiting.is_dead("b")
    assert not Waiting(1, 0).is_dead("a")
