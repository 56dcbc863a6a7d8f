import pytest
import torch

from sgekit.analysis.capture import GateRecord
from sgekit.analysis.survey import BINS, LayerSurvey, class_selectivity


def record(images: int, size: tuple[int, int] = (4, 5)) -> GateRecord:
    before = torch.rand(images, 3, *size) * 10
    gate = torch.rand(images, 3, *size)
    return GateRecord(before, gate, before * gate)


def test_sums_of_batches_are_those_of_the_whole() -> None:
    torch.manual_seed(0)
    parts = [record(4), record(7)]
    survey = LayerSurvey()
    for part in parts:
        survey.add(part)
    gate = torch.cat([part.gate for part in parts]).double()
    after = torch.cat([part.after for part in parts]).double()
    close = torch.testing.assert_close
    close(survey.mean("gate"), gate.mean((0, 2, 3)), atol=1e-6, rtol=1e-6)
    close(survey.mean("lowest"), gate.amin((2, 3)).mean(0))
    flat = gate.flatten(2)
    spread = (flat.std(2, correction=0) / flat.mean(2)).mean(0)
    close(survey.mean("selectivity"), spread, atol=1e-6, rtol=1e-6)
    variance = after.transpose(0, 1).flatten(1).var(1, correction=0)
    close(survey.variance("after"), variance, atol=1e-4, rtol=1e-5)
    assert (survey.images, survey.positions, survey.size) == (11, 220, (4, 5))


def test_maps_of_several_sizes_weigh_by_their_positions() -> None:
    small, large = record(1, (2, 2)), record(1, (6, 6))
    survey = LayerSurvey()
    survey.add(small)
    survey.add(large)
    every = torch.cat([r.before.flatten(2) for r in (small, large)], 2)[0].double()
    torch.testing.assert_close(
        survey.variance("before"), every.var(1, correction=0), atol=1e-5, rtol=1e-5
    )
    assert survey.size == (6, 6)


def test_the_histogram_counts_every_eighth_length_and_loses_none() -> None:
    survey = LayerSurvey()
    first = record(8)
    survey.add(first)
    later = record(8)
    survey.add(GateRecord(later.before * 100, later.gate, later.after * 100))
    each = -(-8 * 3 * 20 // 8)
    assert survey.histogram["before"].sum() == 2 * each
    assert len(survey.histogram["after"]) == BINS
    assert survey.histogram["before"][-1] > 0  # beyond the first batch's range


def test_class_means_and_selectivity() -> None:
    after = torch.zeros(4, 3, 2, 2)
    after[:2, 0] = 6.0  # group 0 answers to class 0 alone, group 1 to both, group 2 to none
    after[:, 1] = 2.0
    survey = LayerSurvey()
    survey.add(GateRecord(after, torch.ones_like(after), after), torch.tensor([0, 0, 2, 2]), 3)
    means = survey.class_means()
    assert means is not None
    assert means.tolist() == [[6, 2, 0], [0, 0, 0], [0, 2, 0]]
    assert survey.class_images is not None
    assert class_selectivity(means, survey.class_images).tolist() == pytest.approx([1, 0, 0])
    assert class_selectivity(means[:1], torch.ones(1)).tolist() == [0, 0, 0]


def test_without_labels_there_are_no_class_means() -> None:
    survey = LayerSurvey()
    survey.add(record(2))
    assert survey.class_means() is None
