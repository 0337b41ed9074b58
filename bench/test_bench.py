"""The same cases and peers under pytest-benchmark, for its --benchmark-compare and --benchmark-compare-fail in CI.

All peers share one process here and are not interleaved. Use this to compare a peer with itself on another day; compare
peers with each other by `python -m bench run`.
"""

import pytest

from bench.cases import PREDICT, TRAIN
from bench.run import REFERENCE, peers_of
from bench.session import PeerError, Session

pytestmark = pytest.mark.filterwarnings("default")  # a peer's warnings are not errors


@pytest.fixture(scope="session")
def reference():
    """The article's result of a case, computed once."""
    known = {}

    def answer(case):
        if case.name not in known:
            known[case.name] = Session(REFERENCE[case.peers]).check(case)
        return known[case.name]

    return answer


@pytest.mark.parametrize("peer", peers_of("bench.peers"), ids=lambda module: module.rpartition(".")[2])
@pytest.mark.parametrize("case", [*TRAIN, PREDICT], ids=lambda case: case.name)
def test_case(case, peer, benchmark, reference):
    try:
        session = Session(peer)
    except PeerError as error:
        pytest.skip(str(error))
    about = session.about()
    if "cpu" not in about["devices"] or case.verb not in about["verbs"]:
        pytest.skip(f"{peer} does not {case.verb} on a CPU")
    assert case.agrees(session.check(case), reference(case))
    session.warm(case)
    benchmark.group = case.name
    benchmark.extra_info |= {"versions": about["versions"], "samples": case.rows, "batch": case.batch}
    benchmark.pedantic(session.call, rounds=case.rounds)
