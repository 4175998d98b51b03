from __future__ import annotations

import importlib.util
import sys

import pytest

from ce_rerank.errors import CeRerankError, InputError, UnavailableError, UsageError
from ce_rerank.measures import DEFAULT_MEASURES, aggregate, iter_values, parse_measures

pytest.importorskip("ir_measures", reason="needs ce-rerank[evaluate]")

GRADES = {"1": {"a": 1, "b": 0, "c": 2}, "2": {"a": 1}}
SCORES = {"1": {"b": 3.0, "a": 2.0}}


def values(*names: str) -> list[tuple[str, str, float]]:
    found = iter_values(parse_measures(names), GRADES, SCORES)
    return sorted((str(value.measure), value.query_id, value.value) for value in found)


def test_the_default_measures_are_measures() -> None:
    assert [str(measure) for measure in parse_measures(DEFAULT_MEASURES)] == list(DEFAULT_MEASURES)


def test_a_measure_has_a_value_for_every_judged_query_0_where_the_run_has_none() -> None:
    assert values("RR", "P@2") == [("P@2", "1", 0.5), ("P@2", "2", 0.0), ("RR", "1", 0.5), ("RR", "2", 0.0)]


def test_a_measure_that_is_named_twice_in_other_words_is_one() -> None:
    assert [str(measure) for measure in parse_measures(["NDCG@10", "P@5", "nDCG@10", " P(cutoff=5)"])] == [
        "nDCG@10",
        "P@5",
    ]


def test_most_measures_are_averaged_and_counts_are_summed() -> None:
    precision, retrieved = parse_measures(["P@5", "NumRet"])
    assert aggregate(precision, [0.25, 0.75]) == 0.5
    assert aggregate(retrieved, [3, 4]) == 7.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ndcg@10", "'ndcg@10' is no measure of ir_measures. Is it nDCG@10?"),
        ("nDGC@10", "'nDGC@10' is no measure of ir_measures. Is it nDCG@10 or α_nDCG@10?"),
        ("precision@5", "'precision@5' is no measure of ir_measures. Is it Precision@5?"),
        (
            "ndcg_cut_10",
            "'ndcg_cut_10' is no measure of ir_measures. What trec_eval calls ndcg_cut_10 is nDCG@10 here.",
        ),
        ("map", "'map' is no measure of ir_measures. What trec_eval calls map is AP here."),
        (
            "zzz",
            "'zzz' is no measure of ir_measures. Measures look like nDCG@10, RR@10, AP@100, R@100.",
        ),
        ("", "'' is no measure of ir_measures. Measures look like nDCG@10, RR@10, AP@100, R@100."),
        (
            "P@-1",
            "'P@-1' is no measure of ir_measures. "
            "Measures look like P@5, P(rel=2)@5 or nDCG(dcg='exp-log2')@10.",
        ),
        (
            "P(**{})@5",
            "'P(**{})@5' is no measure of ir_measures. "
            "Measures look like P@5, P(rel=2)@5 or nDCG(dcg='exp-log2')@10.",
        ),
        ("P", "P needs its cutoff. Write it like this: P@10."),
        ("SDCG@10", "SDCG@10 needs its max_rel. Write it like this: SDCG(max_rel=...)."),
        ("P@0", "P@0: cutoff cannot be 0. It is a whole number from 1."),
        ("nDCG@1.5", "nDCG@1.5: cutoff cannot be 1.5. It is a whole number from 1."),
        ("P(rel=0)@5", "P(rel=0)@5: rel cannot be 0. It is a whole number from 1."),
        ("P@9999999999", "P@9999999999: cutoff cannot be 9999999999. It is a whole number from 1."),
        ("P(depth=5)@5", "P(depth=5)@5: P has no depth. It has: cutoff, rel, judged_only."),
        ("nDCG(dcg='x')@5", "nDCG(dcg='x')@5: dcg cannot be 'x'. It is one of: 'log2', 'exp-log2'."),
        ("P(judged_only=1)@5", "P(judged_only=1)@5: judged_only cannot be 1."),
        (
            "nDCG(gains={1:'x'})@5",
            "nDCG(gains={1:'x'})@5 cannot be calculated: Expected relevance to be integer.",
        ),
        (
            "NumRel(rel=2)",
            "NumRel(rel=2): nothing behind ir_measures calculates this measure in this form.",
        ),
    ],
)
def test_a_measure_that_means_nothing_is_refused_with_the_way_out(name: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_measures([name])
    assert str(raised.value) == message


@pytest.mark.parametrize(
    "name", ["official", "all_trec", "(" * 5000, "P@5; import os", "P\0", "nDCG@{[1]: 2}"]
)
def test_whatever_is_named_is_refused_and_nothing_is_printed(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError):
        parse_measures([name])
    assert capfd.readouterr() == ("", "")


def test_no_measure_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^No measure is named\. Name one, for example nDCG@10\.$"):
        parse_measures([])


@pytest.mark.skipif(importlib.util.find_spec("cwl") is not None, reason="cwl_eval is installed")
def test_a_measure_whose_program_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(UnavailableError) as raised:
        parse_measures(["RBP(rel=1)"])
    assert str(raised.value) == (
        "RBP(rel=1) is calculated by cwl_eval, which is not installed. "
        "Install it: pip install ir-measures[cwl_eval]"
    )


def test_without_ir_measures_the_install_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    with pytest.raises(UnavailableError) as raised:
        parse_measures(["nDCG@10"])
    assert raised.value.hint == "Install it: pip install 'ce-rerank[evaluate]'"


def test_gains_of_their_own_change_no_other_measure_that_is_asked_for_beside_them() -> None:
    plain, gains = "nDCG@10", "nDCG(gains={0:0,1:1,2:9})@10"
    alone = values(plain) + values(gains)
    assert alone[0][2] != alone[2][2]
    assert sorted(values(plain, gains)) == sorted(values(gains, plain)) == sorted(alone)


def gdeval_measure() -> object:
    try:
        (measure,) = parse_measures(["nDCG(dcg='exp-log2')@10"])
    except CeRerankError:
        pytest.skip("gdeval needs perl")
    return measure


def test_gdeval_is_not_given_grades_that_it_dies_of(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"^The judgements go up to 5, and gdeval, .* takes 4 at most\."):
        list(iter_values([gdeval_measure()], {"1": {"a": 5}}, {"1": {"a": 1.0}}))
    assert capfd.readouterr() == ("", "")


def test_gdeval_is_not_given_ids_that_it_takes_for_two_columns() -> None:
    with pytest.raises(InputError, match=r"^The document id 'a b' has a space in it, and gdeval, "):
        list(iter_values([gdeval_measure()], {"1": {"a": 1}}, {"1": {"a b": 1.0}}))


def test_what_a_measure_cannot_be_calculated_from_is_said() -> None:
    # Accuracy divides by the number of documents that are not relevant: here none.
    with pytest.raises(
        InputError, match=r"^ir_measures cannot calculate Accuracy .* \(ZeroDivisionError: .*\)\.$"
    ):
        list(iter_values(parse_measures(["Accuracy"]), {"1": {"a": 1}}, {"1": {"a": 1.0}}))
