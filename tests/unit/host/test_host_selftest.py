from manager.host.reporting.self_test import SelfTest


def test_an_agent_that_receives_its_messages_passes() -> None:
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


def test_an_agent_that_sends_and_receives_nothing_fails() -> None:
    now = [0.0]
    test = SelfTest(10, clock=lambda: now[0])
    for _ in range(7):
        assert not test.failed()
        test.sent()
        now[0] += 9
    assert test.failed()


def test_an_outage_without_sent_messages_is_not_a_failure() -> None:
    now = [0.0]
    test = SelfTest(10, clock=lambda: now[0])
    test.sent()
    test.received()
    now[0] += 1000
    assert not test.failed()


def test_an_agent_with_busy_threads_does_not_fail() -> None:
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


def test_a_lack_of_file_descriptors_is_distinguished_from_an_outage() -> None:
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
