"""QR codes out of pictures: what a printer, a scanner and a telephone make of a receipt."""

from __future__ import annotations

import io
import json
import random
import sys
from pathlib import Path

import pytest
import segno
from click.testing import CliRunner
from PIL import Image

from fiskal.cli import main
from fiskal.tse import qrimage
from fiskal.tse.qrimage import QrImageError, read_qr_image
from tests.tse.test_qr import DOCUMENTED, KAT_1

pytest.importorskip("zxingcpp")


def code(text: str, scale: int = 6) -> Image.Image:
    out = io.BytesIO()
    segno.make_qr(text, error="m").save(out, kind="png", scale=scale)
    return Image.open(out).convert("L")


def saved(picture: Image.Image, path: Path) -> Path:
    picture.save(path)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.webp"])
def test_every_kind_of_picture(tmp_path: Path, name: str) -> None:
    assert read_qr_image(saved(code(KAT_1), tmp_path / name)) == [KAT_1]


@pytest.mark.parametrize("angle", [0, 90, 7, 180])
def test_a_turned_picture(tmp_path: Path, angle: int) -> None:
    picture = code(KAT_1).rotate(angle, expand=True, fillcolor=255)
    assert read_qr_image(saved(picture, tmp_path / "a.png")) == [KAT_1]


def test_a_pale_receipt(tmp_path: Path) -> None:
    picture = code(KAT_1).point([180 + value // 5 for value in range(256)])
    assert read_qr_image(saved(picture, tmp_path / "a.png")) == [KAT_1]


def test_line_breaks_of_an_order_survive(tmp_path: Path) -> None:
    text = KAT_1.replace("Beleg^11.90", "2;Käse;3.99\r1;Brot;7.92")
    assert read_qr_image(saved(code(text), tmp_path / "a.png")) == [text]


def test_the_code_of_the_receipt_comes_before_others(tmp_path: Path) -> None:
    page = Image.new("L", (1200, 700), 255)
    page.paste(code("https://example.org", 4), (20, 20))
    page.paste(code(KAT_1, 4), (400, 20))
    assert read_qr_image(saved(page, tmp_path / "a.png"))[0] == KAT_1


def test_what_is_no_picture_is_said_clearly(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"no picture")
    with pytest.raises(QrImageError, match="is no picture") as caught:
        read_qr_image(path)
    assert "PNG" in caught.value.hint
    with pytest.raises(QrImageError, match="no QR code") as caught:
        read_qr_image(saved(Image.new("L", (200, 200), 255), path))
    assert "closer" in caught.value.hint
    with pytest.raises(FileNotFoundError):
        read_qr_image(tmp_path / "nothing")


def test_damaged_pictures_only_raise_the_readers_own_error(tmp_path: Path) -> None:
    path = saved(code(KAT_1, 2), tmp_path / "a.png")
    whole = path.read_bytes()
    dice = random.Random(1)
    for _ in range(150):
        content = bytearray(whole[: dice.randrange(len(whole))] if dice.random() < 0.3 else whole)
        for _ in range(dice.randrange(6)):
            if content:
                content[dice.randrange(len(content))] = dice.randrange(256)
        path.write_bytes(content)
        try:
            read_qr_image(path)
        except QrImageError:
            pass


def test_a_picture_that_unpacks_to_very_many_pixels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qrimage, "MAX_PIXELS", 1000)
    with pytest.raises(QrImageError, match="pixels"):
        read_qr_image(saved(code(KAT_1), tmp_path / "a.png"))


def test_without_the_reader_the_hint_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "fiskal.tse.qrimage")
    monkeypatch.setitem(sys.modules, "zxingcpp", None)
    path = saved(code(KAT_1), tmp_path / "a.png")
    result = CliRunner().invoke(main, ["verify", "qr", "--image", str(path)])
    assert result.exit_code == 2
    assert "pip install 'fiskal[receipt]'" in result.stderr


def test_the_command_reads_pictures(tmp_path: Path) -> None:
    path = saved(code(DOCUMENTED), tmp_path / "receipt.png")
    result = CliRunner().invoke(main, ["verify", "qr", "--image", str(path), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["transactionNumber"] == 11
    forged = saved(code(DOCUMENTED.replace("7.50:Bar", "7.40:Bar")), tmp_path / "forged.png")
    assert CliRunner().invoke(main, ["verify", "qr", "--image", str(forged)]).exit_code == 1
