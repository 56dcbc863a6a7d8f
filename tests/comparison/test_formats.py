import pytest

from sgekit.comparison import formats


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [(0.3, 1, "+0.3"), (-0.3, 1, "−0.3"), (0.04, 1, "0.0"), (-0.04, 1, "0.0"), (-1.25, 2, "−1.25")],
)
def test_signed(value: float, decimals: int, text: str) -> None:
    assert formats.signed(value, decimals) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (999_600, "1 M"), (1_234_567, "1.23 M"), (4.12e9, "4.12 G")],
)
def test_count(value: float, text: str) -> None:
    assert formats.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(12, "12"), (99, "99"), (134, "130"), (1_267, "1,300"), (84_210, "84,000")]
)
def test_rough(value: int, text: str) -> None:
    assert formats.rough(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (512, "512 B"), (1536, "1.5 KiB"), (340_000_000, "324 MiB"), (2**40, "1024 GiB")],
)
def test_size(value: int | None, text: str) -> None:
    assert formats.size(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(59.4, "59 s"), (59.6, "1 min 00 s"), (425, "7 min 05 s"), (12_000, "3 h 20 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert formats.duration(seconds) == text


def test_accuracy() -> None:
    assert formats.mean_sd(None, None) == "–"
    assert formats.mean_sd(0.7234, None) == "72.3 %"
    assert formats.mean_sd(0.7234, 0.0056) == "72.3 ± 0.6 %"


def test_only_none_is_renamed() -> None:
    assert [formats.display_name(name) for name in ("none", "sge")] == ["plain", "sge"]


@pytest.mark.parametrize(
    ("p", "text"), [(None, "–"), (0.0, "< 0.0001"), (0.0001, "0.0001"), (0.25, "0.2500")]
)
def test_p_value(p: float | None, text: str) -> None:
    assert formats.p_value(p) == text
