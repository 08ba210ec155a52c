"""The one table of official files: names, addresses, sizes in bytes, digests, and who published the digest.

A digest stands here only if a public source has it; the sizes of weights are those of the networks in cfg/ (20 bytes of
header and 4 a float), which a test computes again. Where no digest is to be had, the size and the loader's exact count
of floats are the check. yolov4-tiny.weights was replaced by its authors in December 2020; this is the newer one.
"""

from dataclasses import dataclass

from detect_prune.errors import DetectPruneError
from detect_prune.transfer import RemoteFile

_ALEXEYAB = "https://github.com/AlexeyAB/darknet/releases/download"
_HANK_AI = "https://github.com/hank-ai/darknet/releases/download/v2.0"  # the same files, by Darknet's present keepers
_REDMON = "https://data.pjreddie.com/files"
_REDMON_BEFORE = "https://pjreddie.com/media/files"
_OXFORD = "https://thor.robots.ox.ac.uk/pascal/VOC"
_COCO = "http://images.cocodataset.org"  # its https certificate is another host's


@dataclass(frozen=True)
class Official:
    """A file and what is known of it."""

    file: RemoteFile
    digest_source: str = ""
    """Who published the digest; empty where there is none."""


@dataclass(frozen=True)
class Archive:
    """An archive of a data set."""

    official: Official
    folder: str = ""
    """Where it is unpacked, below the data set's own folder."""

    @property
    def name(self) -> str:
        return self.official.file.name


@dataclass(frozen=True)
class DataSet:
    """A data set as its descriptor in data/ expects it."""

    folder: str
    """Below ./datasets."""
    archives: tuple[Archive, ...]
    descriptor: str
    """What to give as --data."""


def _weights(name: str, size: int, digest: str | None, source: str, *places: str) -> tuple[str, Official]:
    return name, Official(RemoteFile(name, tuple(f"{place}/{name}" for place in places), size, digest), source)


WEIGHTS: dict[str, Official] = dict(
    [
        _weights(
            "yolov4.weights",
            257_717_640,
            "sha256:e8a4f6c62188738d86dc6898d82724ec0964d0eb9d2ae0f0a9d53d65d108d562",
            "openvinotoolkit/open_model_zoo, yolo-v4-tf",
            f"{_ALEXEYAB}/darknet_yolo_v3_optimal",
            _HANK_AI,
        ),
        _weights(
            "yolov4-tiny.weights",
            24_251_276,
            "sha256:cf9fbfd0f6d4869b35762f56100f50ed05268084078805f0e7989efe5bb8ca87",
            "openvinotoolkit/open_model_zoo, yolo-v4-tiny-tf",
            f"{_ALEXEYAB}/darknet_yolo_v4_pre",
            f"{_ALEXEYAB}/yolov4",
            _HANK_AI,
        ),
        _weights("yolov4-csp.weights", 211_944_840, None, "", f"{_ALEXEYAB}/darknet_yolo_v4_pre"),
        _weights(
            "yolov4x-mish.weights",
            399_388_168,
            "sha1:a6f2879af2241de2e9730d317a55db6afd0af00b",
            "opencv/opencv_extra, testdata/dnn/download_models.py",
            f"{_ALEXEYAB}/darknet_yolo_v4_pre",
        ),
        _weights(
            "yolov3.weights",
            248_007_048,
            "sha256:523e4e69e1d015393a1b0a441cef1d9c7659e3eb2d7e15f793f060a21b32f297",
            "emgucv/emgucv, Emgu.CV.Models; the md5 in pjreddie/darknet#633 is of the same file",
            _REDMON,
            _HANK_AI,
            _REDMON_BEFORE,
        ),
        _weights(
            "yolov3-tiny.weights",
            35_434_956,
            "sha256:dccea06f59b781ec1234ddf8d1e94b9519a97f4245748a7d4db75d5b7080a42c",
            "emgucv/emgucv, Emgu.CV.Models",
            _REDMON,
            _HANK_AI,
            _REDMON_BEFORE,
        ),
        _weights(
            "yolov3-spp.weights",
            252_209_544,
            "sha256:87a1e8c85c763316f34e428f2295e1db9ed4abcec59dd9544f8052f50de327b4",
            "emgucv/emgucv, Emgu.CV.Models",
            _REDMON,
            _REDMON_BEFORE,
        ),
        _weights(
            "yolov4.conv.137",
            170_038_676,
            "sha256:11c5286cfbffabc9a3059927401ab3480e9483ceafd3265779a0dc26c769bed0",
            "the LFS pointer in achen353/Taiwanese-Traffic-Object-Detection",
            f"{_ALEXEYAB}/darknet_yolo_v3_optimal",
        ),
        _weights(
            "yolov4-tiny.conv.29",
            19_789_716,
            "sha256:3c794b8420b12ed2a609daa71d075880e7bd152671323f5eb3e8d9e57e31785b",
            "the LFS pointer in achen353/Taiwanese-Traffic-Object-Detection",
            f"{_ALEXEYAB}/darknet_yolo_v4_pre",
        ),
        _weights("yolov4-csp.conv.142", 146_548_116, None, "", f"{_ALEXEYAB}/darknet_yolo_v4_pre"),
        _weights("yolov4x-mish.conv.166", 277_307_668, None, "", f"{_ALEXEYAB}/darknet_yolo_v4_pre"),
        _weights(
            "darknet53.conv.74",
            162_482_580,
            "sha512:8983e1c129e2d6e8e3da0cc0781ecb7a07813830ef5a87c24b53100df6a5f23d"
            "b6c6e6a402aec78025a93fe060b75d1958f1b8f7439a04b54a3f19c81e2ae99b",
            "microsoft/vcpkg, ports/darknet",
            _REDMON,
            _REDMON_BEFORE,
        ),
    ]
)
"""By file name. `x.conv.N` are backbones, for --pretrained; darknet53.conv.74 is that of yolov3 and yolov3-spp."""

_TFDS = "tensorflow/datasets, url_checksums"


def _archive(folder: str, size: int, sha256: str, *urls: str) -> Archive:
    name = urls[0].rpartition("/")[2]
    return Archive(Official(RemoteFile(name, urls, size, f"sha256:{sha256}"), _TFDS), folder)


_COCO_LABELS = _archive(
    "",
    252_907_541,
    "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    f"{_COCO}/annotations/annotations_trainval2017.zip",
)
_COCO_VAL = _archive(
    "images",
    815_585_330,
    "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    f"{_COCO}/zips/val2017.zip",
)
_COCO_TRAIN = _archive(
    "images",
    19_336_861_798,
    "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    f"{_COCO}/zips/train2017.zip",
)


def _voc(year: str, name: str, size: int, sha256: str) -> Archive:
    return _archive("", size, sha256, f"{_OXFORD}/voc{year}/{name}", f"{_REDMON_BEFORE}/{name}")


_VOC2007 = _voc(
    "2007",
    "VOCtrainval_06-Nov-2007.tar",
    460_032_000,
    "7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
)
_VOC2007_TEST = _voc(
    "2007",
    "VOCtest_06-Nov-2007.tar",
    451_020_800,
    "6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
)
_VOC2012 = _voc(
    "2012",
    "VOCtrainval_11-May-2012.tar",
    1_999_639_040,
    "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
)

DATA: dict[str, DataSet] = {
    "coco": DataSet("coco", (_COCO_LABELS, _COCO_VAL, _COCO_TRAIN), "coco.yaml"),
    "coco-val": DataSet("coco", (_COCO_LABELS, _COCO_VAL), "coco.yaml"),
    "voc": DataSet("voc", (_VOC2007, _VOC2007_TEST, _VOC2012), "voc0712.yaml"),
    "voc2007": DataSet("voc", (_VOC2007, _VOC2007_TEST), "voc2007.yaml"),
}
"""By the name on the command line. coco-val is enough to score on COCO."""


def find_weights_file(name: str) -> Official:
    """The row of `yolov4`, `yolov4.weights` or `yolov4.conv.137`. Raises DetectPruneError where there is none."""
    for row in (name, f"{name}.weights"):
        if row in WEIGHTS:
            return WEIGHTS[row]
    known = f"{', '.join(WEIGHTS)}, and the data {', '.join(DATA)}"
    raise DetectPruneError(f"no official file is known by the name '{name}'; there are {known}")


def download_hint(name: str) -> str:
    """How to get a missing weights file, to be put behind a sentence; nothing where it is no official one."""
    return f" ('detect-prune download {name}' fetches it)" if name in WEIGHTS else ""
