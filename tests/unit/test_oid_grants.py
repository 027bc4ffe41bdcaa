"""The set of oids that a client was given and has not used."""

import itertools
import random

import pytest

from durus.oid import oid_from_int
from durus.sharing.oid_grants import OidGrants


@pytest.mark.spec("TXN-24")
@pytest.mark.parametrize("seed", range(10))
def test_grants_are_a_set_of_oids(seed: int) -> None:
    chance = random.Random(seed)
    grants, model = OidGrants(), set[bytes]()
    numbers = [*range(40), *range(1000, 1060), 1 << 20, (1 << 63) + 5]
    for _ in range(200):
        oids = [oid_from_int(number) for number in chance.sample(numbers, 5)]
        if chance.random() < 0.5:
            new = [oid for oid in oids if oid not in model]
            grants.add(new)
            model.update(new)
        elif chance.random() < 0.5:
            assert [grants.add_new(oid) for oid in oids] == [oid not in model for oid in oids]
            model.update(oids)
        elif chance.random() < 0.5:
            first = list(itertools.takewhile(lambda oid: oid not in model, oids))
            assert grants.add_all_new(oids) == (len(first) == len(oids))
            model.update(first)
        else:
            grants.discard(oids)
            model.difference_update(oids)
        assert grants.count == len(model)
        assert {oid for oid in map(oid_from_int, numbers) if oid in grants} == model
        assert sorted(grants) == sorted(model)


def test_count_is_right_again_after_a_recount() -> None:
    grants = OidGrants()
    grants.add(oid_from_int(number) for number in range(1020, 1030))
    grants.count = 0
    grants.recount()
    assert grants.count == 10


def test_used_oids_take_no_memory() -> None:
    grants = OidGrants()
    oids = [oid_from_int(number) for number in range(5000)]
    grants.add(oids)
    grants.discard(oids)
    assert not grants._blocks
