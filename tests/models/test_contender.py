from typing import Literal

import pytest
import torch
from torch import nn

from sgekit.errors import InputError
from sgekit.models.contender import Contender, first_of, options_of, parse, split
from sgekit.modules import ATTENTION


class Odd(nn.Identity):
    """An attention with every type of option, and one that no text can give."""

    def __init__(
        self,
        channels: int,
        width: int | Literal["auto"] = "auto",
        rate: float = 0.5,
        wide: bool = True,
        *,
        least: int | None = None,
        kind: Literal["max", "mean"] = "max",
        inner: type[nn.Module] = nn.ReLU,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTENTION, "odd", Odd)


@pytest.mark.parametrize("name", ATTENTION)
def test_a_name_alone(name: str) -> None:
    assert parse(f" {name} ") == Contender(name)
    assert parse(name).text == parse(f"{name}()").text == name


def test_options_of_sge() -> None:
    known = set(options_of("sge"))
    ablations = {"group_channels", "weight_init", "bias_init", "normalize", "unbiased"}
    assert known == {"groups", "eps", "preserve"} | ablations
    assert "reduction" in options_of("se")
    assert options_of("none") == {}


def test_whether_the_function_is_kept_is_no_argument_of_the_layer() -> None:
    kept, naive = parse("sge(groups=8)"), parse("sge(preserve=false, groups=8)")
    assert naive.text == "sge(groups=8,preserve=false)"
    assert naive.arguments == kept.arguments == {"groups": 8}
    assert (kept.preserves, naive.preserves) == (True, False)
    assert not parse("simam(preserve=true)").preserves  # it can't
    assert [c.starts_neutral(trained=True) for c in (kept, naive)] == [True, False]
    assert [c.starts_neutral(trained=False) for c in (kept, naive)] == [False, False]
    assert parse("sge(preserve=true)").starts_neutral(trained=False)
    for trained in (True, False):
        with pytest.raises(InputError, match="simam can't start as one factor"):
            parse("simam(preserve=true)").starts_neutral(trained=trained)
    assert not parse("simam").starts_neutral(trained=True)
    with torch.device("meta"):
        assert parse("sge(preserve=true)").starts_neutral(trained=False)
    assert "preserve" not in options_of("sk")


def test_the_network_decides_what_a_convolution_takes() -> None:
    assert set(options_of("sk")) == {"groups", "reduction"}
    assert "dilation" in options_of("bam")


@pytest.mark.parametrize(
    ("text", "options", "canonical"),
    [
        ("sge(groups=8)", {"groups": 8}, "sge(groups=8)"),
        ("sge( groups = auto ,)", {"groups": "auto"}, "sge(groups=auto)"),
        (
            "sge(bias_init=0, weight_init=1e-3)",
            {"weight_init": 0.001, "bias_init": 0.0},
            "sge(weight_init=0.001,bias_init=0)",
        ),
        ("sge(normalize=No)", {"normalize": False}, "sge(normalize=false)"),
        ("sge(group_channels=none)", {"group_channels": None}, "sge(group_channels=none)"),
        ("se(reduction=4)", {"reduction": 4}, "se(reduction=4)"),
    ],
)
def test_options_are_read_by_their_types(
    text: str, options: dict[str, object], canonical: str
) -> None:
    contender = parse(text)
    assert contender.options == options
    assert {type(v) for v in contender.options.values()} == {type(v) for v in options.values()}
    assert contender.text == canonical
    assert parse(canonical) == contender


@pytest.mark.usefixtures("odd")
def test_every_type_of_option() -> None:
    assert list(options_of("odd")) == ["width", "rate", "wide", "least", "kind", "preserve"]
    contender = parse("odd(kind=mean,least=none,wide=0,rate=2,width=3)")
    assert contender.text == "odd(width=3,rate=2,wide=false,least=none,kind=mean)"
    for wrong, words in (
        ("width=wide", "takes auto or a whole number, not 'wide'"),
        ("rate=inf", "takes a number, not 'inf'"),
        ("wide=maybe", "takes true or false, not 'maybe'"),
        ("least=1.5", "takes none or a whole number, not '1.5'"),
        ("kind=min", "takes max or mean, not 'min'"),
        ("inner=ReLU", "no option 'inner'"),
    ):
        with pytest.raises(InputError, match=words):
            parse(f"odd({wrong})")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sgee", "no attention is named 'sgee'; did you mean 'sge'"),
        ("sgee(groups=8)", "no attention is named 'sgee'"),
        ("sge(group=8)", "no option 'group'; did you mean 'groups'.*allowed: groups, eps, "),
        ("none(groups=8)", "none has no option 'groups'; it takes none"),
        ("sge(channels=8)", "no option 'channels'"),
        ("sge(channel_dim=-1)", "no option 'channel_dim'"),
        ("sge(groups=8", "not written as NAME"),
        ("sge(groups=8)x", "not written as NAME"),
        ("sge((groups=8))", "not written as NAME"),
        ("sge(groups)", "gives 'groups' no value"),
        ("sge(groups=8,groups=16)", "gives 'groups' twice"),
        ("sge(groups=8.5)", "groups takes auto or a whole number, not '8.5'"),
        ("sge(groups=)", "groups takes auto or a whole number, not ''"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(text)


def test_commas_in_parentheses_divide_nothing() -> None:
    text = "none, sge(weight_init=0,bias_init=0),se,,sge(groups=8)"
    assert split(text) == ("none", "sge(weight_init=0,bias_init=0)", "se", "sge(groups=8)")
    # What is not closed divides, so that the message names the part that is wrong.
    assert split("sge(groups=8,se") == ("sge(groups=8", "se")


def test_the_first_of_a_kind_is_the_plain_one() -> None:
    assert first_of("sge", ["none", "sge(groups=8)", "sge"]) == "sge"
    assert first_of("sge", iter(["none", "sge(groups=8)", "sge(groups=4)"])) == "sge(groups=8)"
    assert first_of("sge", ["none", "se"]) is None
