"""Freed memory is kept where the C library can be told to, and nothing is lost where it cannot."""

import ctypes

import pytest

from gateway.fleet import memory


class Library:
    """A C library; `answer` is what its `mallopt` returns, 1 for done as documented in mallopt(3)."""

    def __init__(self, answer):
        self.answer = answer
        self.told = {}

    def mallopt(self, name, value):
        self.told[name] = value
        return self.answer


@pytest.mark.parametrize(("answer", "kept"), [(1, True), (0, False)])
def test_all_of_it_is_set_since_setting_one_ends_the_librarys_own_guesses(monkeypatch, answer, kept):
    library = Library(answer)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    assert memory.keep_memory() is kept
    assert library.told == {-1: 32 * 2**20, -2: 2**20, -3: 4 * 2**20}


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert memory.keep_memory() is False


def test_a_statically_linked_interpreter_is_left_alone(monkeypatch):
    def no_library(_):
        raise OSError("no handle")

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    assert memory.keep_memory() is False
