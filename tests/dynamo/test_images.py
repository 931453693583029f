"""Images: what files hold is what arrives, and augmentation is each network's own."""

import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from dynamo_dist import InputError
from dynamo_dist.data import Dataset, Examples, Output
from dynamo_dist.data.augmentation import KINDS, augment, augment_stack
from dynamo_dist.data.images import DigitsTask, ImageTask, make_digits, make_images

BATCHES = [f"data_batch_{number}.bin" for number in range(1, 6)]


def content_of(part):
    """Examples as a sorted list of (label, bytes): the same images, whatever the order."""
    return sorted((int(y), x.numpy().tobytes()) for x, y in zip(part.inputs, part.targets["label"], strict=True))


@pytest.fixture(scope="module")
def pixels():
    """Random images (60, 3, 32, 32) and labels 0 to 9, six of each."""
    rng = np.random.default_rng(0)
    return rng.integers(256, size=(60, 3, 32, 32), dtype=np.uint8), np.arange(60) % 10


@pytest.fixture(scope="module")
def cifar(tmp_path_factory, pixels):
    """A folder like cifar-10-batches-bin: five batches of 10 rows and a test batch of 10."""
    images, labels = pixels
    folder = tmp_path_factory.mktemp("cifar") / "cifar-10-batches-bin"
    folder.mkdir()
    for number, name in enumerate([*BATCHES, "test_batch.bin"]):
        content = b""
        for row in range(10 * number, 10 * number + 10):
            content += bytes([labels[row]])
            for channel in range(3):
                for y in range(32):
                    content += bytes(images[row, channel, y].tolist())
        (folder / name).write_bytes(content)
    (folder / "batches.meta.txt").write_text("airplane\n")
    return folder


def png(array):
    """`array`: (C, Y, X) or (Y, X) bytes."""
    file = io.BytesIO()
    Image.fromarray(array.transpose(1, 2, 0) if array.ndim == 3 else array).save(file, "PNG")
    return file.getvalue()


def parquet_folder(path, encoded, labels, test=10, name="img", struct=True):
    path.mkdir()
    for part, rows in (("train", slice(None, -test)), ("test", slice(-test, None))):
        column = [{"bytes": e, "path": None} for e in encoded[rows]] if struct else pa.array(encoded[rows], pa.binary())
        pq.write_table(pa.table({name: column, "label": labels[rows]}), path / f"{part}.parquet")
    return path


def test_cifar_binary_folder_and_archive_and_parquet_give_the_same_images(cifar, pixels, tmp_path):
    images, labels = pixels
    archive = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(cifar, arcname="cifar-10-batches-bin")
    before = sorted(tmp_path.rglob("*"))
    encoded = [png(image) for image in images]
    for source in (
        cifar,
        cifar.parent,
        archive,
        parquet_folder(tmp_path / "struct", encoded, labels),
        parquet_folder(tmp_path / "binary", encoded, labels, name="image", struct=False),
    ):
        data = make_images(ImageTask(source=str(source)))
        assert data.base.inputs.dtype == torch.uint8 and data.kind == "images" and data.input_shape == (3, 32, 32)
        assert data.outputs["label"].size == 10
        # The test part in its order; base and meta are halves of the rest, with as many of each class (five: three and two).
        assert torch.equal(data.test.inputs, torch.from_numpy(images[50:])) and data.test.targets["label"].tolist() == labels[50:].tolist()
        both = sorted(content_of(data.base) + content_of(data.meta))
        assert both == sorted((int(y), x.tobytes()) for x, y in zip(images[:50], labels[:50], strict=True))
        assert data.base.targets["label"].bincount().tolist() == [3] * 10 and data.meta.targets["label"].bincount().tolist() == [2] * 10
    assert [path for path in sorted(tmp_path.rglob("*")) if path in before] == before and not list(tmp_path.glob("*.bin"))


def test_one_pixel_is_where_the_format_says(cifar, tmp_path):
    """Byte 1 + 1024 c + 32 y + x of a row is channel c, row y, column x."""
    for name in [*BATCHES, "test_batch.bin"]:
        (tmp_path / name).write_bytes((cifar / name).read_bytes())
    content = bytearray((tmp_path / "test_batch.bin").read_bytes())
    content[3073 * 4 + 1 + 1024 * 2 + 32 * 7 + 30] ^= 255
    (tmp_path / "test_batch.bin").write_bytes(content)
    a, b = (make_images(ImageTask(source=str(source))).test.inputs for source in (cifar, tmp_path))
    assert (a != b).nonzero().tolist() == [[4, 2, 7, 30]]


def test_the_split_of_images_is_a_function_of_the_seed(cifar):
    one, same, other = (make_images(ImageTask(source=str(cifar), seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one.base.inputs, same.base.inputs)
    assert content_of(one.base) != content_of(other.base)


def test_grey_images_have_one_channel_and_labels_may_be_names(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(12, 5, 7), dtype=np.uint8)
    names = ["cat", "ant", "bee"] * 4
    data = make_images(ImageTask(source=str(parquet_folder(tmp_path / "grey", [png(image) for image in images], names, test=3))))
    assert data.input_shape == (1, 5, 7)
    assert np.array_equal(data.test.inputs[:, 0].numpy(), images[9:]) and data.test.targets["label"].tolist() == [2, 0, 1]


def test_digits_are_those_of_scikit_learn():
    data = make_digits(DigitsTask(seed=1))
    assert data.input_shape == (1, 8, 8) and (len(data.base), len(data.meta), len(data.test)) == (723, 719, 355)
    digits = load_digits()
    known = {(int(y), x.tobytes()) for x, y in zip(digits.images, digits.target, strict=True)}
    seen = 0
    for part in (data.base, data.meta, data.test):
        found = {(int(y), (16 * x[0].double().numpy()).tobytes()) for x, y in zip(part.inputs, part.targets["label"], strict=True)}
        assert found <= known and len(found) > len(part) - 5
        seen += len(found)
        assert part.targets["label"].bincount().min() > len(part) / 12
    assert seen == len(known)  # no image is in two parts
    assert not torch.equal(data.base.inputs, make_digits(DigitsTask(seed=2)).base.inputs)


def test_wrong_images_are_one_sentence(cifar, pixels, tmp_path):
    images, labels = pixels

    def refused(source, match):
        with pytest.raises(InputError, match=match):
            make_images(ImageTask(source=str(source)))

    refused(tmp_path / "nowhere", "nowhere does not exist: give cifar-10-binary.tar.gz")
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        path = tmp_path / "cifar-10-batches-py" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\x80\x02}q\x01.")
    refused(tmp_path / "cifar-10-batches-py", "is pickled and never loaded here: use the binary version, cifar-10-binary.tar.gz")
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "cifar-10-batches-py", arcname="cifar-10-batches-py")
    refused(tmp_path / "cifar-10-python.tar.gz", "is pickled and never loaded here")
    with tarfile.open(tmp_path / "whole.tar.gz", "w:gz") as tar:
        tar.add(cifar, arcname="cifar-10-batches-bin")
    (tmp_path / "half.tar.gz").write_bytes((tmp_path / "whole.tar.gz").read_bytes()[:40_000])
    refused(tmp_path / "half.tar.gz", "half.tar.gz is not a readable archive")

    folder = tmp_path / "bin"
    folder.mkdir()
    for name in [*BATCHES, "test_batch.bin"]:
        (folder / name).write_bytes((cifar / name).read_bytes())
    (folder / BATCHES[2]).write_bytes((cifar / BATCHES[2]).read_bytes()[:-1])
    refused(folder, "data_batch_3.bin: 30729 bytes are not a number of rows of 3073")
    content = bytearray((cifar / BATCHES[2]).read_bytes())
    content[3073 * 6] = 10
    (folder / BATCHES[2]).write_bytes(content)
    refused(folder, "data_batch_3.bin, row 6: label 10: expected 0 to 9")
    (folder / BATCHES[2]).unlink()
    refused(folder, r"holds no data_batch_3.bin \(CIFAR-10")

    encoded = [png(image) for image in images]
    for number, (bad, match) in enumerate(
        (
            (b"not an image", "row 7: the image is damaged or in a format that Pillow does not know"),
            (encoded[7][:-300], "row 7: the image cannot be used"),
            (None, "row 7: the image cannot be used: it is null"),
            (png(images[7, :, :16]), r"row 7: .* are \(3, 16, 32\), others have \(3, 32, 32\)"),
            (png(np.zeros((32, 32), dtype=np.uint16)), "row 7: .* expected 8-bit grey or colour"),
        )
    ):
        refused(parquet_folder(tmp_path / str(number), [*encoded[:7], bad, *encoded[8:]], labels), f"train.parquet, {match}")
    refused(parquet_folder(tmp_path / "name", encoded, labels, name="picture"), "its columns are picture, label; expected image")
    few = np.where(np.arange(60) == 3, 11, labels)
    refused(parquet_folder(tmp_path / "few", encoded, few), "train.parquet: 0 rows have the label 10; each of the 12 labels is needed")


def test_parts_with_other_channels_are_no_data_set():
    grey, colour = (Examples(inputs=torch.zeros(2, c, 4, 4), targets={"label": torch.tensor([0, 1])}) for c in (1, 3))
    with pytest.raises(InputError, match="inputs of different shapes"):
        Dataset(base=grey, meta=grey, test=colour, outputs={"label": Output(kind="classes", size=2)})


@pytest.fixture(scope="module")
def batch():
    """Float images (40, 3, 32, 32) in which every pixel is another number above 0."""
    return (1 + torch.arange(40 * 3 * 32 * 32, dtype=torch.float32)).reshape(40, 3, 32, 32)


def test_crop_flip_shifts_by_up_to_four_and_mirrors_half(batch):
    changed, partner, weight = augment(batch, "crop_flip", np.random.default_rng(0))
    assert partner is None and weight is None and changed.shape == batch.shape
    found = []
    for before, after in zip(batch.numpy(), changed.numpy(), strict=True):
        # A border wider than any shift may be: a shift by five would be found too.
        padded = np.pad(before, ((0, 0), (5, 5), (5, 5)))
        for down in range(11):
            for right in range(11):
                window = padded[:, down : down + 32, right : right + 32]
                for mirror, seen in ((False, after), (True, after[:, :, ::-1])):
                    if np.array_equal(window, seen):
                        found.append((down - 5, right - 5, mirror))
    assert len(found) == 40  # every image is one shift, mirrored or not, of itself
    down, right, mirrored = zip(*found, strict=True)
    assert set(down) == set(right) == set(range(-4, 5)) and 10 <= sum(mirrored) <= 30


@pytest.mark.parametrize("side", [32, 8])
def test_cutout_is_one_square_hole_of_a_quarter_of_the_side(batch, side):
    images = batch[:, :, :side, :side]
    changed, *_ = augment(images, "cutout", np.random.default_rng(0))
    whole = 0
    for before, after in zip(images, changed, strict=True):
        hole = after == 0
        assert torch.equal(after[~hole], before[~hole]) and (hole == hole[0]).all()
        rows, columns = hole[0].any(dim=1).nonzero().ravel(), hole[0].any(dim=0).nonzero().ravel()
        assert hole[0].sum() == len(rows) * len(columns) > 0 and rows[-1] - rows[0] + 1 == len(rows)
        assert len(rows) <= side // 4 and len(columns) <= side // 4
        whole += len(rows) == len(columns) == side // 4
    assert whole > 10


def test_mixup_is_the_weighted_mean_with_the_partner(batch):
    changed, partner, weight = augment(batch, "mixup", np.random.default_rng(0))
    assert sorted(partner.tolist()) == list(range(40)) and (partner != torch.arange(40)).any()
    assert 0 <= weight.min() < 0.2 and 0.8 < weight.max() <= 1 and weight.dtype == torch.float32
    for row in range(40):
        expected = weight[row].double() * batch[row].double() + (1 - weight[row].double()) * batch[partner[row]].double()
        assert torch.allclose(changed[row].double(), expected, rtol=1e-6)


def test_augmentation_of_a_network_does_not_depend_on_its_neighbours(batch):
    stack = torch.stack([batch[:8] / (1 + n) for n in range(5)])
    kinds, seeds = ["none", "crop_flip", "cutout", "mixup", "crop_flip"], [5, 6, 7, 8, 6]
    images, partner, weight = augment_stack(stack, kinds, seeds, step=3)
    for network in range(5):
        alone, p, w = augment_stack(stack[network : network + 1], [kinds[network]], [seeds[network]], step=3)
        assert torch.equal(alone[0], images[network])
        if kinds[network] == "mixup":
            assert torch.equal(p[0], partner[network]) and torch.equal(w[0], weight[network])
        else:
            assert p is None and partner[network].tolist() == list(range(8)) and (weight[network] == 1).all()
    assert torch.equal(images[0], stack[0])
    # The same seed and step: the same changes. Another step or seed: others.
    assert torch.allclose(2 * images[1], 5 * images[4])
    for seed, step in ((6, 4), (9, 3)):
        assert not torch.equal(augment_stack(stack[1:2], ["crop_flip"], [seed], step=step)[0][0], images[1])
    assert augment_stack(stack[:3], kinds[:3], seeds[:3], step=0)[1:] == (None, None)


def test_an_unknown_augmentation_lists_the_known_ones(batch):
    with pytest.raises(InputError, match="unknown augmentation 'blur': expected none, crop_flip, cutout, mixup"):
        augment(batch, "blur", np.random.default_rng(0))
    assert KINDS == ("none", "crop_flip", "cutout", "mixup")
