"""Small networks, each with the blocks of a family of Darknet detectors that has other sections than YOLOv4's.

All take inputs of multiples of 32 pixels, have 3 classes and two anchors a head.
"""


def section(name: str, **options) -> str:
    options = {("from" if key == "source" else key): value for key, value in options.items()}
    return f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in options.items()) + "\n"


def conv(filters: int, size: int = 3, stride: int = 1, activation: str = "leaky", **options) -> str:
    return section(
        "convolutional",
        **{"batch_normalize": 1, "filters": filters, "size": size, "stride": stride, "pad": 1},
        activation=activation,
        **options,
    )


def bare(filters: int, activation: str = "linear", **options) -> str:
    """A 1x1 convolution with bias, without batch norm."""
    return section("convolutional", filters=filters, size=1, stride=1, pad=1, activation=activation, **options)


def head(mask: str = "0,1", **options) -> str:
    anchors = "6,9, 14,12, 25,31, 50,40"
    return bare(16) + section("yolo", mask=mask, anchors=anchors, num=4, classes=3, **options)


def down(*filters: int, activation: str = "leaky") -> str:
    return "".join(conv(n, stride=2, activation=activation) for n in filters)


# Layers 0-4 of most: strides 2, 4, 8, 16, 32.
STEM = down(8, 12, 16, 20, 24)

PRN = (  # yolov3-tiny-prn: sums of unequal channels, activated
    STEM + conv(20) + section("shortcut", activation="leaky", source=-2) + head("2,3")
    + section("route", layers=-3) + conv(10, 1) + section("upsample", stride=2)
    + section("shortcut", activation="leaky", source=3) + conv(10)
    + section("shortcut", activation="leaky", source="-3") + head()
)  # fmt: skip

SQUEEZE = (  # EfficientNet (enet-coco): depthwise 5x5, squeeze and excitation, dropout before the sum
    down(8, 12, 16, activation="swish")
    + conv(48, 1, activation="swish") + conv(48, 5, activation="swish", groups=48)
    + section("avgpool") + bare(8, "swish") + bare(48, "logistic") + section("scale_channels", source=-4)
    + conv(16, 1, activation="linear") + section("dropout", probability=0.3)
    + section("shortcut", source=-9, activation="linear")
    + down(20, 24, activation="swish") + head("2,3", scale_x_y=1.05)
)  # fmt: skip

RESIDUAL = (  # ResNet and ResNeXt: bottlenecks with grouped convolutions, relu after the sum, an average at the end
    conv(16, 7, 2, "relu") + section("maxpool", size=2, stride=2) + conv(32, 1, 2, "relu")
    + conv(16, 1, activation="relu") + conv(16, 3, activation="relu", groups=4) + conv(32, 1, activation="linear")
    + section("shortcut", source=-4, activation="relu") + down(32, 32, activation="relu") + head("2,3")
)  # fmt: skip

WEIGHTED = (  # BiFPN: weighted sums of several layers, each kind of weight and normalisation
    STEM + conv(24) + conv(24, 1)
    + section("shortcut", source="-2,4", weights_type="per_feature", weights_normalization="softmax")
    + conv(24) + section("shortcut", source="-2, 5", weights_type="per_channel", weights_normalization="relu")
    + conv(20) + section("shortcut", source=-2, weights_type="per_layer", weights_normalization="avg_relu",
                         activation="leaky")
    + section("shortcut", source="-1,4", weights_type="per_channel", weights_normalization="softmax") + head("2,3")
)  # fmt: skip

FUSION = (  # ASFF: maps weighted place by place, the weights of a place normalised over their channels
    STEM + conv(16) + section("upsample", stride=2) + conv(16, 1)
    + section("route", layers=3) + conv(16, 1) + section("route", layers="-1,-3")
    + bare(2, "normalize_channels_softmax")
    + section("route", layers=-1, groups=2, group_id=0) + section("scale_channels", source=7, scale_wh=1)
    + section("route", layers=-3, groups=2, group_id=1)
    + section("scale_channels", source=9, scale_wh=1, activation="relu")
    + section("shortcut", source=-3, activation="linear")
    + bare(16, "normalize_channels") + section("sam", source=-2) + head()
)  # fmt: skip

PYRAMID = (  # yolo_v3_tiny_pan: maxima over channels, dilation, several groups of a route
    STEM + conv(24, dilation=2) + conv(24, dilation=3, activation="hard_mish") + conv(16, 1, dilation=4)
    + section("maxpool", maxpool_depth=1, out_channels=5) + section("route", layers="-1,5,-3")
    + section("maxpool", size=5, stride=1) + section("route", layers="4,-2") + head("2,3")
)  # fmt: skip

SMOOTH = (  # antialiasing in both its forms, after convolutions and maxima
    conv(8, stride=2, antialiasing=1) + conv(12, stride=1) + section("maxpool", size=2, stride=2, antialiasing=1)
    + conv(12, activation="relu6") + down(16) + conv(16, activation="hard_mish")
    + section("local_avgpool", size=3, stride=2) + section("local_avgpool", size=2, stride=2) + conv(24, cbn=1)
    + section("upsample", stride=2, scale=0.5) + head()
)  # fmt: skip

UNEQUAL = (  # different strides across and down
    conv(8, stride=1, stride_x=4, stride_y=2) + section("maxpool", size=3, stride_x=1, stride_y=2) + down(16)
    + section("maxpool", size=2, stride=1) + section("local_avgpool", size=2, stride_x=2, stride_y=1)
    + section("reorg3d", stride=2) + head(new_coords=1)
)  # fmt: skip

FAMILIES = {
    "prn": PRN,
    "squeeze": SQUEEZE,
    "residual": RESIDUAL,
    "weighted": WEIGHTED,
    "fusion": FUSION,
    "pyramid": PYRAMID,
    "smooth": SMOOTH,
    "unequal": UNEQUAL,
}

# Those that OpenCV's importer reads and computes as Darknet does.
OPENCVS = ("prn", "squeeze", "residual")


def family_text(name: str, width: int = 96, height: int = 64) -> str:
    return section("net", width=width, height=height, channels=3) + FAMILIES[name]
