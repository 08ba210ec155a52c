import struct
import zlib

import cv2
import numpy as np
import pytest
from pictures import FORMATS, encode
from PIL import Image

from detect_prune.datasets.picture import CorruptPicture, decode_picture, picture_size, read_picture
from detect_prune.datasets.picture_header import size_in_header


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
    # The fixture is a real one: OpenCV turns it by itself.
    assert cv2.imread(str(path)).shape == (60, 40, 3)
    assert (read_picture(path, upright=True) == cv2.imread(str(path))[..., ::-1]).all()


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


@pytest.mark.parametrize("form, options", FORMATS)
def test_every_cut_is_noticed(tmp_path, form, options):
    path = tmp_path / "a.x"
    data = encode(Image.fromarray(ramp()), form, **options)
    path.write_bytes(data)
    assert picture_size(path) == (60, 40) and read_picture(path).shape == (40, 60, 3)
    for share in np.linspace(0, 0.98, 25):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(CorruptPicture, match=r"a\.\w+: "):
            read_picture(path)


@pytest.mark.parametrize("turn", range(1, 9))
def test_tiff_s_mark_of_orientation_is_ignored(tmp_path, turn):
    path = tmp_path / "a.tif"
    Image.fromarray(ramp()).save(path, tiffinfo={0x0112: turn})
    assert picture_size(path) == (60, 40)
    assert (read_picture(path) == ramp()).all()


def test_palettes_become_rgb(tmp_path):
    few = Image.fromarray(ramp()).convert("P", palette=Image.Palette.ADAPTIVE)
    for name, options in (("a.png", {}), ("b.png", {"transparency": 0}), ("c.bmp", {})):
        few.save(tmp_path / name, **options)
        assert (read_picture(tmp_path / name) == np.array(few.convert("RGB"))).all()


def test_a_flipped_bit_of_a_png_is_noticed(tmp_path):
    data = bytearray(encode(Image.fromarray(ramp()), "PNG"))
    data[data.index(b"IDAT") + 20] ^= 4
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(CorruptPicture, match=r"a\.png: the picture is damaged: a checksum"):
        read_picture(tmp_path / "a.png")


def claim(form, data, width, height):
    """The same file with a header that says another size (16 bits is all that some have)."""
    data = bytearray(data)
    if form == "JPEG":
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    elif form == "PNG":
        struct.pack_into(">II", data, 16, width, height)
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    elif form == "BMP":
        struct.pack_into("<ii", data, 18, width, height)
    elif form == "PPM":
        data = data.replace(b"60 40", f"{width} {height}".encode())
    elif form == "TIFF":
        for tag, value in ((256, width), (257, height)):
            struct.pack_into("<HHII", data, data.index(struct.pack("<HH", tag, 4)), tag, 4, 1, value)
    elif form == "WEBP":
        bits = struct.unpack_from("<I", data, 21)[0] & 0xF0000000
        struct.pack_into("<I", data, 21, bits | (width - 1) & 0x3FFF | ((height - 1) & 0x3FFF) << 14)
    return bytes(data)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP"])
def test_a_header_that_claims_too_much_is_refused_before_memory_is_taken(tmp_path, form):
    data = encode(Image.fromarray(ramp()), form, **({"lossless": True} if form == "WEBP" else {}))
    assert claim(form, data, 60, 40) == data
    path = tmp_path / "a.x"
    for width, height in [(16384, 16384)] if form == "WEBP" else [(60000, 60000), (16000, 16000)]:
        path.write_bytes(claim(form, data, width, height))
        for read in (read_picture, picture_size):
            # No memory for a decoder to ask for: OpenCV would take 768 MB for the smaller one.
            with pytest.MonkeyPatch.context() as patch, pytest.raises(CorruptPicture, match=f"says {width} x {height}"):
                patch.setattr(cv2, "imdecode", None)
                read(path)


def test_the_emptiest_pictures_are_not_taken_for_cut_ones():
    for mode, form, options in (
        ("L", "JPEG", {"quality": 1, "optimize": True}),
        ("RGB", "JPEG", {"quality": 1, "subsampling": 2, "progressive": True, "optimize": True}),
        ("1", "PNG", {"optimize": True}),
        ("RGB", "PNG", {}),
        ("1", "BMP", {}),
        ("1", "PPM", {}),
        ("1", "TIFF", {"compression": "group4"}),
        ("RGB", "WEBP", {"lossless": True}),
    ):
        data = encode(Image.new(mode, (3000, 2000)), form, **options)
        assert decode_picture(data, "a").shape == (2000, 3000, 3), (mode, form)


@pytest.mark.parametrize("blanks", [b" " * 100_000, b"#\n" * 50_000])
def test_a_header_of_many_blanks_is_read_in_no_time(blanks):
    assert size_in_header(b"P6" + blanks) is None
    assert size_in_header(b"P6" + blanks + b"60" + blanks + b" 40 ") == (60, 40)


def test_a_tile_larger_than_its_picture_is_no_size_but_takes_memory(tmp_path):
    """One tile of 128 x 64, of which 100 x 60 are the picture."""
    tile = np.zeros((64, 128), np.uint8)
    tile[:60, :100] = ramp(100, 60)[..., 0]

    def write(tile_width):
        tags = {256: 100, 257: 60, 258: 8, 259: 1, 262: 1, 277: 1, 322: tile_width, 323: 64, 324: 8, 325: tile.size}
        fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        header = b"II*\0" + struct.pack("<I", 8 + tile.size) + tile.tobytes()
        (tmp_path / "a.tif").write_bytes(header + struct.pack("<H", len(tags)) + fields + bytes(4))

    write(128)
    assert picture_size(tmp_path / "a.tif") == (100, 60)
    assert (read_picture(tmp_path / "a.tif")[..., 0] == tile[:60, :100]).all()
    write(1 << 20)
    with pytest.raises(CorruptPicture, match="says 1048576 x 64"):
        picture_size(tmp_path / "a.tif")


def test_a_header_that_does_not_fit_the_content(tmp_path):
    path = tmp_path / "a.x"
    for form in ("JPEG", "PNG", "BMP", "PPM", "TIFF"):
        path.write_bytes(claim(form, encode(Image.fromarray(ramp()), form), 600, 4000))
        with pytest.raises(CorruptPicture, match=r"cut off|OpenCV"):
            read_picture(path)


def test_what_is_no_picture(tmp_path):
    for content in (b"", b"hello", b"\xff\xd8\xff\xe0" + bytes(100), b"BM" + bytes(60)):
        (tmp_path / "a.jpg").write_bytes(content)
        for read in (read_picture, picture_size):
            with pytest.raises(CorruptPicture):
                read(tmp_path / "a.jpg")
    with pytest.raises(CorruptPicture, match="no such file"):
        read_picture(tmp_path / "none.jpg")
    with pytest.raises(CorruptPicture, match="this is a folder"):
        read_picture(tmp_path)
    with pytest.raises(CorruptPicture, match="no regular file"):
        read_picture("/dev/null")


def test_sizes_of_real_pictures(real_data):
    for path in sorted((real_data / "coco" / "images" / "val2017").glob("*.jpg"))[:40]:
        assert picture_size(path) == Image.open(path).size
