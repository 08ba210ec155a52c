import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from detect_prune.datasets.picture import CorruptPicture, picture_size, read_picture


def ramp(width=60, height=40):
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, 255 - x], -1).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tif"])
def test_pixels_come_back_as_rgb(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(ramp()).save(path)
    assert (read_picture(path) == ramp()).all()
    assert picture_size(path) == (60, 40)


def test_jpeg_is_what_pillow_reads(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(ramp()).save(path, quality=95)
    assert np.abs(read_picture(path).astype(int) - np.array(Image.open(path))).max() <= 3
    assert picture_size(path) == (60, 40)


def test_exif_turn_is_ignored(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(ramp()).save(path, exif=exif, quality=95)
    assert read_picture(path).shape == (40, 60, 3)
    assert picture_size(path) == (60, 40)
    # The fixture is a real one: the same call without the flag does turn.
    assert cv2.imread(str(path)).shape == (60, 40, 3)


def test_a_thumbnail_in_the_metadata_is_not_the_picture(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(ramp(16, 16)).save(path)
    thumbnail = path.read_bytes()
    Image.fromarray(ramp()).save(path)
    whole = path.read_bytes()
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    path.write_bytes(whole[:2] + segment + whole[2:])
    assert picture_size(path) == (60, 40)
    assert read_picture(path).shape == (40, 60, 3)
    path.write_bytes((whole[:2] + segment + whole[2:])[:-20])  # the thumbnail's end marker is still there
    with pytest.raises(CorruptPicture, match="cut off"):
        read_picture(path)


@pytest.mark.parametrize("mode", ["L", "CMYK", "1"])
def test_other_colour_spaces_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.png" if mode == "1" else "a.jpg")
    Image.fromarray(ramp()).convert(mode).save(path)
    picture = read_picture(path)
    assert picture.shape == (40, 60, 3) and picture.dtype == np.uint8
    if mode in "L1":
        assert (picture == picture[..., :1]).all()
    else:
        assert np.abs(picture.astype(int) - ramp()).mean() < 12


def test_sixteen_bits_and_transparency(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), (ramp().astype(np.uint16) * 257)[..., ::-1])
    assert np.abs(read_picture(tmp_path / "a.png").astype(int) - ramp()).max() <= 1
    Image.fromarray(ramp()).convert("RGBA").save(tmp_path / "b.png")
    assert (read_picture(tmp_path / "b.png") == ramp()).all()


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_every_cut_is_noticed(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(ramp()).save(path)
    data = path.read_bytes()
    for share in np.linspace(0, 0.98, 25):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(CorruptPicture, match=r"a\.\w+: "):
            read_picture(path)


def test_what_is_no_picture(tmp_path):
    for content in (b"", b"hello", b"\xff\xd8\xff\xe0" + bytes(100), b"BM" + bytes(60)):
        (tmp_path / "a.jpg").write_bytes(content)
        for read in (read_picture, picture_size):
            with pytest.raises(CorruptPicture):
                read(tmp_path / "a.jpg")
    with pytest.raises(CorruptPicture, match="No such file"):
        read_picture(tmp_path / "none.jpg")
    with pytest.raises(CorruptPicture):
        read_picture(tmp_path)


def test_sizes_of_real_pictures(real_data):
    for path in sorted((real_data / "coco" / "images" / "val2017").glob("*.jpg"))[:40]:
        assert picture_size(path) == Image.open(path).size
