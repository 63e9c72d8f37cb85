"""The image source: what is chosen, in which order, and what a batch holds, against brute force."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoloss.data import ImageSource, Source, open_source
from isoloss.data.augment import Augmentation
from isoloss.data.image_files import content_of
from isoloss.data.images import Decoded, Pixels, parse_classes, proportional_order
from isoloss.data.permutation import permute_scalar
from isoloss.recipe.errors import StudyError


def pixels(n: int, classes: int, seed: int = 0, shape: tuple[int, int, int] = (1, 4, 5)) -> Pixels:
    """Images whose first two pixels are their own number."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (n, *shape)).astype(np.uint8)
    x[:, 0, 0, 0], x[:, 0, 0, 1] = np.arange(n) % 256, np.arange(n) // 256
    return Pixels(x, np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)]))


def source(n: int = 300, classes: int = 4, test: int | None = 100, **options) -> ImageSource:
    train = pixels(n, classes)
    held_out = None if test is None else pixels(test, classes, seed=1)
    return ImageSource("made", Decoded(train, held_out, content_of(train, held_out)), **options)


def numbers(of: ImageSource, x: np.ndarray) -> np.ndarray:
    """The images' own numbers, read back from normalised pixels."""
    raw = np.rint(x[:, 0, 0, :2] / of._scale[0, 0, 0] + of._shift[0, 0, 0]).astype(int)
    return raw[:, 0] + 256 * raw[:, 1]


@settings(max_examples=60, deadline=None)
@given(y=st.lists(st.integers(0, 4), min_size=1, max_size=200))
def test_every_prefix_holds_the_classes_in_proportion(y):
    labels = np.array(y)
    order = proportional_order(labels, "key")
    assert sorted(order) == list(range(len(y)))
    for length in range(1, len(y) + 1):
        counts = np.bincount(labels[order[:length]], minlength=5)
        share = np.bincount(labels, minlength=5) / len(y)
        assert (np.abs(counts - length * share) <= 1 + share * len(set(y)) / 2 + 1e-9).all()


def test_balanced_classes_have_equal_shares_of_every_tenth_prefix():
    labels = np.repeat(np.arange(10), 50)
    order = proportional_order(labels, "key")
    for length in range(10, 501, 10):
        assert (np.bincount(labels[order[:length]], minlength=10) == length // 10).all()
    assert not np.array_equal(order, proportional_order(labels, "other"))


def test_batch_equals_its_definition():
    made = source(size="120 samples", augmentation=Augmentation(crop=1, flip=True, cutout=2, fill=9))
    train = made.decoded.train
    mean, deviation = train.x.mean(dtype=np.float64), train.x.std(dtype=np.float64)
    chosen = proportional_order(train.y, "unique-samples")[:120]
    x, y = made.batch(7, 100, 60)
    assert x.dtype == np.float32
    assert y.dtype == np.int64
    for k in range(60):
        epoch, index = divmod(100 + k, 120)
        member = np.array([chosen[permute_scalar(f"7:{epoch}", index, 120)]])
        moves = made.augmentation.draw(7, member, np.array([epoch]), 4, 5)
        wanted = (made.augmentation.move(train.x[member], moves).astype(np.float64) - mean) / deviation
        made.augmentation.cut(wanted, moves)
        np.testing.assert_allclose(x[k], wanted[0], atol=1e-5)
        assert y[k] == train.y[member[0]]


def test_an_epoch_holds_every_unique_image_once_and_sizes_are_nested():
    before: set[int] = set()
    for size in ("10 %", "60 samples", None):
        made = source(size=size)
        n = made.blocks()
        x, _ = made.batch(3, 5 * n, n)
        found = numbers(made, x).tolist()
        assert len(set(found)) == n == made.train_size
        assert before < set(found)
        before = set(found)
    assert n == 300


def test_a_batch_does_not_depend_on_how_it_is_cut():
    made = source(augmentation=Augmentation(crop=2, flip=True, cutout=3))
    whole = made.batch(1, 250, 120)
    parts = [made.batch(1, 250 + k, 40) for k in (0, 40, 80)]
    for k in range(2):
        assert np.array_equal(whole[k], np.concatenate([part[k] for part in parts]))


def test_training_pixels_have_mean_zero_and_variance_one_in_each_channel():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(500, 3, 6, 6)) * [[[[5.0]], [[20.0]], [[0.0]]]] + 100).astype(np.uint8)
    train = Pixels(x, np.arange(500) % 2)
    made = ImageSource("made", Decoded(train, train, "c" * 64))
    batch, _ = made.batch(0, 0, 500)
    np.testing.assert_allclose(batch.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(batch.var((0, 2, 3)), [1, 1, 0], atol=1e-4)
    floating = Decoded(Pixels(x.astype(np.float32), train.y), train, "d" * 64)
    np.testing.assert_allclose(ImageSource("f", floating).batch(0, 0, 500)[0], batch, atol=1e-5)


@pytest.mark.parametrize("test", [None, 101])
def test_validation_parts_are_disjoint_and_leave_nothing_out(test):
    made = source(test=test, holdout=0.25)
    facts = made.describe()
    sizes = facts["validation_samples"]
    found = {part: numbers(made, made.validation(part, sizes[part])[0]).tolist() for part in "AB"}
    assert sum(sizes.values()) == (75 if test is None else 101)
    assert abs(sizes["A"] - sizes["B"]) <= 4
    assert not set(found["A"]) & set(found["B"])
    if test is None:
        n = made.blocks()
        training = set(numbers(made, made.batch(0, 0, n)[0]).tolist())
        assert not training & (set(found["A"]) | set(found["B"]))
        assert len(training) == 225
    else:
        assert set(found["A"]) | set(found["B"]) == set(range(101))
    few, many = made.validation("B", 5), made.validation("B", 20)
    assert np.array_equal(few[0], many[0][:5])
    for wrong in (0, sizes["B"] + 1):
        with pytest.raises(StudyError, match=f"allows 1 to {sizes['B']}"):
            made.validation("B", wrong)
    with pytest.raises(ValueError, match="'A' or 'B'"):
        made.validation("C", 1)


def test_validation_is_never_augmented():
    plain, moved = source(), source(augmentation=Augmentation(crop=2, flip=True, cutout=3))
    assert np.array_equal(plain.validation("A", 40)[0], moved.validation("A", 40)[0])
    assert not np.array_equal(plain.batch(0, 0, 40)[0], moved.batch(0, 0, 40)[0])
    assert np.array_equal(plain.batch(0, 0, 40)[1], moved.batch(0, 0, 40)[1])


@pytest.mark.parametrize("test", [None, 100])
def test_classes_are_renumbered_and_no_image_changes_sides(test):
    whole, half = source(test=test), source(test=test, chosen=(3, 1))
    assert half.vocabulary == 2
    n = half.blocks()
    x, y = half.batch(0, 0, n)
    members = numbers(half, x)
    assert np.array_equal(np.array([3, 1])[y], half.decoded.train.y[members])
    assert set(members) <= set(numbers(whole, whole.batch(0, 0, whole.blocks())[0]))
    assert np.array_equal(whole._shift, half._shift)
    for part in "AB":
        sizes = [s.describe()["validation_samples"][part] for s in (whole, half)]
        all_of_it, some = (numbers(s, s.validation(part, k)[0]) for s, k in zip((whole, half), sizes, strict=True))
        assert [k for k in all_of_it if k in set(some)] == some.tolist()
        labels = (whole.decoded.test or whole.decoded.train).y
        assert set(some) == {k for k in all_of_it if labels[k] in (1, 3)}


def test_the_digest_tells_apart_what_gives_other_batches_and_nothing_else():
    plain = source().digest
    assert plain == source().digest == source(holdout=0.2).digest == source(size="300 samples").digest
    assert plain == source(augmentation=Augmentation(fill=3)).digest
    others = [
        source(301),
        source(size="299 samples"),
        source(chosen=(0, 1, 2, 3)),
        source(test=None),
        source(test=None, holdout=0.2),
        source(augmentation=Augmentation(crop=1)),
        source(augmentation=Augmentation(crop=1, fill=9)),
        source(augmentation=Augmentation(flip=True)),
        source(augmentation=Augmentation(cutout=1)),
    ]
    assert len({plain, *(other.digest for other in others)}) == 10


def test_it_is_a_source_with_json_facts():
    made = source(chosen=(2, 0))
    assert isinstance(made, Source)
    assert (made.shape, made.features, made.kind) == ((1, 4, 5), 20, "vectors")
    facts = json.loads(json.dumps(made.describe()))
    assert facts["class_names"] == ["2", "0"]
    assert facts["shape"] == [1, 4, 5]
    assert facts["channel_mean"] == pytest.approx([made.decoded.train.x.mean()])


def test_one_image_too_few_is_one_message():
    with pytest.raises(StudyError, match=r"data.holdout: 0.1 of 8 images is 1; .*at least 2"):
        source(8, test=None)
    with pytest.raises(StudyError, match=r"data\.classes: found 2 classes up to 9; made allows at least two of 0 to 3"):
        source(chosen=(0, 9))
    with pytest.raises(StudyError, match="301 samples; allowed for this source is 1 to 300"):
        source(size="301 samples")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("0-4", (0, 1, 2, 3, 4)), ("5, 0-1", (5, 0, 1)), ("7,3", (7, 3)), (None, None)],
)
def test_classes_are_read(text, wanted):
    assert parse_classes(text) == wanted


@pytest.mark.parametrize("text", ["", "3", "0-", "-2", "2-1", "0-2,1", "a,b", 3, [0, 1], "0-10000000", "0 1", "³,2"])
def test_wrong_classes_are_one_message(text):
    with pytest.raises(StudyError, match=r"data\.classes: found"):
        parse_classes(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 9}, "data.crop: found 9; the images of digits allow 0 to 8"),
        ({"crop": -1}, "data.crop"),
        ({"crop": "4"}, "data.crop"),
        ({"flip": 1}, "data.flip"),
        ({"fill": 0.5}, "data.fill: found 0.5"),
        ({"fill": 256}, "data.fill: found 256"),
        ({"cutout": 3.5}, "data.cutout"),
        ({"holdout": 0.9}, "data.holdout"),
        ({"classes": "0-10"}, "allows at least two of 0 to 9"),
        ({"size": "2000 samples"}, "1 to 1258"),
        ({"size": "5 tokens"}, "data.size"),
        ({"crops": 2}, "did you mean 'crop'"),
        ({"path": "x"}, "has no option 'path'"),
    ],
)
def test_wrong_options_are_one_message(options, message):
    pytest.importorskip("sklearn")
    with pytest.raises(StudyError, match=message):
        open_source({"source": "digits", **options})


def test_digits_are_those_of_the_package():
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    made = open_source({"source": "digits"})
    assert made.shape == (1, 8, 8)
    assert made.train_size == 1258
    assert np.array_equal(made.decoded.train.x.reshape(1797, 64), images)
    assert np.array_equal(made.decoded.train.y, labels)
    sizes = made.describe()["validation_samples"]
    assert sum(sizes.values()) == 539
    assert abs(sizes["A"] - sizes["B"]) <= 5


def test_a_batch_with_crop_and_flip_takes_less_than_two_milliseconds():
    made = source(2000, 10, augmentation=Augmentation(crop=4, flip=True))
    large = Pixels(np.zeros((2000, 1, 28, 28), dtype=np.uint8), made.decoded.train.y)
    made = ImageSource("large", Decoded(large, large, "e" * 64), augmentation=Augmentation(crop=4, flip=True))
    taken = []
    for k in range(30):
        begin = time.perf_counter()
        made.batch(0, 128 * k, 128)
        taken.append(time.perf_counter() - begin)
    assert min(taken) < 2e-3


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5000),
    st.floats(),
    st.sampled_from(["", "0-4", "10 %", "1 sample", "~", ".", "train", "nchw", "coarse", "\0"]),
    st.lists(st.integers(), max_size=2),
)
NAMES = st.sampled_from(
    [
        *("path", "size", "classes", "crop", "flip", "cutout", "fill", "holdout", "labels"),
        *("layout", "side", "dataset", "config", "train", "test", "image", "label"),
    ]
)


@settings(max_examples=120, deadline=None)
@given(
    name=st.sampled_from(["digits", "idx", "cifar", "arrays", "image-folder"]),
    options=st.dictionaries(NAMES, ANYTHING, max_size=4),
)
def test_any_options_give_a_source_or_one_message(tmp_path_factory, name, options):
    place = tmp_path_factory.getbasetemp() / "no images"
    place.mkdir(exist_ok=True)
    if options.get("path") in (".", "~"):
        options["path"] = str(place)
    try:
        made = open_source({"source": name, **options})
    except StudyError as error:
        assert "data" in str(error)
    else:
        assert made.train_size >= 1
        assert made.batch(0, 0, 3)[0].shape == (3, *made.shape)
