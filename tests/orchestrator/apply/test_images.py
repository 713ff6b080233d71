"""What a user names becomes images, each with an id of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cellsemi.configs.errors import ImageError, UsageError
from cellsemi.orchestrator.apply.images import find_images
from cellsemi.orchestrator.apply.predict_files import read_pixels


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")


def ids(*names: str) -> dict[str, str]:
    return {image.image_id: image.path for image in find_images(names).images}


def test_folders_are_searched_and_other_files_counted(here: Path) -> None:
    touch("plate/b.tif", "plate/deep/a.PNG", "plate/notes.txt", "plate/read me")
    found = find_images(["plate"])
    assert [(image.image_id, image.path) for image in found.images] == [
        ("a", "plate/deep/a.PNG"),
        ("b", "plate/b.tif"),
    ]
    assert found.passed_over == {".txt": 1, "no extension": 1}


def test_a_name_with_brackets_is_that_file_before_it_is_a_pattern(here: Path) -> None:
    touch("A01[1].tif", "A011.tif")
    assert ids("A01[1].tif") == {"A01[1]": "A01[1].tif"}
    Path("A01[1].tif").unlink()
    assert ids("A01[1].tif") == {"A011": "A011.tif"}


def test_patterns_reach_into_folders(here: Path) -> None:
    touch("p/1/x.tif", "p/2/y.tif", "p/2/z.png")
    assert ids("p/**/*.tif") == {"x": "p/1/x.tif", "y": "p/2/y.tif"}
    assert ids(str(here / "p" / "2" / "*")) == {"y": str(here / "p/2/y.tif"), "z": str(here / "p/2/z.png")}


def test_equal_names_get_as_many_folders_as_tell_them_apart(here: Path) -> None:
    touch("p/1/x.tif", "p/2/x.tif", "q/2/x.tif", "p/1/y.tif", "r/a.png", "r/a.tif", "s/1__x.tif")
    found = ids("p", "q", "r", "s")
    assert found["y"] == "p/1/y.tif" and found["a.png"] == "r/a.png" and found["a.tif"] == "r/a.tif"
    assert len(found) == 7 and {found[i] for i in found if i.endswith("x")} == {
        "p/1/x.tif",
        "p/2/x.tif",
        "q/2/x.tif",
        "s/1__x.tif",
    }


def test_a_file_that_is_named_twice_is_taken_once(here: Path) -> None:
    touch("p/x.tif")
    assert ids("p", "p/x.tif", "./p/../p/x.tif", str(here / "p")) == {"x": "p/x.tif"}


def test_a_file_that_is_named_is_taken_whatever_its_extension(here: Path) -> None:
    touch("scan.dat")
    assert ids("scan.dat") == {"scan.dat": "scan.dat"}


@pytest.mark.parametrize("name", ["nothing.tif", "none/*.tif", "empty"])
def test_what_stands_for_nothing_is_an_error(here: Path, name: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(UsageError, match=name.split("/", maxsplit=1)[0]):
        find_images([name])


def test_an_image_that_is_shown_turned_is_not_predicted_as_stored(here: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10)).save("a.png", exif=exif)
    with pytest.raises(ImageError, match=r"a\.png: has the orientation 6"):
        read_pixels("a.png", 1000)
