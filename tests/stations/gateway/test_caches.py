"""Marks, threads, shelves: which prompts begin alike, and what is believed of an instance's cache."""

import random

from hypothesis import given
from hypothesis import strategies as st
from tests.makers import make_offer

from penstock.gateway.anchors import LADDER, WINDOW_BYTES, Threads, marks_of
from penstock.gateway.choice import Asking, Chooser, Prompt
from penstock.gateway.field import Field
from penstock.gateway.instances import EXPECTED_MAX, Expected, Instance
from penstock.gateway.shelves import GHOSTS_MAX, LIVE_MAX, Memory, Returns, Shelf
from penstock.sim.study.caches import Cache
from penstock.spec.canon import from_plain
from penstock.spec.messages import Offer
from penstock.spec.routing import Need
from penstock.spec.units import PPM


def instance(name: str = "m-1", **changes: object) -> Instance:
    return Instance(from_plain(Offer, make_offer(instance=name, **changes).body))


def test_the_ladder_rises_and_covers_every_byte_of_what_is_short() -> None:
    assert list(LADDER) == sorted(set(LADDER))
    assert LADDER[0] == 256
    pairs = zip((0, *LADDER), LADDER, strict=False)
    assert all(end - begin <= WINDOW_BYTES for begin, end in pairs if end <= 5_000)


@given(st.binary(max_size=20_000), st.binary(max_size=20_000))
def test_what_is_appended_leaves_the_earlier_marks_as_they_are(before: bytes, more: bytes) -> None:
    marks = marks_of(before, "c")
    assert marks_of(before + more, "c")[: len(marks)] == marks
    assert len(marks) == sum(length <= len(before) for length in LADDER)


def test_a_difference_changes_every_mark_behind_it_and_another_chute_all() -> None:
    chance = random.Random(3)
    prompt = chance.randbytes(5_000)
    marks = marks_of(prompt, "c")
    for _ in range(50):
        place = chance.randrange(LADDER[-1 + len(marks)])
        other = prompt[:place] + bytes([prompt[place] ^ 1]) + prompt[place + 1 :]
        same = sum(length <= place for length in LADDER[: len(marks)])
        found = marks_of(other, "c")
        assert found[:same] == marks[:same]
        assert not set(found[same:]) & set(marks)
    assert not set(marks_of(prompt, "d")) & set(marks)


def test_the_longest_beginning_in_common_finds_the_latest_thread() -> None:
    threads = Threads()
    older, newer = threads.new(), threads.new()
    threads.keep(older, [1, 2, 3])
    threads.keep(newer, [1, 2, 9])
    assert threads.find([1, 2, 3, 4]) == (older, 3)
    assert threads.find([1, 2, 9]) == (newer, 3)
    assert threads.find([1, 2]) == (newer, 2)
    assert threads.find([7]) == (None, 0)
    assert threads.find([]) == (None, 0)


def test_threads_are_bounded_and_the_one_silent_longest_goes() -> None:
    threads = Threads(3)
    kept = [threads.new() for _ in range(4)]
    for number, thread in enumerate(kept[:3]):
        threads.keep(thread, [number * 10, number * 10 + 1])
    threads.keep(kept[0], [0, 1, 2])
    threads.keep(kept[3], [30])
    assert len(threads) == 3
    assert threads.find([10, 11]) == (None, 0)
    assert threads.find([0, 1, 2]) == (kept[0], 3)


def test_the_last_prompt_is_believed_there_and_one_that_never_came_is_not() -> None:
    shelf = Shelf(Memory())
    assert shelf.believed(1, 500) == 0
    assert shelf.last(1) == (0, 0)
    shelf.put(1, 1_000, fresh=1_000, sequence=1, kind=0)
    assert shelf.believed(1, 500) == 500
    assert shelf.believed(1, 5_000) == 1_000
    assert shelf.last(1) == (1_000, 0)
    shelf.put(2, 300, fresh=300, sequence=2, kind=0)
    assert shelf.last(1) == (1_000, 1_300)


def learn(shelf: Shelf, capacity: int, *, seed: int = 1) -> None:
    """Serve threads on a real cache of this size until the shelf has seen enough."""
    chance = random.Random(seed)
    cache = Cache(capacity)
    for sequence in range(4_000):
        thread = 1 + min(int(chance.expovariate(1 / 40)), 400)
        tokens = 1_000
        cached = cache.reusable(thread, tokens)
        _, distance = shelf.last(thread)
        if distance:
            shelf.memory.saw(distance, is_hit=cached > 0)
        cache.put(thread, tokens)
        shelf.put(thread, tokens, fresh=tokens - cached, sequence=sequence, kind=0)


def test_how_much_an_instance_keeps_is_learned_from_what_it_says() -> None:
    for capacity in (10_000, 40_000):
        shelf = Shelf(Memory())
        learn(shelf, capacity)
        assert capacity // 2 <= shelf.memory.capacity_tokens <= capacity * 2


def test_an_engine_that_never_speaks_of_its_cache_teaches_nothing() -> None:
    memory = Memory()
    for _ in range(500):
        memory.saw(10_000, is_hit=False)
    assert set(memory.share_ppm) == {PPM}
    memory.saw(100, is_hit=True)
    for _ in range(500):
        memory.saw(10_000, is_hit=False)
    assert memory.capacity_tokens <= 10_000


def test_what_would_be_pushed_out_counts_by_how_soon_it_returns() -> None:
    learned, returns = Shelf(Memory()), Returns()
    learn(learned, 10_000)
    thread = Threads().new()
    for sequence in range(0, 320, 2):
        returns.used(thread, sequence, is_continued=sequence > 0)
    lost = {}
    for kind, sequence in ((1, 102), (1, 500), (4, 102)):
        shelf = Shelf(learned.memory)
        for number in range(1, 11):
            shelf.put(number, 1_000, fresh=1_000, sequence=100, kind=kind)
        lost[kind, sequence] = shelf.loss(5_000, thread=0, sequence=sequence, returns=returns)
        assert shelf.loss(500, thread=0, sequence=sequence, returns=returns) <= lost[kind, sequence]
    assert lost[1, 102] > 2_000
    assert lost[1, 500] == lost[4, 102] == 0
    empty = Shelf(Memory())
    assert empty.loss(10**9, thread=0, sequence=1, returns=returns) == 0


def test_shelves_are_bounded() -> None:
    shelf = Shelf(Memory())
    for thread in range(1, LIVE_MAX + GHOSTS_MAX + 100):
        shelf.put(thread, 1, fresh=1, sequence=thread, kind=0)
    known = sum(shelf.last(one)[0] > 0 for one in range(1, LIVE_MAX + GHOSTS_MAX + 100))
    assert known <= LIVE_MAX + GHOSTS_MAX


def test_expectations_are_bounded_and_told_once() -> None:
    one = instance()
    for number in range(EXPECTED_MAX + 10):
        one.expect(str(number), Expected(tokens=100, prompt_tokens=200, distance=400))
    one.told("0", cached=100, completion=5)
    assert not one.shelf.memory.is_reported
    one.told("50", cached=100, completion=5)
    assert one.shelf.memory.is_reported
    one.told("50", cached=0, completion=5)


def test_a_field_keeps_its_list_and_its_sums_when_instances_come_and_go() -> None:
    chance = random.Random(4)
    field = Field()
    there: list[Instance] = []
    for number in range(300):
        if there and chance.random() < 0.45:
            one = there.pop(chance.randrange(len(there)))
            field.remove(one)
            assert one.lessons is None
        else:
            one = instance(f"m-{number}")
            there.append(one)
            field.add(one)
        if there:
            field.gave(chance.choice(there), chance.randrange(1_000))
        assert sorted(x.name for x in field.instances) == sorted(x.name for x in there)
        assert field.given_us == sum(x.given_us for x in there)
        assert set(field.unmeasured) == {x.name for x in there}


def test_answers_teach_the_field_how_long_they_become() -> None:
    field = Field()
    assert field.completion(1_000, 600) == 300
    for _ in range(3):
        field.completed(1_000, 40)
    assert field.completion(1_000, 600) == 40
    assert field.completion(1_000, 8) == 8


def test_equal_instances_are_given_equal_loads_in_tokens() -> None:
    chance = random.Random(9)
    field, chooser = Field(), Chooser()
    for number in range(5):
        field.add(instance(f"m-{number}", room=1_000, valid_until_ms=10**9))
    need = Need(chute=field.instances[0].chute, price_max=None)
    given = dict.fromkeys((one.name for one in field.instances), 0)
    for number in range(4_000):
        tokens = int(chance.lognormvariate(8, 1))
        prompt = Prompt(marks=[number * 10, number * 10 + 1], tokens=tokens, completion_max=100)
        asking = Asking(need=need, now_ms=5, seed=chance.getrandbits(48))
        choice = chooser.choose(field, prompt, asking)
        assert choice is not None
        chooser.take(field, prompt, choice)
        given[choice.judged[0].instance.name] += tokens
    assert max(given.values()) * 5 < sum(given.values()) * 1.02
