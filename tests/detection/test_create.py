import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.resnet import BasicBlock
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.detection import (
    FasterRCNN_ResNet50_FPN_Weights,
    MaskRCNN_ResNet50_FPN_Weights,
    RetinaNet_ResNet50_FPN_Weights,
)

from sgekit.detection import DETECTORS, count_detector, create_detector
from sgekit.errors import InputError
from sgekit.models import build
from sgekit.modules import ATTENTION, SpatialGroupEnhance
from tests.detection import small

PAGE = Path(__file__).parents[2] / "docs" / "detection.md"


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def on_meta(name: str, backbone: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return create_detector(name, backbone, **options)


def layers(model: nn.Module) -> list[str]:
    return [name for name, m in model.named_modules() if isinstance(m, SpatialGroupEnhance)]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ("faster_rcnn", "mask_rcnn") else [])
        for name in DETECTORS
    ],
)
def test_every_detector_trains_and_detects(name: str) -> None:
    model = small.detector(name, "sge_" + small.BACKBONE)
    assert (model.detector_name, model.num_classes, model.loaded) == (name, 3, None)
    assert model.backbone.out_channels == 256
    losses = model(small.images(), small.targets())
    sum(losses.values()).backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert missing == []
    assert all(p.grad.isfinite().all() for p in model.parameters())
    with torch.inference_mode():
        found = model.eval()(small.images())
    for image, result in zip(small.images(), found, strict=True):
        count = len(result["boxes"])
        assert 0 < count <= 10
        height, width = image.shape[1:]
        limits = torch.tensor([width, height, width, height])
        assert (result["boxes"] >= 0).all()
        assert (result["boxes"] <= limits).all()
        assert ((result["labels"] >= 1) & (result["labels"] <= 3)).all()
        assert ("masks" in result) == model.has_masks
        if model.has_masks:
            assert result["masks"].shape == (count, 1, height, width)
            assert ((result["masks"] >= 0) & (result["masks"] <= 1)).all()


@pytest.mark.parametrize("name", ["faster_rcnn", "cascade_rcnn"])
def test_a_copy_detects_the_same(name: str) -> None:
    model = small.detector(name).eval()
    other = copy.deepcopy(model)
    with torch.inference_mode():
        for mine, theirs in zip(model(small.images()), other(small.images()), strict=True):
            assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_attention_changes_nothing_else() -> None:
    plain = small.detector().state_dict()
    for attention, fpn in (("sge", None), ("se", "sge"), ("cbam", None)):
        state = small.detector(attention=attention, fpn_attention=fpn).state_dict()
        assert all(torch.equal(state[name], value) for name, value in plain.items())
        assert len(state) > len(plain)


def test_where_attention_stands() -> None:
    ours = small.detector("retinanet", "sge_" + small.BACKBONE, fpn_attention="sge")
    body = [f"backbone.body.layer{n}.0.se" for n in (1, 2, 3, 4)]
    pyramid = [f"backbone.fpn.layer_blocks.{n}.0.attention" for n in range(3)]
    top = [f"backbone.fpn.extra_blocks.{p}.attention" for p in ("p6", "p7")]
    assert layers(ours) == [*body, *pyramid, *top]
    assert [ours.get_submodule(name).groups for name in body] == [8] * 4
    assert [ours.get_submodule(name).groups for name in pyramid] == [64] * 3
    rcnn = small.detector(fpn_attention="sge(groups=16)", norm="group")
    names = [f"backbone.fpn.layer_blocks.{n}.1.attention" for n in range(4)]
    assert layers(rcnn) == names
    assert rcnn.get_submodule(names[0]).groups == 16
    with_se = small.detector(attention="se(reduction=8)").backbone.body
    assert isinstance(with_se.layer1[0].se, ATTENTION["se"])


@pytest.mark.parametrize(
    "backbone",
    [
        "mobilenetv3_small_050",
        pytest.param("convnext_atto", marks=pytest.mark.slow),
        pytest.param("regnetx_002", marks=pytest.mark.slow),
    ],
)
def test_families(backbone: str) -> None:
    model: Any = on_meta("faster_rcnn", backbone, num_classes=3, attention="sge")
    image = torch.empty(1, 3, 128, 160, device="meta")
    maps = model.backbone.eval()(image)
    shapes = [tuple(one.shape[1:]) for one in maps.values()]
    assert shapes == [(256, 32, 40), (256, 16, 20), (256, 8, 10), (256, 4, 5), (256, 2, 3)]
    assert list(maps) == ["0", "1", "2", "3", "pool"]
    assert len(layers(model)) > 3


def norms(model: Any) -> set[type[nn.Module]]:
    kinds = (_BatchNorm, nn.GroupNorm)
    return {type(module) for module in model.modules() if isinstance(module, kinds)}


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_batch_norm(norm: str) -> None:
    model = small.detector(norm=norm, attention="cbam")
    small.randomise(model.backbone)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sum(model(small.images(), small.targets()).values()).backward()
    after = model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    statistics = {name for name in before if "running_" in name or "num_batches" in name}
    assert len(statistics) > 30
    assert moved == (statistics if norm == "batch" else set())
    assert model.backbone.body.bn1.weight.grad.any()
    modes = {m.training for m in model.modules() if isinstance(m, _BatchNorm)}
    assert modes == {norm == "batch"}
    assert model.training
    assert {m.training for m in model.eval().modules()} == {False}


def test_sync_batch_norm() -> None:
    model = small.detector(norm="sync", attention="cbam")
    assert {kind.__name__ for kind in norms(model)} == {"SyncBatchNorm", "SyncBatchNormAct"}
    assert set(model.state_dict()) == set(small.detector(attention="cbam").state_dict())
    # In one process it is BatchNorm.
    sum(model(small.images(), small.targets()).values()).backward()
    other: Any = on_meta("faster_rcnn", "mobilenetv3_small_050", norm="sync", attention="sge")
    assert {kind.__name__ for kind in norms(other)} == {
        "SyncBatchNorm", "SyncBatchNormAct", "SyncBatchNormActWithAttention",
    }  # fmt: skip


@pytest.mark.parametrize("name", DETECTORS)
def test_group_norm(name: str) -> None:
    model: Any = on_meta(name, small.BACKBONE, num_classes=3, norm="group", attention="sge")
    assert norms(model) == {nn.GroupNorm}
    counts = {
        part: sum(isinstance(m, nn.GroupNorm) for m in model.get_submodule(part).modules())
        for part in ("backbone.fpn", *(p for p in ("head", "roi_heads") if hasattr(model, p)))
    }
    boxes = 0 if name == "retinanet" else 12 if "cascade" in name else 4
    heads = {"head": 8} if name == "retinanet" else {"roi_heads": boxes + 4 * ("mask" in name)}
    assert counts == {"backbone.fpn": 6 if name == "retinanet" else 8} | heads


def test_the_last_norms_start_as_asked() -> None:
    def last_norms(**options: Any) -> set[float]:
        body = small.detector(backbone="resnet10_small", norm="group", **options).backbone.body
        norms: list[Any] = [m.bn2 for m in body.modules() if isinstance(m, BasicBlock)]
        assert len(norms) == 4
        return {value for norm in norms for value in norm.weight.unique().tolist()}

    assert last_norms() == last_norms(zero_init_last=True) == {0.0}
    assert last_norms(zero_init_last=False) == {1.0}
    create_detector("retinanet", "mobilenetv3_small_050", zero_init_last=False)


def test_group_norm_trains_and_keeps_activations() -> None:
    model = small.detector(backbone="mobilenetv3_small_050", norm="group")
    losses = model(small.images(), small.targets())
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    norm = model.backbone.body.blocks[0][0].bn1
    assert isinstance(norm, nn.GroupNorm)
    x = torch.randn(1, 16, 8, 8)
    plain = nn.functional.group_norm(x, 16, norm.weight, norm.bias)
    torch.testing.assert_close(norm(x), plain.relu())


def frozen(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if not p.requires_grad]


@pytest.mark.parametrize(
    ("name", "stages"), [*(("faster_rcnn", stages) for stages in range(6)), ("retinanet", 2)]
)
def test_frozen_stages(name: str, stages: int) -> None:
    model: Any = on_meta(
        name, small.BACKBONE, num_classes=3, attention="sge", norm="batch", frozen_stages=stages
    )
    parts = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")[: max(0, stages + 1)]
    expected = tuple(f"backbone.body.{part}." for part in (parts if stages else ()))
    true = [n for n, _ in model.named_parameters() if n.startswith(expected)] if stages else []
    assert frozen(model) == true
    assert ("backbone.body.layer1.0.se.weight" in true) == (stages > 1)
    held = {name for name, m in model.backbone.body.named_modules() if name and not m.training}
    assert {name.partition(".")[0] for name in held} == {p for p in parts if stages}


def test_what_is_frozen_stays() -> None:
    model = small.detector(backbone="sge_" + small.BACKBONE, norm="batch", frozen_stages=2)
    small.randomise(model.backbone)
    before = {name: value.clone() for name, value in model.backbone.body.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    sum(model(small.images(), small.targets()).values()).backward()
    optimizer.step()
    after = model.backbone.body.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {n for n in before if n.startswith(("conv1.", "bn1.", "layer1."))}


def test_frozen_stages_of_other_families() -> None:
    convnext: Any = on_meta("faster_rcnn", "convnext_atto", frozen_stages=1)
    assert {n.split(".")[2] for n in frozen(convnext)} == {"stem_0", "stem_1"}
    mobile: Any = on_meta("faster_rcnn", "mobilenetv3_small_050", frozen_stages=2)
    told = {".".join(n.split(".")[2:4]) for n in frozen(mobile) if "blocks" in n}
    assert told == {"blocks.0"}
    with pytest.raises(InputError, match=r"vgg11_bn has no stem.*0 or 2 to 5"):
        on_meta("faster_rcnn", "vgg11_bn", frozen_stages=1)


def test_pictures_are_normalised_as_the_backbone_wants() -> None:
    transform = small.detector(in_chans=1).transform
    assert transform.image_mean == pytest.approx([0.449], abs=1e-3)
    assert small.detector().transform.image_mean == [0.485, 0.456, 0.406]
    other: Any = on_meta("faster_rcnn", "tf_mobilenetv3_small_minimal_100", num_classes=2)
    assert other.transform.image_mean == [0.5, 0.5, 0.5]
    grey = small.detector(in_chans=1)
    assert grey(small.images(1), small.targets())["loss_classifier"].isfinite()


def test_sizes_and_anchors() -> None:
    model = small.detector(min_size=(32, 64), anchor_sizes=(8, 16, 32, 64, 128), aspect_ratios=(1,))
    assert (model.transform.min_size, model.transform.max_size) == ((32, 64), 96)
    assert model.rpn.anchor_generator.sizes == ((8,), (16,), (32,), (64,), (128,))
    assert model.rpn.anchor_generator.num_anchors_per_location() == [1] * 5
    retina = small.detector("retinanet").anchor_generator
    assert retina.sizes[0] == (32, 40, 50)
    assert retina.num_anchors_per_location() == [9] * 5
    assert model(small.images(), small.targets())["loss_objectness"].isfinite()


def test_options_reach_torchvision() -> None:
    model = small.detector(box_nms_thresh=0.3, rpn_fg_iou_thresh=0.6, size_divisible=64)
    assert model.roi_heads.nms_thresh == 0.3
    assert model.rpn.proposal_matcher.high_threshold == 0.6
    assert model.transform.size_divisible == 64
    cascade = small.detector("cascade_rcnn", box_positive_fraction=0.5).roi_heads
    assert cascade.fg_bg_sampler.positive_fraction == 0.5
    assert cascade.score_thresh == 0.0


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "detector": ({"name": "faster_cnn"}, "'faster_cnn'; did you mean 'faster_rcnn'.*retinanet"),
    "backbone": ({"backbone": "resnet81"}, "'resnet81'.*near names"),
    "transformer": ({"backbone": "vit_tiny_patch16_224"}, "no map at stride 4, 8, 32.*have 16"),
    "fixed size": ({"backbone": "swin_tiny_patch4_window7_224"}, "takes no picture of 256x256"),
    "classes": ({"num_classes": 0}, "num_classes.*background is not counted.*not 0"),
    "classes type": ({"num_classes": True}, "num_classes must be a whole number.*True"),
    "norm": ({"norm": "layer"}, "norm must be one of frozen, batch, sync, group, not 'layer'"),
    "stages": ({"frozen_stages": 6}, "frozen_stages must be 0.*not 6"),
    "size as a fraction": (
        {"min_size": 64.0},
        r"min_size must be a whole number above 0, not 64\.0",
    ),
    "no name": ({"name": None}, "no detector is named None"),
    "sizes": ({"min_size": 0}, "min_size must be a whole number above 0, not 0"),
    "no sizes": ({"min_size": ()}, "min_size must be.*nothing"),
    "max size": ({"min_size": 800, "max_size": 600}, "max_size 600 is less than min_size 800"),
    "anchors": ({"anchor_sizes": (32, 64)}, "anchor_sizes must be 5.*not 2"),
    "ratios": ({"aspect_ratios": (0, 1)}, r"aspect_ratios must be numbers above 0, not \(0, 1\)"),
    "option": ({"box_score_tresh": 0.1}, "no option 'box_score_tresh'; did you mean box_score_th"),
    "module": ({"box_head": nn.Identity()}, "no option 'box_head'"),
    "cascade": (
        {"name": "cascade_rcnn", "box_fg_iou_thresh": 0.5},
        "cascade_rcnn has no option 'box_fg_iou_thresh'",
    ),
    "dense": ({"name": "retinanet", "rpn_nms_thresh": 0.5}, "retinanet has no option 'rpn_nms_t"),
    "attention": ({"attention": "sgee"}, "'sgee'; did you mean 'sge'"),
    "two": ({"backbone": "sge_resnet10_small", "attention": "se"}, "has SGE and attention is 'se'"),
    "own": ({"backbone": "seresnet50"}, "SEModule"),
    "groups": ({"attention": "sge", "groups": 48}, "resnet10_small: behind.*48 groups"),
    "fpn groups": ({"fpn_attention": "sge(groups=48)"}, "layer_blocks.0.0.*48 groups"),
    "both": ({"pretrained": True, "checkpoint": "a.pth"}, "a.pth.*one of the two"),
    "no weights": ({"pretrained": True}, "no pretrained weights"),
    "no file": ({"checkpoint": "missing.pth"}, "there is no checkpoint file missing.pth"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_named(changes: dict[str, Any], message: str) -> None:
    given = {"name": "faster_rcnn", "backbone": small.BACKBONE} | changes
    with torch.device("meta"), pytest.raises(InputError, match=message):
        create_detector(given.pop("name"), given.pop("backbone"), **given)


def test_pretrained_weights_need_their_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build(*args, **kwargs)

    monkeypatch.setattr("sgekit.detection.backbone.build", offline)
    with pytest.raises(InputError, match=r"replaces the 20 BatchNorms of resnet18.*'sync'"):
        on_meta("faster_rcnn", "resnet18", norm="group", pretrained=True)
    # The function is kept when attention comes to trained weights.
    torch.manual_seed(0)
    plain = small.detector(pretrained=True).eval()
    ours = small.detector(pretrained=True, attention="sge").eval()
    x = torch.randn(1, 3, 64, 64)
    for name, value in plain.backbone(x).items():
        torch.testing.assert_close(ours.backbone(x)[name], value)
    assert small.detector(pretrained=True, attention="simam")


PUBLISHED = {
    "faster_rcnn": FasterRCNN_ResNet50_FPN_Weights.COCO_V1,
    "mask_rcnn": MaskRCNN_ResNet50_FPN_Weights.COCO_V1,
    "retinanet": RetinaNet_ResNet50_FPN_Weights.COCO_V1,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_torchvisions(name: str) -> None:
    # torchvision's frozen norms hold their weights and biases as buffers.
    model: Any = on_meta(name, "resnet50", num_classes=90)
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    assert (
        parameters(model) - parameters(nn.ModuleList(norms)) == (PUBLISHED[name].meta["num_params"])
    )


QUICK = ("faster_rcnn, resnet50", "retinanet, resnet50")


def rows(head: str) -> list[Any]:
    text = PAGE.read_text(encoding="utf-8")
    lines = text[text.index(f"| {head} |") :].split("\n\n")[0].splitlines()[2:]
    table = [[c.strip().replace("`", "") for c in line.split("|")[1:-1]] for line in lines]
    return [
        pytest.param(row, id=row[0], marks=[] if row[0] in QUICK else pytest.mark.slow)
        for row in table
    ]


@pytest.mark.parametrize("row", rows("detector, backbone"))
def test_the_page_tells_what_they_cost(row: list[str]) -> None:
    name, backbone = row[0].split(", ")
    plain, ours = (on_meta(name, prefix + backbone) for prefix in ("", "sge_"))
    counts, with_sge = count_detector(plain), count_detector(ours)
    total = sum(count.multiply_adds for count in counts.values())
    assert total == sum(count.multiply_adds for count in with_sge.values())
    assert all(count.uncounted == () for count in counts.values())
    parts = [counts["backbone"], counts.get("proposals"), counts.get("boxes"), counts.get("masks")]
    if name == "retinanet":
        parts = [counts["backbone"], counts["heads"], None, None]
    shown = [f"{part.multiply_adds / 1e9:.1f}" if part else "–" for part in parts]
    assert row[1:] == [
        f"{parameters(plain):,}",
        f"{parameters(ours):,}",
        *shown,
        f"{total / 1e9:.1f}",
        f"{sum(count.attention for count in with_sge.values()) / 1e9:.2f}",
    ]


def test_the_page_has_every_detector() -> None:
    told = {row.values[0][0] for row in rows("detector, backbone")}
    assert told == {f"{name}, {b}" for name in DETECTORS for b in ("resnet50", "resnet101")}


@pytest.mark.parametrize("size", [(2, 400), (400, 2)])
def test_thin_pictures(size: tuple[int, int]) -> None:
    model = small.detector("mask_rcnn")
    height, width = size
    boxes = torch.tensor([[0.0, 0, width / 2, height / 2]])
    masks = torch.ones(1, height, width, dtype=torch.uint8)
    target = {"boxes": boxes, "labels": torch.tensor([1]), "masks": masks}
    losses = model([torch.rand(3, *size)], [target])
    assert all(loss.isfinite() for loss in losses.values())
    (found,) = model.eval()([torch.rand(3, *size)])
    assert found["boxes"].isfinite().all()
    assert (found["boxes"][:, 2] <= width).all()
    assert found["masks"].shape[-2:] == size
