from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import pytest
from batch_fakes import FEW_TOKENS, GivenLists, NeighbourEngine, made_lists
from fakes import CountingEngine

from ce_rerank import InputError, Ranking, RankOptions, Reranker, UnavailableError, UsageError
from ce_rerank.batch.events import Checkpoint, RankedWindow, Shard, parse_shard
from ce_rerank.batch.run import BatchRun
from ce_rerank.types import Candidates, Document, Query

OPTIONS = RankOptions(scores="logit")


def ranked(run: BatchRun) -> list[RankedWindow]:
    with run:
        return list(run)


def results(windows: list[RankedWindow]) -> list[tuple[object, list[tuple[int, float]]]]:
    return [
        (ranking.query.id, [(hit.index, hit.score) for hit in ranking])
        for window in windows
        for ranking in window.rankings
    ]


@pytest.fixture
def touchy() -> Reranker:
    return Reranker.from_engine(NeighbourEngine())


def test_queries_are_ranked_in_order_exactly_as_rank_many_ranks_them(touchy: Reranker) -> None:
    lists = made_lists(30, 40)
    windows = ranked(BatchRun(touchy, GivenLists(lists), OPTIONS))
    expected: list[Ranking] = list(touchy.rank_many(lists, scores="logit"))
    assert [ranking for window in windows for ranking in window.rankings] == expected
    assert [number for window in windows for number in window.numbers] == list(range(1, 31))


def test_windows_are_pooled_and_double(counting_reranker: Reranker) -> None:
    windows = ranked(BatchRun(counting_reranker, GivenLists(made_lists(64, 64)), OPTIONS))
    assert [len(window.rankings) for window in windows] == [2, 4, 8, 16, 16, 16, 2]


def test_queries_without_documents_come_through(counting_reranker: Reranker) -> None:
    lists = [Candidates(Query("red"), []), *made_lists(1, 2), Candidates(Query("blue"), [])]
    windows = ranked(BatchRun(counting_reranker, GivenLists(lists), OPTIONS))
    assert [len(ranking) for window in windows for ranking in window.rankings] == [0, 2, 0]


def test_a_run_that_continues_at_any_checkpoint_gives_the_same_scores(touchy: Reranker) -> None:
    lists = made_lists(60, 40)
    whole = ranked(BatchRun(touchy, GivenLists(lists), OPTIONS))
    assert len(whole) == 5
    for place, window in enumerate(whole):
        assert window.checkpoint is not None
        rest = ranked(BatchRun(touchy, GivenLists(lists), OPTIONS, after=window.checkpoint))
        assert results(whole[: place + 1] + rest) == results(whole)
        assert [one.checkpoint for one in rest] == [one.checkpoint for one in whole[place + 1 :]]


def test_the_tally_goes_on_from_a_checkpoint(counting_reranker: Reranker) -> None:
    lists = [*made_lists(5, 40), Candidates(Query("red"), [Document(" "), Document("two " * 40)])]
    whole = ranked(BatchRun(counting_reranker, GivenLists(lists), OPTIONS))
    after = whole[0].checkpoint
    assert after is not None
    rest = ranked(BatchRun(counting_reranker, GivenLists(lists), OPTIONS, after=after))
    assert rest[-1].tally == whole[-1].tally
    tally = whole[-1].tally
    assert (tally.queries, tally.coverage.blank, tally.coverage.documents, tally.coverage.truncated) == (
        6,
        1,
        202,
        1,
    )


@pytest.mark.parametrize("change", ["text", "id", "field", "order", "fewer"])
def test_a_run_does_not_continue_on_other_input(counting_reranker: Reranker, change: str) -> None:
    lists = made_lists(12, 64)
    after = ranked(BatchRun(counting_reranker, GivenLists(lists), OPTIONS))[1].checkpoint
    assert after is not None
    assert after.items == 6
    first = lists[0].documents[0]
    changed = {
        "text": [
            Candidates(lists[0].query, [Document("nine", first.id), *lists[0].documents[1:]]),
            *lists[1:],
        ],
        "id": [Candidates(Query("red one", "other"), lists[0].documents), *lists[1:]],
        "field": [
            Candidates(
                lists[0].query, [Document(first.text, first.id, {"year": 1}), *lists[0].documents[1:]]
            ),
            *lists[1:],
        ],
        "order": [lists[1], lists[0], *lists[2:]],
        "fewer": lists[:5],
    }[change]
    with pytest.raises(UsageError, match="The input is not the one that the unfinished output was made from"):
        ranked(BatchRun(counting_reranker, GivenLists(changed), OPTIONS, after=after))


def test_what_follows_a_checkpoint_may_be_other_input(counting_reranker: Reranker) -> None:
    lists = made_lists(12, 64)
    after = ranked(BatchRun(counting_reranker, GivenLists(lists), OPTIONS))[0].checkpoint
    assert after is not None
    rest = ranked(BatchRun(counting_reranker, GivenLists(lists[:4]), OPTIONS, after=after))
    assert [ranking.query.id for window in rest for ranking in window.rankings] == ["q2", "q3"]


def test_shards_part_the_queries_by_place(counting_reranker: Reranker) -> None:
    lists = made_lists(7, 3)
    parts = [
        ranked(BatchRun(counting_reranker, GivenLists(lists), OPTIONS, shard=Shard(number, 3)))
        for number in (1, 2, 3)
    ]
    assert [[number for window in part for number in window.numbers] for part in parts] == [
        [1, 4, 7],
        [2, 5],
        [3, 6],
    ]
    whole = results(ranked(BatchRun(counting_reranker, GivenLists(lists), OPTIONS)))
    assert sorted(row for part in parts for row in results(part)) == sorted(whole)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "-1/3", "1/3/5", ""])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="Give I/N with I from 1 to N"):
        parse_shard(text)


class TestRowsThatAreNone:
    def items(self) -> list[Candidates | InputError]:
        lists = made_lists(5, 64)
        return [*lists[:3], InputError("hits.jsonl:4: broken."), *lists[3:]]

    def test_end_the_run_after_what_came_before(self, counting_reranker: Reranker) -> None:
        seen: list[RankedWindow] = []
        run = BatchRun(counting_reranker, GivenLists(self.items()), OPTIONS)
        with run, pytest.raises(InputError, match=r"hits\.jsonl:4: broken\."):
            seen.extend(run)
        assert [ranking.query.id for window in seen for ranking in window.rankings] == ["q0", "q1", "q2"]
        # The third query's window would have been longer: another run must rank it again to the same scores.
        assert [window.checkpoint is None for window in seen] == [False, True]
        assert not run.reached_end

    def test_or_are_left_out_and_counted(self, counting_reranker: Reranker) -> None:
        windows = ranked(BatchRun(counting_reranker, GivenLists(self.items()), OPTIONS, skip_bad_rows=True))
        assert [len(window.rankings) for window in windows] == [2, 3]
        assert [(str(bad.error), bad.text) for window in windows for bad in window.bad_rows] == [
            ("hits.jsonl:4: broken.", "its text")
        ]
        assert windows[-1].tally.bad_rows == 1

    def test_are_reported_by_one_shard_alone(self, counting_reranker: Reranker) -> None:
        items = [*self.items(), InputError("hits.jsonl:7: broken, too.")]
        reported = []
        for number in (1, 2, 3):
            shard = Shard(number, 3)
            for window in ranked(
                BatchRun(counting_reranker, GivenLists(items), OPTIONS, skip_bad_rows=True, shard=shard)
            ):
                reported += [str(bad.error) for bad in window.bad_rows]
        assert sorted(reported) == ["hits.jsonl:4: broken.", "hits.jsonl:7: broken, too."]

    def test_are_queries_too_long_for_the_model(self, counting_reranker: Reranker) -> None:
        long = Candidates(
            Query("red " * 30, "long", {"lang": "en"}, "hits.jsonl:2"),
            [Document("one", 1, {"id": 1, "text": "one"}), Document("two")],
        )
        lists = [*made_lists(1, 2), long, *made_lists(1, 2)]
        windows = ranked(BatchRun(counting_reranker, GivenLists(lists), OPTIONS, skip_bad_rows=True))
        (bad,) = windows[0].bad_rows
        assert str(bad.error).startswith("hits.jsonl:2: the query takes 33 of the model's 32 tokens")
        assert bad.text == (
            '{"lang": "en", "query_id": "long", "query": "' + "red " * 30 + '", '
            '"documents": [{"id": 1, "text": "one"}, "two"]}'
        )
        assert len(windows[0].rankings) == 2

    def test_can_be_read_again_though_a_corpus_keeps_no_text_beside_its_own(
        self, counting_reranker: Reranker
    ) -> None:
        fields = {"_id": "d", "title": "T", "n": 1}
        document = Document("T two", "d", fields, ("title", "text"))
        lists = [Candidates(Query("red " * 30, "q"), [document])]
        windows = ranked(BatchRun(counting_reranker, GivenLists(lists), OPTIONS, skip_bad_rows=True))
        (item,) = json.loads(windows[0].bad_rows[0].text)["documents"]
        assert item == {"_id": "d", "n": 1, "text": "T two"}

    def test_are_lists_with_a_document_that_may_not_be_cut(self, counting_reranker: Reranker) -> None:
        lists = [*made_lists(1, 2), Candidates(Query("red"), [Document("one " * 40, origin="h:2")])]
        options = RankOptions(long="error")
        windows = ranked(BatchRun(counting_reranker, GivenLists(lists), options, skip_bad_rows=True))
        assert [len(window.rankings) for window in windows] == [1]
        assert str(windows[0].bad_rows[0].error).startswith(
            "h:2: document 0 is longer than the model's 32 tokens"
        )

    def test_continue_like_others(self, counting_reranker: Reranker) -> None:
        def run(after: Checkpoint | None = None) -> list[RankedWindow]:
            more = {} if after is None else {"after": after}
            return ranked(
                BatchRun(counting_reranker, GivenLists(self.items()), OPTIONS, skip_bad_rows=True, **more)
            )

        whole = run()
        rest = run(whole[0].checkpoint)
        assert results(rest) == results(whole[1:])
        assert [window.checkpoint for window in rest] == [window.checkpoint for window in whole[1:]]
        assert [len(window.bad_rows) for window in rest] == [1]


def test_a_fault_of_the_model_ends_the_run_after_what_came_before(counting_reranker: Reranker) -> None:
    lists = [*made_lists(2, 64), Candidates(Query("red"), [Document("nan", origin="hits.jsonl:3")])]
    seen: list[RankedWindow] = []
    run = BatchRun(counting_reranker, GivenLists(lists), OPTIONS)
    with run, pytest.raises(UnavailableError, match=r"gave nan for hits\.jsonl:3"):
        seen.extend(run)
    assert len(seen) == 1


def test_a_pipe_that_pauses_is_ranked_as_it_comes(counting_reranker: Reranker) -> None:
    go_on = threading.Event()

    def slowly() -> Iterator[Candidates]:
        for candidates in made_lists(3, 2):
            yield candidates
            assert go_on.wait(5)
            go_on.clear()

    with BatchRun(counting_reranker, GivenLists(slowly(), may_pause=True), OPTIONS) as run:
        seen = []
        for window in run:
            seen.append([ranking.query.id for ranking in window.rankings])
            go_on.set()
    assert seen == [["q0"], ["q1"], ["q2"]]


def test_input_is_read_only_so_far_ahead(counting_reranker: Reranker) -> None:
    candidates = GivenLists(made_lists(4000, 10))
    with BatchRun(counting_reranker, candidates, OPTIONS) as run:
        next(iter(run))
        time.sleep(0.5)
        # Lists count as 320 tokens. A window was taken, two wait, one is held, and one is read ahead.
        assert candidates.drawn <= FEW_TOKENS * (1 / 8 + 1 / 4 + 1 / 2 + 1 + 1) / 320 + 10


def test_stopping_gives_what_is_ranked_and_no_more() -> None:
    engine = CountingEngine()
    candidates = GivenLists(made_lists(4000, 10))
    with BatchRun(Reranker.from_engine(engine), candidates, OPTIONS) as run:
        windows = iter(run)
        seen = [next(windows)]
        run.stop()
        started = time.monotonic()
        seen += windows
        assert time.monotonic() - started < 1
    assert len(seen) <= 4
    assert not run.reached_end


def test_leaving_early_ends_both_threads(counting_reranker: Reranker) -> None:
    with BatchRun(counting_reranker, GivenLists(made_lists(4000, 10)), OPTIONS) as run:
        next(iter(run))
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("ce-rerank")] == []


def test_progress_adds_up_to_the_number_of_documents(counting_reranker: Reranker) -> None:
    done: list[int] = []
    ranked(BatchRun(counting_reranker, GivenLists(made_lists(10, 30)), OPTIONS, on_progress=done.append))
    assert sum(done) == 300
