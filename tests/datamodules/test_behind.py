"""Work in a thread: in order, waited for, and nothing that fails in it is lost."""

import threading

import pytest

from datamodules.behind import Behind


def test_items_are_worked_on_in_order_in_another_thread():
    seen, threads = [], set()

    def work(item):
        threads.add(threading.current_thread())
        seen.append(item)

    behind = Behind(work)
    for item in range(20):
        behind.put(item)
    behind.finish()
    assert seen == list(range(20))
    assert threading.main_thread() not in threads
    behind.put(20)
    behind.finish()
    assert seen[-1] == 20, "it can go on after it has finished"


def test_the_caller_goes_on_meanwhile_and_waits_when_too_much_waits():
    started, may_go_on, seen = threading.Event(), threading.Event(), []

    def work(item):
        started.set()
        may_go_on.wait(30)
        seen.append(item)

    behind = Behind(work, waiting=2)
    behind.put(0)
    assert started.wait(30)
    behind.put(1)
    behind.put(2)
    assert seen == []
    fourth = threading.Thread(target=behind.put, args=(3,))
    fourth.start()
    fourth.join(0.2)
    assert fourth.is_alive(), "a fourth item waits"
    may_go_on.set()
    fourth.join(30)
    behind.finish()
    assert seen == [0, 1, 2, 3]


def test_what_fails_is_raised_once_and_later_items_are_let_go():
    seen = []

    handed_over = threading.Event()

    def work(item):
        assert handed_over.wait(30)
        if item == 1:
            raise OSError("full")
        seen.append(item)

    behind = Behind(work, waiting=10)
    for item in range(3):
        behind.put(item)
    handed_over.set()
    with pytest.raises(OSError, match="full"):
        behind.finish()
    assert seen == [0]
    behind.finish()


def test_nothing_to_do_needs_no_thread():
    before = threading.active_count()
    Behind(print).finish()
    assert threading.active_count() == before
