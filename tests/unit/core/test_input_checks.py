import io
import pickle
import zipfile

import numpy as np
import pytest

from tasador.core.errors import BundleError
from tasador.core.input_checks import read_arrays, write_arrays

LIMIT = 10**6


def npz(*entries, method=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(array, allow_pickle=False):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def test_arrays_come_back_the_same_to_the_bit():
    arrays = {
        "file": np.array([[1.5, np.nan], [-0.0, np.inf]]),
        "a.b": np.arange(3, dtype=np.int32),
        "flag": np.array([True, False]),
        "scalar": np.array(3.0),
        "empty": np.empty((0, 4)),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    }
    back = read_arrays(write_arrays(arrays), "x.npz", LIMIT)
    assert set(back) == set(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()


def test_equal_arrays_give_equal_bytes_in_any_order():
    one, two = np.ones(3), np.zeros(2)
    assert write_arrays({"a": one, "b": two}) == write_arrays({"b": two, "a": one})


def test_numpy_itself_reads_the_file():
    data = write_arrays({"a": np.ones(3)})
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        assert archive["a"].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "array", [np.array([object()]), np.array(["text"])], ids=["object", "text"]
)
def test_anything_but_numbers_is_not_written(array):
    with pytest.raises(BundleError, match="expected plain numbers"):
        write_arrays({"a": array})


def test_an_array_of_objects_is_refused_without_unpickling():
    data = npz(("a.npy", npy(np.array([{"x": 1}]), allow_pickle=True)))
    with pytest.raises(BundleError, match=r"a\.npy is refused: expected plain numbers"):
        read_arrays(data, "x.npz", LIMIT)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged"),
        (b"PK\x03\x04 no archive", "damaged"),
        (npz(("a.npy", b"\x93NUMPY\x01\x00")), "damaged"),
        (npz(("a.npy", b"no array")), "damaged"),
        (npz(("a.npy", npy(np.ones(9))[:-8])), "expected 72 bytes for shape"),
        (npz(("a.npy", npy(np.ones(9)) + b"more")), "is damaged"),
        (npz(("a.npy", npy(np.ones(9)).replace(b"(9,)", b"(-9,)"))), "damaged"),
        (npz(("run.py", b"print()")), "expected arrays only"),
        (npz(("a.npy", npy(np.zeros(9))), method=zipfile.ZIP_DEFLATED), "compressed"),
        (npz(("a.npy", npy(np.zeros(200_000)))), "too large when unpacked"),
        (npz(("a.npy", b"\x93NUMPY\x02\x00" + npy(np.ones(1))[8:])), "npy format"),
    ],
    ids=range(11),
)
def test_what_is_no_archive_of_plain_arrays_is_refused(data, message):
    with pytest.raises(BundleError, match=message):
        read_arrays(data, "x.npz", LIMIT)


def test_the_same_name_twice_is_refused():
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = npz(("a.npy", npy(np.ones(1))), ("a.npy", npy(np.ones(1))))
    with pytest.raises(BundleError, match="duplicate names"):
        read_arrays(data, "x.npz", LIMIT)


def test_no_damage_to_any_byte_escapes_as_another_error():
    data = write_arrays({"a": np.arange(4.0), "b": np.ones((2, 2))})
    for position in range(0, len(data), 3):
        for flip in (0x01, 0x80, 0xFF):
            broken = bytearray(data)
            broken[position] ^= flip
            try:
                read_arrays(bytes(broken), "x.npz", LIMIT)
            except BundleError:
                continue


def test_a_refused_file_is_reported_the_same_from_another_process():
    with pytest.raises(BundleError, match=r"features\.npz is refused") as caught:
        read_arrays(npz(("notes.txt", b"x")), "features.npz", LIMIT)
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is type(caught.value) is not BundleError
    assert (str(again), again.exit_code) == (str(caught.value), 5)
