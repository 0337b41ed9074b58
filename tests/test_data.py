"""Readers: the same arrays come back from every kind of file, and every bad file is refused with a helpful message."""

import bz2
import gzip
import hashlib
import io
import re
import struct
import sys
import tracemalloc
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import fcgpu.data
from fcgpu.data import is_image_folder, load, load_features
from fcgpu.data.doubts import doubts
from fcgpu.data.idx import read_idx
from fcgpu.data.unpack import unpacked_limit
from fcgpu.errors import ConfigError, DataError, MissingExtraError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 5), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
ROWS = PIXELS.reshape(6, 20)
LABELS = np.array([3, 0, 1, 3, 1, 0])
TABLE = np.column_stack([LABELS, ROWS])


def packed(content):
    """gzip without a time stamp: equal in every process that collects these tests."""
    return gzip.compress(content, mtime=0)


def idx(array, code=8):
    return struct.pack(f">4B{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def csv(table, newline="\n"):
    return newline.join(",".join(map(str, row)) for row in table.tolist()).encode()


def npy(array, version=(1, 0), **kwargs):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asanyarray(array), version, **kwargs)
    return stream.getvalue()


def npz(save=np.savez, **arrays):
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


def zipped(compression=zipfile.ZIP_DEFLATED, **members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():  # without the time of day: xdist's workers must name a test alike
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content, compression)
    return stream.getvalue()


def idx_folder(root, split="train", images=PIXELS, labels=LABELS, pack=bytes, suffix=""):
    root.mkdir(exist_ok=True)
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        (root / f"{split}-{kind}-ubyte{suffix}").write_bytes(pack(idx(array)))
    return root


def written(path, content):
    path.write_bytes(content)
    return path


@contextmanager
def refused(message):
    """The block raises a DataError, whose message is one line that `message` matches."""
    with pytest.raises(DataError, match=message) as raised:
        yield
    assert "\n" not in str(raised.value)


def peak_memory(function):
    tracemalloc.start()
    try:
        result = function()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_look_at_wide_features_copies_none_of_them():
    data = fcgpu.dataset(np.full((64, 50_000), 1000, np.float32), np.arange(64) % 2)
    said, peak = peak_memory(lambda: list(doubts(data, 1.0, "softmax")))
    assert "feature 0 has a root mean square of 1e+03" in said[0]
    assert peak < data.X.nbytes / 4


@pytest.mark.parametrize("dtype", ["int16", "float16"])
def test_the_size_of_features_is_not_that_of_their_type(dtype):
    data = fcgpu.dataset(np.full((64, 3), 300, dtype), np.arange(64) % 2)
    assert "feature 0 has a root mean square of 300;" in next(doubts(data, 1.0, "softmax"))


def test_what_is_no_reason_to_doubt():
    ones = np.ones((150, 3))
    assert not [*doubts(fcgpu.dataset(ones, np.arange(150) % 25), 1.0, "softmax")]  # many classes of 6 samples each
    two_of_three = np.array([[1.0, 1, 0], [0, 1, 1]] * 75)
    assert not [*doubts(fcgpu.dataset(ones, two_of_three), 1.0, "softmax")]


def test_a_name_wins_over_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    assert not is_image_folder("deep")
    assert is_image_folder("./deep")
    assert load("deep").n_samples == 2


@pytest.mark.parametrize(("size", "most"), [(10, 10_320), (200_000, 64 << 20), (1 << 20, 200 << 20)])
def test_what_a_compressed_file_may_unpack_to_grows_with_its_size(size, most):
    assert unpacked_limit(size) == most


def test_mnist_is_the_real_one(mnist):
    assert mnist.X.shape == (60000, 784)
    assert mnist.X_test.shape == (10000, 784)
    assert mnist.X.dtype == mnist.X_test.dtype == np.uint8
    assert mnist.y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.classes == tuple(range(10))
    assert mnist.image_shape == (28, 28)
    assert mnist.scale == 1 / 255
    assert mnist.name == "mnist"


@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        ("train-images-idx3-ubyte", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
        ("train-labels-idx1-ubyte", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        ("t10k-images-idx3-ubyte", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
        ("t10k-labels-idx1-ubyte", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
    ],
)
def test_mnist_contents(name, sha256):
    folder = Path(fcgpu.data.__file__).parent / "mnist"
    content = gzip.decompress((folder / f"{name}.gz").read_bytes())
    assert hashlib.sha256(content).hexdigest() == sha256
    assert sha256 in (folder / "README.md").read_text()
    n_dimensions = content[3]
    array = read_idx(folder / f"{name}.gz", n_dimensions)
    assert array.tobytes() == content[4 + 4 * n_dimensions :]


def test_mnist_needs_no_more_memory_than_its_arrays():
    data, peak = peak_memory(lambda: load("mnist"))
    assert peak < data.X.nbytes + data.X_test.nbytes + 4 * 2**20


def test_the_articles_sets():
    multiclass = load("multiclass")
    np.testing.assert_allclose(multiclass.X[:3, 0], [0.22880349, 0.19068802, 0.88635967], atol=5e-9)
    assert multiclass.X.shape == (6, 3)
    assert multiclass.X.dtype == np.float64
    assert multiclass.X.flags.c_contiguous
    assert multiclass.y.tolist() == [2, 1, 3, 0, 0, 3]
    assert multiclass.classes == (0, 1, 2, 3)
    deep = load("deep")
    assert deep.X.shape == (2, 3)
    assert deep.y.tolist() == [0, 1]
    assert deep.X[0, 0] == multiclass.X[0, 0]
    two_layer = load("two-layer")
    assert two_layer.X.shape == (8, 3)
    assert two_layer.classes == (0, 1)
    assert two_layer.scale == 1
    assert two_layer.y.tolist() == (two_layer.X[:, 0] > two_layer.X[:, 1]).tolist()
    assert two_layer.y.sum() == 4


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mnits", r"'mnits' is no data set and no path: did you mean 'mnist'\?.*path of a \.csv"),
        ("zzz", r"'zzz' is no data set.*choose from mnist, two-layer, deep, multiclass.*path"),
        ("gone/mnist", r"gone[/\\]mnist: no such file"),
        ("~/gone.csv", re.escape(f"{Path('~/gone.csv').expanduser()}: no such file")),
        (Path("gone"), "gone: no such file"),
        ("", "'' is no data set and no path: choose from"),
        (None, r"source is None \(NoneType\); expected a name or a path"),
        (b"mnist", r"source is b'mnist' \(bytes\)"),
        ("x" * 5000, r"cannot be read \(File name too long\); check|'x+' is no data set"),
    ],
)
def test_sources_that_are_not_there_are_refused(source, message):
    with refused(message):
        load(source)


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    written(tmp_path / "t.csv", csv(TABLE))
    assert load("~/t.csv").n_samples == 6


def test_os_errors_name_the_path(tmp_path, monkeypatch):
    path = written(tmp_path / "t.csv", csv(TABLE))

    def denied(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(DataError, match=r"t\.csv: cannot be read \(Permission denied\); check"):
        load(path)


def check(data, *, image_shape=None, scale=None, test=False):
    np.testing.assert_array_equal(data.X, ROWS)
    assert data.X.dtype == np.uint8
    assert data.X.flags.c_contiguous
    assert data.classes == (0, 1, 3)
    assert data.y.tolist() == [2, 0, 1, 2, 1, 0]
    assert data.image_shape == image_shape
    assert data.scale == (scale or 1 / ROWS.max())
    if test:
        np.testing.assert_array_equal(data.X_test, ROWS[:2])
        assert data.y_test.tolist() == [2, 0]
    else:
        assert data.X_test is None
        assert data.y_test is None


@pytest.mark.parametrize(("pack", "suffix"), [(bytes, ""), (gzip.compress, ".gz")])
def test_idx_round_trip(tmp_path, pack, suffix):
    idx_folder(tmp_path, pack=pack, suffix=suffix)
    check(load(tmp_path), image_shape=(4, 5), scale=1 / 255)
    idx_folder(tmp_path, "t10k", PIXELS[:2], LABELS[:2], pack, suffix)
    check(load(str(tmp_path)), image_shape=(4, 5), scale=1 / 255, test=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.csv", csv(TABLE)),
        ("newline.csv", csv(TABLE) + b"\n\n"),
        ("semicolons.csv", csv(TABLE).replace(b",", b";")),
        ("tabs.csv", csv(TABLE).replace(b",", b"\t")),
        ("fractions.csv", csv(TABLE * 1.0).replace(b",", b" ; ")),
        ("header.csv", b"label," + ",".join(map(str, range(20))).encode() + b"\n" + csv(TABLE)),
        ("named.csv", b"Label,y," + b",".join([b"target"] * 19) + b"\n" + csv(TABLE)),
        ("crlf.csv", csv(TABLE, "\r\n")),
        ("bom.csv", b"\xef\xbb\xbf" + csv(TABLE)),
        ("bom_crlf_header.csv", b"\xef\xbb\xbf" + "größe".encode() + b",x" * 20 + b"\r\n" + csv(TABLE, "\r\n")),
        ("blank.csv", b"\n" + csv(TABLE, "\n \n")),
        ("spaced.csv", csv(TABLE).replace(b",", b" , ")),
        ("whole.csv", csv(TABLE * 1.0)),
        ("UPPER.CSV", csv(TABLE)),
        ("packed.csv.gz", packed(csv(TABLE))),
        ("tabs.tsv", csv(TABLE).replace(b",", b"\t")),
        ("packed.TSV.gz", packed(csv(TABLE).replace(b",", b"\t"))),
        ("table.npy", npy(TABLE.astype(np.uint8))),
        ("fortran.npy", npy(np.asfortranarray(TABLE.astype(np.uint8)))),
        ("arrays.npz", npz(X=ROWS, y=LABELS)),
        ("packed.npz", npz(np.savez_compressed, X=ROWS, y=LABELS)),
    ],
)
def test_table_round_trip(tmp_path, name, content):
    check(load(written(tmp_path / name, content)))


@pytest.mark.parametrize("keys", [("X", "y", "X_test", "y_test"), ("x_train", "y_train", "x_test", "y_test")])
@pytest.mark.parametrize("pixels", [PIXELS, PIXELS[..., None]])
def test_npz_of_pictures_with_a_test_pair(tmp_path, keys, pixels):
    arrays = dict(zip(keys, (pixels, LABELS, pixels[:2], LABELS[:2]), strict=True))
    check(load(written(tmp_path / "m.npz", npz(**arrays))), image_shape=(4, 5), test=True)


def test_npz_of_bytes_and_features_that_may_be_scaled_already(tmp_path):
    for X, X_test in ((ROWS, ROWS / 255), (ROWS / 255, ROWS)):
        path = written(tmp_path / "m.npz", npz(X=X, y=LABELS, X_test=X_test, y_test=LABELS))
        with pytest.raises(DataError, match=f"test features are {X_test.dtype}, the others {X.dtype}; save both in"):
            load(path)


def test_npz_of_colour_pictures_and_text_labels(tmp_path):
    data = load(written(tmp_path / "c.npz", npz(X=COLOURS, y=np.array(list("abcabc")))))
    assert data.image_shape == (4, 5, 3)
    assert data.classes == ("a", "b", "c")


@pytest.mark.parametrize("dtype", ["float32", ">f8", "int16", "float16", "bool"])
def test_arrays_keep_their_type_and_are_not_scaled(tmp_path, dtype):
    X = (ROWS % 2).astype(dtype)
    data = load(written(tmp_path / "a.npz", npz(X=np.asfortranarray(X), y=LABELS)))
    np.testing.assert_array_equal(data.X, X)
    assert data.X.dtype == np.dtype(dtype).newbyteorder("=")
    assert data.scale == 1
    assert data.X.flags.c_contiguous


@pytest.mark.parametrize("what", ["X", "y", "X_test", "y_test"])
def test_long_doubles_are_refused_and_say_what_to_do(what):
    arrays = {"X": ROWS, "y": LABELS, "X_test": ROWS, "y_test": LABELS}
    arrays[what] = arrays[what].astype(np.longdouble)
    dtype, kind = arrays[what].dtype, what[0]
    remedy = rf"{kind} has dtype {dtype}; expected floats of at most 64 bits: {kind}\.astype\('float64'\)"
    with pytest.raises(DataError, match=remedy):
        fcgpu.dataset(**arrays)
    fcgpu.dataset(**arrays | {what: arrays[what].astype(np.float64)})


def test_csv_of_fractions_is_float64_also_when_they_come_late(tmp_path, monkeypatch):
    monkeypatch.setattr("fcgpu.data.csv.CSV_BLOCK", 64)
    table = TABLE * 1.0
    for value in (0.1, -1, 256, 1e300):
        table[4, 7] = value
        data = load(written(tmp_path / "t.csv", csv(table)))
        np.testing.assert_array_equal(data.X, table[:, 1:])
        assert data.X.dtype == np.float64
        assert data.scale == 1


def test_csv_targets_that_are_not_whole_stay(tmp_path):
    data = load(written(tmp_path / "t.csv", b"0.5,1\n-2.25,2\n"))
    assert data.classes is None
    assert data.y.tolist() == [0.5, -2.25]
    assert data.X.ravel().tolist() == [1, 2]


def test_csv_labels_that_a_float_takes_for_one_another_are_none(tmp_path):
    assert load(written(tmp_path / "t.csv", b"9007199254740991,1\n9007199254740990,2\n")).y.tolist() == [1, 0]
    assert load(written(tmp_path / "t.csv", b"9007199254740993,1\n9007199254740992,2\n")).classes is None


def test_features_that_are_all_zero_have_a_scale(tmp_path):
    assert load(written(tmp_path / "t.csv", b"0,0\n1,0\n")).scale == 1


def test_csv_memory_stays_near_the_array(tmp_path):
    path = written(tmp_path / "t.csv", csv(np.full((300, 100), 200)) + b"\n")
    path.write_bytes(path.read_bytes() * 100)
    data, peak = peak_memory(lambda: load(path))
    assert data.X.shape == (30000, 99)
    assert data.X.dtype == np.uint8
    assert peak < 14 * 2**20  # MB: the text over 12, the table in float64 24, a block and its numbers under 9


def test_idx_and_labels_must_agree(tmp_path):
    with pytest.raises(DataError, match=r"train-labels.*5 labels for the 6 images"):
        load(idx_folder(tmp_path / "a", labels=LABELS[:5]))
    idx_folder(idx_folder(tmp_path / "b"), "t10k", PIXELS.reshape(6, 5, 4))
    with pytest.raises(DataError, match=r"t10k images are \(5, 4\), train images \(4, 5\)"):
        load(tmp_path / "b")
    idx_folder(idx_folder(tmp_path / "c"), "t10k", labels=LABELS + 6)
    with pytest.raises(DataError, match="label 9 of sample 0 is out of range; the classes are 0, 1, 3"):
        load(tmp_path / "c")


def test_idx_files_elsewhere_are_not_taken_for_pictures(tmp_path):
    """torchvision puts MNIST's files into MNIST/raw; EMNIST's and some copies of MNIST's have names of their own."""
    (tmp_path / "MNIST").mkdir()
    raw = idx_folder(tmp_path / "MNIST/raw")
    with pytest.raises(DataError, match=r"MNIST: its IDX files are in raw; give that folder: .*raw$"):
        load(tmp_path / "MNIST")
    for name in ("emnist-letters-train-images-idx3-ubyte.gz", "train-images.idx3-ubyte"):
        folder = tmp_path / name.partition("-")[0]
        folder.mkdir()
        (raw / "train-images-idx3-ubyte").rename(folder / name)
        with pytest.raises(DataError, match=f"{name}: an IDX file of another name; .*, train-labels.* rename them"):
            load(folder)
        (folder / name).rename(raw / "train-images-idx3-ubyte")


def test_idx_files_that_are_missing(tmp_path):
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        folder = idx_folder(tmp_path / name)
        (folder / name).unlink()
        with pytest.raises(DataError, match=f"{name}: no {name} and no {name}.gz"):
            load(folder)
    folder = idx_folder(tmp_path / "t10k")
    written(folder / "t10k-images-idx3-ubyte", idx(PIXELS))
    with pytest.raises(DataError, match="no t10k-labels-idx1-ubyte"):
        load(folder)
    folder = tmp_path / "train-labels-idx1-ubyte"
    (folder / "train-labels-idx1-ubyte").mkdir()
    with pytest.raises(
        DataError, match=r"labels-idx1-ubyte: cannot be read \((Is a directory|Permission denied)\); check"
    ):
        load(folder)


IMAGES = idx(PIXELS)
PACKED = packed(IMAGES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty; expected an IDX file"),
        (packed(b""), "empty; expected an IDX file"),
        (b"hello, world", "begins with 68 65 6c 6c; expected 00 00 08 03"),
        (b"\0\0", "begins with 00 00; expected 00 00 08 03"),
        (idx(PIXELS, 0x0D), "begins with 00 00 0d 03; expected 00 00 08 03"),
        (idx(LABELS), "begins with 00 00 08 01; expected 00 00 08 03.*3 dimensions"),
        (IMAGES[:10], "truncated: 10 bytes, expected a header of 16"),
        (IMAGES[:-1], "6 x 4 x 5 = 120 bytes, but 135 bytes of file hold at most 119"),
        (IMAGES + b"\0", "6 x 4 x 5 = 120 bytes, but more follow; expected none"),
        (packed(IMAGES[:-1]), "truncated: .* 6 x 4 x 5 = 120 bytes, found 119"),
        (packed(IMAGES + b"\0"), "6 x 4 x 5 = 120 bytes, but more follow"),
        (packed(idx(PIXELS[:0])), "empty: its header says 0 x 4 x 5 = 0 bytes; expected at least one"),
        (PACKED[:60], r"truncated: .* 120 bytes, found \d+"),
        (PACKED[:12], "corrupt gzip"),
        (PACKED[:-3], "corrupt gzip"),
        (PACKED[:-8] + bytes(4) + PACKED[-4:], "corrupt gzip .CRC"),
        (PACKED[:10] + b"\xff" * 40, "corrupt gzip"),
    ],
)
def test_bad_idx_is_refused(tmp_path, content, message):
    folder = idx_folder(tmp_path)
    written(folder / "train-images-idx3-ubyte", content)
    with refused(rf"train-images-idx3-ubyte: .*{message}"):
        load(folder)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_that_claims_too_much_is_refused_before_it_is_allocated(tmp_path, pack):
    content = pack(struct.pack(">4B3I", 0, 0, 8, 3, 1000, 1000, 1000) + bytes(100))
    path = written(tmp_path / "train-images-idx3-ubyte", content)

    def attempt():
        with refused(r"1000 x 1000 x 1000 = 1000000000 bytes, but \d+ bytes of file hold"):
            read_idx(path, 3)

    assert peak_memory(attempt)[1] < 2**20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty; expected lines of numbers"),
        (b"\n \n", "empty; expected lines of numbers"),
        (b"label,a,b\n", "a header and nothing else"),
        (b"1,2,3\n4,5\n", ", line 2: 2 values; expected 3"),
        (b"label,a,b\n\n1,2,3\n4,5,6,7\n", ", line 4: 4 values; expected 3"),
        (b"a,b\n1,2,3\n", ", line 2: 3 values; expected 2"),
        (b"1,2,3\n4,dog,6\n", ", line 2, column 2: 'dog'; expected a number"),
        (
            b"1,2,3\ncat,5,6\n",
            ", line 2, column 1: 'cat'; expected a number: labels may be text if the first one is, and",
        ),
        (b'1,2\n3,"4"\n', """, line 2, column 2: '"4"'; expected a number: fill .*, write numbers without quotes"""),
        (
            b"id,a,b,Class\n1,2,3,0\n",
            ": column 4 is named Class, and column 1, id, is taken for the label: put .* target_column=Class",
        ),
        (b",a,b\n0,2,3\n", ": column 1 has no name: if it holds row numbers"),
        (b'"","a","b"\n1,2,3\n', ": column 1 has no name: if it holds row numbers"),
        (b"0,1,2,3\n5,2,3,4\n", ": line 1 numbers the columns, as pandas does"),
        (b'"a","y",b\n1,2,3\n', ": column 2 is named y, and column 1, a, is taken for"),
        (b"label,a,b\n1,2,3\n4,5,dog\n", ", line 3, column 3: 'dog'; expected a number"),
        (b",2,3\n4,5,6\n", ", line 1, column 1: ''; expected a number"),
        (b"1,2,x\n4,5,6\n", ", line 1, column 3: 'x'; expected a number"),
        (b"1,2,3\r\n4,,6\r\n", ", line 2, column 2: ''; expected a number: fill what is missing"),
        (b"1,2,3\n4,5,cat\n", ", line 2, column 3: 'cat'; expected .*; if this is the label, put it first"),
        (b"a,b,c\n4,5,cat\n", ", line 2, column 3: 'cat'; expected .*; if this is the label, put .* target_column=c$"),
        (b"a,b,c\ncat,5,6\n,1,2\n", ", line 3, column 1: no label; drop such samples"),
        (b"a,b,c\ncat,5,6\ndog,1,2,3\n", ", line 3: 4 values; expected 3"),
        (b"a,b,c\ncat,5,6\n1,x,2\n", ", line 3, column 2: 'x'; expected a number"),
        (b"a,b,c\n1,5,6\ncat,1,2\n", ", line 3, column 1: 'cat'; expected a number: labels may be text if the first"),
        (b"label,0,1\ncat,5,6\n", ", line 2, column 1: 'cat'; expected a number: labels may be text if the first"),
        (b"1,2,3\n,5,6\n", ", line 2, column 1: ''; expected a number: fill what is missing"),
        (
            b"0;1,5;2,5\n1;0,5;3,5\n",
            ", line 2, column 1: '1;0'; expected a number: separate all by commas or all .* point",
        ),
        (b"1,2\t3\n4,5\t6\n", r", line 1, column 2: '2\\t3'; expected a number: separate all by commas"),
        (b'0,1\n1,"1,234.5"\n', ", line 2: 3 values; expected 2, .*; a comma in quotes separates, too"),
        (b"1,2,3\n4,5,1_0\n", ", line 2, column 3: '1_0'; expected a number"),
        (b"1,2,3\n4,5," + b"x" * 999, ", line 2, column 3: 'x{40}'; expected a number"),
        (b"1,2,3\n4,5,nan\n", ", line 2, column 3: nan; values must be finite"),
        (b"1,2,3\n4,-inf,6\n", ", line 2, column 2: -inf; values must be finite"),
        (b"1,2,3\nnan,5,6\n", ", line 2, column 1: nan; values must be finite"),
        (b"1 2 3\n4 5 6\n", "one column; expected a label and features, separated by commas, not '1 2 3'"),
        (b"a;b\n1;2,5\n", ", line 2, column 2: '2,5'; expected a number: separate all by commas or all .* point"),
        (b"1\n2\n", "one column; expected a label"),
        ("1,2\n3,4\n".encode("utf-16"), "not (UTF-8 )?text"),
        (b"\x89PNG\r\n\x1a\n\0\0", "not (UTF-8 )?text"),
        (b"1,2\0\n", "not text: it holds NUL bytes"),
        ("größe,b\n1,2\n".encode("latin-1"), "not UTF-8 text"),
        (b"1,2\n" * 9000 + b"\xff", "not UTF-8 text"),
        (packed(b"1,2\n3,4\n")[:-3], "corrupt gzip"),
        (b"\x1f\x8bnonsense", "corrupt gzip"),
    ],
)
def test_bad_csv_is_refused(tmp_path, content, message):
    with refused(rf"t\.csv(: .*)?{message}"):
        load(written(tmp_path / "t.csv", content))


@pytest.mark.parametrize("column", [0, 1, 3])
@pytest.mark.parametrize(
    "labels", [["cat", "dog", "cat"], [7, 300, 7], [0.5, -1.25, 2.0]], ids=["text", "whole", "real"]
)
def test_the_label_is_the_column_that_is_named(tmp_path, monkeypatch, labels, column):
    """Of text, of numbers that take the fast path, and of others; in several blocks."""
    monkeypatch.setattr("fcgpu.data.csv.CSV_BLOCK", 8)
    rows = [
        [*each[:column], label, *each[column:]]
        for each, label in zip([[1, 2, 3], [4, 5, 6], [7, 8, 9]], labels, strict=True)
    ]
    names = ["a", "b", "c"]
    header = [*names[:column], '"the kind"', *names[column:]]
    text = "\n".join(",".join(map(str, line)) for line in (header, *rows)) + "\n"
    path = written(tmp_path / "t.csv", text.encode())
    data = load(path, target_column="the kind")
    assert data.X.dtype == np.uint8
    assert data.X.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert data.feature_names == ("a", "b", "c")
    found = data.y.tolist() if data.classes is None else [data.classes[i] for i in data.y]
    assert found == labels
    again = load(path, feature_names=("a", "b", "c"))
    assert (again.X == data.X).all()
    assert (again.y == data.y).all()
    assert (load_features(path, 3, feature_names=("a", "b", "c")) == data.X).all()


def test_text_labels_may_be_in_quotes_and_look_like_numbers(tmp_path):
    data = load(written(tmp_path / "t.csv", b"kind,a\n'x y' , 1\n\"2\",3\n2,4\n"))
    assert data.classes == ("2", "x y")
    assert data.y.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("content", "target_column", "message"),
    [
        (b"a,b,price\n1,2,3\n", "prise", r"no column for target_column='prise': did you mean 'price'\?"),
        (b"a,b,c\n1,2,3\n", "label", "no column for target_column='label': choose from a, b, c"),
        (b"a,b,a\n1,2,3\n", "a", "no column for target_column='a': it is the name of several"),
        (b"1,2,3\n", "a", "no column for target_column='a': the file has no header, a first line of names"),
        (b",a,b\n0,2,3\n", "b", "column 1 has no name: if it holds row numbers"),
    ],
)
def test_a_label_column_that_is_not_there_is_refused(tmp_path, content, target_column, message):
    with pytest.raises(DataError, match=message):
        load(written(tmp_path / "t.csv", content), target_column=target_column)


@pytest.mark.parametrize("source", ["mnist", "t.npz"])
def test_only_columns_of_a_csv_are_named(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "t.npz", npz(X=ROWS, y=LABELS))
    with pytest.raises(ConfigError, match=f"target_column='a' is not for {source}: only columns of a CSV have names"):
        load(source, target_column="a")


def test_numbers_in_a_header_name_columns_if_the_label_is_named_too(tmp_path):
    data = load(written(tmp_path / "t.csv", b"2019,2020,price\n1,2,3\n4,5,6\n"), target_column="price")
    assert data.feature_names == ("2019", "2020")
    assert data.X.tolist() == [[1, 2], [4, 5]]


def test_line_numbers_reach_past_the_first_block(tmp_path, monkeypatch):
    monkeypatch.setattr("fcgpu.data.csv.CSV_BLOCK", 16)
    with pytest.raises(DataError, match="line 101, column 2: 'x'"):
        load(written(tmp_path / "t.csv", b"1,2\n" * 100 + b"3,x\n"))


def header(text, data=b""):
    text = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


NPY = npy(TABLE.astype(np.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an NPY array"),
        (b"hello", "not an NPY array"),
        (NPY[:20], "not an NPY array"),
        (NPY[:-1], r"\(6, 21\) of uint8 needs 126 bytes, found 125"),
        (NPY + b"\0", r"\(6, 21\) of uint8 needs 126 bytes, found 127"),
        (npy(TABLE, (2, 0)), r"version \(2, 0\), expected \(1, 0\)"),
        (npy(np.array([[1, None]]), allow_pickle=True), "never unpickled; save numbers, or text as y.astype"),
        (npy(np.zeros(3, [("a", int)])), r"dtype \[\('a', .*expected real numbers"),
        (npy(TABLE * 1j), "dtype complex128; expected real numbers"),
        (npy(TABLE[0]), r"shape \(21,\); expected \(n_samples, 1 \+ n_features\)"),
        (npy(TABLE[:, :1]), r"shape \(6, 1\); expected \(n_samples, 1 \+ n_features\)"),
        (npy(TABLE[:0]), r"shape \(0, 21\); expected 1 to 4 dimensions, none of them empty"),
        (npy(np.float64(3)), r"shape \(\); expected 1 to 4 dimensions"),
        (npy(np.where(TABLE == 3, np.nan, TABLE)), "is nan"),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -4)}", b"1234"), r"shape \(-1, -4\)"),
        (header("-" * 9000 + "1"), "not an NPY array"),
        (header("(" * 9000), "not an NPY array"),
        (
            header("{'descr': '|u1', 'fortran_order': False, 'shape': (1000, 1000, 1000)}", b"1"),
            "1000000000 bytes, found 1",
        ),
    ],
)
def test_bad_npy_is_refused(tmp_path, content, message):
    path = written(tmp_path / "a.npy", content)
    with refused(rf"a\.npy: (.*)?{message}"):
        load(path)


NPZ = npz(np.savez_compressed, X=ROWS, y=LABELS)


def claims(content, size):
    """The zip with a false uncompressed size of its first member, in the directory and in the local header."""
    start = content.index(b"PK\x01\x02") + 24
    return content[:22] + struct.pack("<I", size) + content[26:start] + struct.pack("<I", size) + content[start + 4 :]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a complete NPZ"),
        (b"hello", "not a complete NPZ"),
        (NPZ[:-30], "not a complete NPZ"),
        (NPZ[:200] + bytes(9) + NPZ[209:], "not a complete NPZ.*(CRC|decompress)"),
        (npz(X=ROWS), "no array y, found X; expected X, y, X_test, y_test or x_train, y_train"),
        (npz(a=ROWS, b=LABELS), "no array X or y, found a, b; expected X, y"),
        (npz(X=ROWS, y=LABELS, X_test=ROWS), "no array y_test, found X, y, X_test"),
        (npz(x_train=ROWS, y=LABELS), "no array y_train, found x_train, y"),
        (zipped(), "no array X or y, found none"),
        (npz(X=ROWS, y=LABELS[:5]), r"y has shape \(5,\) for 6 samples"),
        (npz(X=PIXELS, y=LABELS, X_test=PIXELS.reshape(6, 5, 4), y_test=LABELS), r"\(5, 4\), the others \(4, 5\)"),
        (npz(X=np.full((6, 2), np.inf), y=LABELS), "feature 0 of sample 0 is inf"),
        (zipped(X=npy(np.array([[None]]), allow_pickle=True), y=npy(LABELS)), "array X: holds Python objects"),
        (zipped(X=npy(ROWS)[:-1], y=npy(LABELS)), "array X: .* needs 120 bytes, found 119"),
        (zipped(X=b"", y=npy(LABELS)), "array X: not an NPY array"),
        (zipped(zipfile.ZIP_BZIP2, X=npy(ROWS), y=npy(LABELS)), "array X has compression 12; expected none or deflate"),
        (claims(NPZ, 10**9), "array X claims to unpack to 1000000000 bytes, its part of the file holds at most"),
        (
            claims(zipped(X=npy(ROWS)[:-1], y=npy(LABELS)), 248),
            "array X: truncated: expected 120 bytes of data, found 119",
        ),
        (claims(NPZ, 5000), "array X: .*needs 120 bytes, found 4872"),
    ],
)
def test_bad_npz_is_refused(tmp_path, content, message):
    path = written(tmp_path / "a.npz", content)

    def attempt():
        with refused(rf"a\.npz: (.*)?{message}"):
            load(path)

    assert peak_memory(attempt)[1] < 2**20


def test_files_of_another_kind(tmp_path):
    for name in ("a.pkl", "a", "a.csv.bz2"):
        with pytest.raises(DataError, match=rf"{name}: not a file of a known kind; expected \.csv"):
            load(written(tmp_path / name, bz2.compress(csv(TABLE))))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", csv(ROWS)),
        ("header.csv", b"a" + b",y" * 19 + b"\n" + csv(ROWS)),
        ("labelled.csv", csv(TABLE)),
        ("numbered.csv", b",x" * 20 + b"\n" + csv(TABLE)),
        ("packed.csv.gz", packed(csv(TABLE))),
        ("x.tsv", csv(ROWS).replace(b",", b"\t")),
        ("x.npy", npy(ROWS)),
        ("pictures.npy", npy(PIXELS)),
        ("labelled.npy", npy(TABLE.astype(np.uint8))),
        ("x.npz", npz(X=ROWS, y=LABELS)),
        ("keras.npz", npz(x_train=PIXELS, x_test=PIXELS)),
        ("single.npz", npz(arr_0=ROWS)),
    ],
)
def test_features_from_tables(tmp_path, name, content):
    X = load_features(written(tmp_path / name, content), 20)
    np.testing.assert_array_equal(X, ROWS)
    assert X.dtype == np.uint8
    assert X.flags.c_contiguous


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", csv(TABLE), "21 columns don't match the model: expected 30 features, or 31 columns"),
        (
            "semicolons.csv",
            b"1;2;3\n",
            "3 columns don't match the model: expected 30 features, or 31 columns with a label",
        ),
        ("last.csv", b"a" + b",b" * 29 + b",target\n" + csv(np.ones((2, 31))), "column 31 is named target"),
        ("x.npy", npy(TABLE), "21 features don't match the model: expected 30"),
        ("x.npz", npz(X=PIXELS), "20 features don't match the model: expected 30"),
        ("y.npz", npz(a=ROWS, b=ROWS), "no array X, found a, b"),
        ("nan.npy", npy(np.full((1, 30), np.nan)), "feature 0 of sample 0 is nan"),
        ("one.npy", npy(np.zeros(30)), r"shape \(30,\); expected \(n_samples, n_features\)"),
        ("x.txt", b"1", r"not a file of a known kind; .*\.npz, or a picture \(\.png .* or a folder of them"),
    ],
)
def test_features_that_do_not_match_are_refused(tmp_path, name, content, message):
    with pytest.raises(DataError, match=f"{name}: .*{message}"):
        load_features(written(tmp_path / name, content), 30)


def test_features_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        load_features(tmp_path / "gone.csv", 3)
    with pytest.raises(DataError, match="the list of paths is empty"):
        load_features([], 3)
    with pytest.raises(DataError, match="no pictures in this folder"):
        load_features(tmp_path, 3)


@pytest.mark.parametrize("image_shape", [(4, 4), (2, 2, 5), (20,), (4, -5), (4, 5.0), 20])
def test_image_shape_must_make_the_features(image_shape):
    with pytest.raises(ConfigError, match=r"image_shape=.*expected"):
        load_features("x.png", 20, image_shape=image_shape)


@pytest.mark.parametrize("image_size", [(4,), (4, 5, 3), (0, 5), (4.5, 5), 4, "45"])
def test_image_size_must_be_two_positive_whole_numbers(image_size):
    with pytest.raises(ConfigError, match=r"image_size=.*positive whole numbers"):
        load("x", image_size=image_size)


@pytest.mark.parametrize("image_shape", [(4, 5, 1), (4, 5, 4), (4,), (0, 5, 3)])
def test_image_shape_must_be_grey_or_of_three_colours(image_shape):
    with pytest.raises(ConfigError, match=r"image_shape=.*\(height, width\) or \(height, width, 3\)"):
        load("x", image_shape=image_shape)


def test_image_size_and_image_shape_exclude_each_other():
    with pytest.raises(ConfigError, match=r"image_size=\(4, 5\) with image_shape=\(4, 5, 3\): expected one of them"):
        load("x", image_size=(4, 5), image_shape=(4, 5, 3))


def test_image_size_is_for_pictures(tmp_path):
    for source in ("deep", written(tmp_path / "t.csv", csv(TABLE))):
        with pytest.raises(ConfigError, match=r"image_size=\(4, 5\) is not for .*only a folder of images"):
            load(source, image_size=(4, 5))


@pytest.fixture
def picture():
    image = pytest.importorskip("PIL.Image")

    def save(path, array, mode=None, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        made = image.fromarray(array)
        (made.convert(mode) if mode else made).save(path, **options)
        return path

    return save


def test_a_folder_of_colour_pictures(tmp_path, picture):
    for i, name in enumerate(("dog/b.png", "dog/a.bmp", "cat/x.PNG", "cat/y.png")):
        picture(tmp_path / name, COLOURS[i])
    for name in (".hidden", "cat/.hidden.png", "cat/Thumbs.db", "notes.txt"):
        written(tmp_path / name, b"no picture")
    (tmp_path / ".git").mkdir()
    data = load(tmp_path)
    np.testing.assert_array_equal(data.X, COLOURS[[2, 3, 1, 0]].reshape(4, 60))
    assert data.classes == ("cat", "dog")
    assert data.y.tolist() == [0, 0, 1, 1]
    assert data.image_shape == (4, 5, 3)
    assert data.X.dtype == np.uint8
    assert data.scale == 1 / 255


@pytest.mark.parametrize("transparency", [3, bytes(range(16))])
def test_a_palette_with_transparency_is_its_colours(tmp_path, picture, transparency):
    """Pillow warns of the bytes."""
    picture(tmp_path / "a/1.png", COLOURS[0], "P", transparency=transparency)
    picture(tmp_path / "b/2.png", COLOURS[0], "P")
    data = load(tmp_path)
    assert data.image_shape == (4, 5, 3)
    np.testing.assert_array_equal(data.X[0], data.X[1])


@pytest.mark.parametrize("orientation", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_photographs_are_upright(tmp_path, picture, orientation):
    image, turned = pytest.importorskip("PIL.Image"), pytest.importorskip("PIL.ImageOps").exif_transpose
    exif = image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    path = picture(tmp_path / "1.jpg", pixels, exif=exif)
    with image.open(path) as found:
        expected = np.asarray(turned(found))
    assert (expected.shape == (24, 16, 3)) == (orientation in (5, 6, 7, 8))
    np.testing.assert_array_equal(load_features(path, expected.size, image_shape=expected.shape)[0], expected.ravel())
    picture(tmp_path / "folder/a/1.jpg", pixels, exif=exif)
    picture(tmp_path / "folder/b/2.jpg", pixels, exif=exif)
    data = load(tmp_path / "folder")
    assert data.image_shape == expected.shape
    np.testing.assert_array_equal(data.X[0], expected.ravel())


def test_damaged_metadata_of_a_photograph_are_not_used(tmp_path, picture):
    path = picture(tmp_path / "1.jpg", COLOURS[0], exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert load_features(path, 60).shape == (1, 60)


def test_grey_stays_grey_unless_a_picture_has_colour(tmp_path, picture):
    picture(tmp_path / "a/1.png", PIXELS[0])
    picture(tmp_path / "b/2.png", PIXELS[1], "LA")
    data = load(tmp_path)
    np.testing.assert_array_equal(data.X, ROWS[:2])
    assert data.image_shape == (4, 5)
    picture(tmp_path / "b/3.png", COLOURS[0])
    np.testing.assert_array_equal(load(tmp_path).X[0], np.repeat(ROWS[0], 3))


def test_train_and_test_folders(tmp_path, picture):
    for i, name in enumerate(("train/a/1.png", "train/b/2.png", "test/b/3.png")):
        picture(tmp_path / name, PIXELS[i])
    data = load(tmp_path)
    np.testing.assert_array_equal(data.X_test, ROWS[2:3])
    assert data.n_samples == 2
    assert data.y_test.tolist() == [1]
    picture(tmp_path / "test/c/4.png", PIXELS[3])
    with pytest.raises(DataError, match="label c of sample 1 is out of range; the classes are a, b"):
        load(tmp_path)


def test_classes_may_be_called_train_and_test(tmp_path, picture):
    for i, name in enumerate(("train/1.png", "test/2.png")):
        picture(tmp_path / name, PIXELS[i])
    assert load(tmp_path).classes == ("test", "train")


def test_resizing(tmp_path, picture):
    picture(tmp_path / "a/1.png", np.full((4, 5), 7, np.uint8))
    picture(tmp_path / "b/2.png", np.full((9, 3), 200, np.uint8))
    data = load(tmp_path, image_size=(2, 3))
    assert data.image_shape == (2, 3)
    np.testing.assert_array_equal(data.X, np.repeat(np.array([[7], [200]], np.uint8), 6, axis=1))
    with pytest.raises(DataError, match=r"2\.png: 9 x 3 pixels .*expected 4 x 5, as .*1\.png: give image_size"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no data in this folder; expected two or more class folders with pictures, or"),
        ({"1.png": PIXELS[0]}, "no data in this folder"),
        ({"a/1.png": PIXELS[0]}, "1 class folder; expected two or more"),
        ({"a/1.png": PIXELS[0], "b/notes.txt": b""}, r"b: no pictures in this folder; expected files ending in \.png"),
        (
            {"a/1.png": PIXELS[0], "b/2.png": PIXELS[1], "b/2026/3.png": PIXELS[2]},
            r"2026: pictures so deep are not read; expected CLASS/PICTURE, or train/CLASS",
        ),
        (
            {"train/a/1.png": PIXELS[0], "train/b/2.png": PIXELS[1], "val/a/3.png": PIXELS[2]},
            "a: pictures so deep are not read; .* with no other folder beside train and test",
        ),
        (
            {"a/1.png": PIXELS[0], "b/2.png": PIXELS[1], "b/3.HEIC": b"phone"},
            r"3\.HEIC: this kind of picture is not read; convert it",
        ),
        ({"a/1.png": PIXELS[0], "b/2.png": b"junk"}, r"2\.png: not a readable picture"),
        ({"a/1.png": PIXELS[0], "b/2.png": b""}, r"2\.png: not a readable picture"),
        ({"a/1.png": PIXELS[0], "b/2.png": PIXELS[1] * np.uint16(9)}, r"2\.png: mode I.*expected 8 bits a channel"),
    ],
)
def test_bad_folders_are_refused(tmp_path, picture, files, message):
    for name, content in files.items():
        if isinstance(content, bytes):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            written(tmp_path / name, content)
        else:
            picture(tmp_path / name, content)
    with refused(rf"{re.escape(str(tmp_path))}.*{message}"):
        load(tmp_path)


def test_a_picture_that_breaks_off(tmp_path, picture):
    path = picture(tmp_path / "a.png", COLOURS[0])
    written(path, path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"a\.png: not a readable picture \(.*\); replace or remove it"):
        load_features(path, 60)


@pytest.mark.parametrize("side", [2**13 + 1, 10000, 2**15])  # sizes at which Pillow itself is silent, warns, refuses
def test_a_decompression_bomb_is_not_decoded(tmp_path, picture, side):
    def attempt():
        with refused(rf"bomb\.pgm: ({side} x {side} pixels; expected at most|.*exceeds limit)"):
            load_features(path, 3, image_shape=(1, 1, 3))

    path = written(tmp_path / "bomb.pgm", f"P5 {side} {side} 255\n".encode() + bytes(100))
    assert peak_memory(attempt)[1] < 2**22


def test_pictures_for_prediction(tmp_path, picture):
    paths = [picture(tmp_path / f"{i}.png", COLOURS[i]) for i in range(3)]
    flat = COLOURS[:3].reshape(3, 60)
    np.testing.assert_array_equal(load_features(tmp_path, 60), flat)
    np.testing.assert_array_equal(load_features([str(path) for path in paths[::-1]], 60), flat[::-1])
    np.testing.assert_array_equal(load_features(paths[1], 60, image_shape=[4, 5, 3]), flat[1:2])
    grey = load_features(paths[0], 20)
    assert grey.shape == (1, 20)
    np.testing.assert_array_equal(load_features(paths[0], 20, image_shape=(4, 5)), grey)
    assert load_features(paths[0], 24, image_shape=(2, 4, 3)).shape == (1, 24)
    with pytest.raises(DataError, match=r"0\.png: 4 x 5 pixels make 20 features, in colour 60, .*expected 784"):
        load_features(paths[0], 784)


def test_what_does_not_fit_in_memory(tmp_path, picture):
    path = picture(tmp_path / "a.png", PIXELS[0])
    with pytest.raises(DataError, match=r"a\.png: does not fit in memory"):
        load_features(path, 10**16, image_shape=(10**8, 10**8))


def test_pictures_need_pillow(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name).mkdir()
        written(tmp_path / name / "1.png", b"")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"reading images needs Pillow.*fcgpu\[images\]"):
        load(tmp_path)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("most", [9, 99, 255, 999, 1001])
def test_short_whole_numbers_are_read_as_the_general_parser_reads_them(tmp_path, monkeypatch, most, newline):
    random = np.random.default_rng(most)
    table = random.integers(0, most + 1, (4000, 30)) * random.integers(0, 2, (4000, 30))
    text = newline.join(",".join(map(str, row)) for row in table)  # no newline after the last line
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode())
    fast = load(path)
    np.testing.assert_array_equal(fast.X, table[:, 1:])
    assert fast.X.dtype == (np.uint8 if most <= 255 else np.float64)
    monkeypatch.setattr("fcgpu.data.csv._short_whole_numbers", lambda block, columns, separator: None)
    slow = load(path)
    np.testing.assert_array_equal(fast.X, slow.X)
    np.testing.assert_array_equal(fast.y, slow.y)


@pytest.mark.parametrize(
    "text", ["1,2\n3,,4\n", "1,2\n,3\n", "1,2\n3,4,5\n6\n", "1,2\n+3,4\n", "1,2\n3 ,4\n", "1;2\n3,4\n"]
)
def test_what_only_looks_like_short_whole_numbers_takes_the_general_way(text):
    from fcgpu.data.csv import _short_whole_numbers

    assert _short_whole_numbers(text.encode(), 2, ",") is None
    assert _short_whole_numbers(b"1,2\n30,400", 2, ",").tolist() == [[1, 2], [30, 400]]


def test_long_labels_are_cut_in_errors():
    texts = [1000 * letter for letter in "abc"]
    with pytest.raises(DataError) as refused:
        fcgpu.dataset(np.ones((2, 1)), texts[:2], np.ones((1, 1)), texts[2:])
    cut = [f"{40 * letter}..." for letter in "abc"]
    assert str(refused.value) == (
        f"arrays (test): label {cut[2]} of sample 0 is out of range; the classes are {cut[0]}, {cut[1]}"
    )
