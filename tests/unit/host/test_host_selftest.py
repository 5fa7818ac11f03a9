from manager.host.reporting.self_test import SelfTest


def test_an_agent_that_hears_itself_is_well() -> None:
    now = [0.0]
    test = SelfTest(10, clock=lambda: now[0])
    assert test.received_seconds_ago is None
    for _ in range(20):
        test.sent()
        now[0] += 10
        test.received()
    assert not test.failed()
    now[0] += 3
    assert test.received_seconds_ago == 3


def test_one_that_sends_for_long_and_hears_nothing_is_deaf() -> None:
    now = [0.0]
    test = SelfTest(10, clock=lambda: now[0])
    for _ in range(7):
        assert not test.failed()
        test.sent()
        now[0] += 9
    assert test.failed()


def test_an_outage_in_which_nothing_can_be_sent_is_no_deafness() -> None:
    now = [0.0]
    test = SelfTest(10, clock=lambda: now[0])
    test.sent()
    test.received()
    now[0] += 1000
    assert not test.failed()


def test_one_whose_threads_are_all_taken_is_busy_and_not_deaf() -> None:
    now = [0.0]
    test = SelfTest(10, clock=lambda: now[0])
    for _ in range(40):
        test.begin_command()
    for _ in range(20):
        test.sent()
        now[0] += 10
        assert not test.failed()
    for _ in range(40):
        test.end_command()
    assert not test.failed()
    now[0] += 61
    assert test.failed()


def test_one_that_may_open_no_file_for_long_is_short_and_one_whose_redis_is_away_is_not() -> None:
    now = [0.0]
    test = SelfTest(1.0, clock=lambda: now[0])

    def wrapped() -> BaseException:
        try:
            try:
                raise OSError(24, "Too many open files")
            except OSError as error:
                raise ConnectionError("Error 24 connecting to x") from error
        except ConnectionError as error:
            return error

    for _ in range(20):
        test.not_sent(ConnectionError("refused"))
        now[0] += 1
    assert not test.out_of_files()
    test.not_sent(wrapped())
    now[0] += 5
    assert not test.out_of_files()
    test.sent()
    test.not_sent(wrapped())
    now[0] += 7
    assert test.out_of_files()
    test.not_sent(ConnectionError("refused"))
    assert not test.out_of_files()
