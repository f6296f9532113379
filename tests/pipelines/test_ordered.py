"""Results come in the order of the items, few are made ahead, and a failure is not lost."""

import threading

import pytest

from pipelines.ordered import map_on_ray, map_on_threads


def square(number):
    return number * number


def test_threads_keep_the_order():
    first_may_end = threading.Event()

    def work(number):
        if number == 0:
            assert first_may_end.wait(30)
        if number == 3:
            first_may_end.set()
        return number * number

    assert list(map_on_threads(work, range(50), num_threads=4)) == [n * n for n in range(50)]


def test_little_is_made_ahead():
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    results = map_on_threads(square, items(), num_threads=2)
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(taken) <= 5 + 4 * 2
    results.close()


def test_a_failure_is_raised_in_its_place():
    def work(number):
        if number == 2:
            raise OSError("away")
        return number

    results = map_on_threads(work, range(9), num_threads=3)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(OSError, match="away"):
        next(results)


@pytest.mark.usefixtures("ray_local")
def test_ray_gives_the_same():
    assert list(map_on_ray(square, range(20), num_tasks=3)) == [n * n for n in range(20)]
