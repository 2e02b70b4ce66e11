"""Faces keep their numbers: crossing, hidden for a moment, fast, gone; and cuts are found."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures_film import CUT, frames_of_film

from fer_edge.video import Tracker
from fer_edge.video.cut import CutFinder


def boxes_at(*centres: tuple[float, float], side: float = 48) -> np.ndarray:
    return np.array([[x - side / 2, y - side / 2, x + side / 2, y + side / 2] for x, y in centres])


@pytest.mark.parametrize("fps", [5, 25, 60])
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("jitter", [0.0, 2.0])
def test_two_faces_that_cross(fps: int, hidden: bool, jitter: float) -> None:
    """At any rate, in any order of the boxes, and where one hides the other for a moment."""
    random = np.random.default_rng(0)
    tracker = Tracker()
    owner: dict[int, set[int]] = {0: set(), 1: set()}
    hidden_frames = 0
    for number in range(2 * fps):
        at = number / fps
        centres = [(60 + 100 * at, 100.0), (260 - 100 * at, 104.0)]
        people = [0, 1]
        if hidden and abs(centres[0][0] - centres[1][0]) < 30:
            people, hidden_frames = [0], hidden_frames + 1
        people = list(random.permutation(people))
        boxes = boxes_at(*(centres[person] for person in people))
        boxes += random.normal(0, jitter, (len(people), 1))
        for person, face in zip(people, tracker.update(boxes, at), strict=True):
            # Where both boxes are the same one, nobody can say whose it is.
            if abs(centres[0][0] - centres[1][0]) > 10:
                owner[person].add(face)
    assert hidden_frames > 0 or not hidden
    assert tracker.count == 2
    assert [len(numbers) for numbers in owner.values()] == [1, 1]
    assert owner[0] != owner[1]


def test_the_crossing_test_can_fail() -> None:
    """Without their speed, faces that cross while one is hidden change their numbers."""

    class Still(Tracker):
        def update(self, boxes: np.ndarray, time: float) -> list[int]:
            for face in self._faces:
                face.speed[:] = 0
            return super().update(boxes, time)

    def last_numbers(tracker: Tracker) -> list[int]:
        found: list[int] = []
        for number in range(50):
            first, second = (40 + 6 * number, 100), (340 - 6 * number, 104)
            seen = [first] if abs(first[0] - second[0]) < 60 else [first, second]
            found = tracker.update(boxes_at(*seen), number / 25)
        return found

    assert last_numbers(Tracker()) == [1, 2]
    assert last_numbers(Still()) != [1, 2]


def test_a_box_between_two_faces_is_that_of_the_one_that_was_seen() -> None:
    """The other one, which was expected nearer to it, has been hidden for longer."""
    tracker = Tracker()
    for number in range(16):
        boxes = boxes_at((100, 100), (200 - 4 * number, 100))
        assert tracker.update(boxes, number / 25) == [1, 2]
    for number in range(16, 25):
        assert tracker.update(boxes_at((100, 100)), number / 25) == [1]
    other = next(face for face in tracker._faces if face.number == 2)
    assert abs(other.expected(1.0)[0] - 108) < 8, "this test needs the other one nearer"
    assert tracker.update(boxes_at((108, 100)), 1.0) == [1]


def test_a_face_that_jumps_or_grows_is_another() -> None:
    tracker = Tracker()
    assert tracker.update(boxes_at((50, 50)), 0.0) == [1]
    assert tracker.update(boxes_at((70, 50)), 0.04) == [1]
    assert tracker.update(boxes_at((300, 50)), 0.08) == [2]
    assert tracker.update(boxes_at((300, 50), side=120), 0.12) == [3]


def test_a_face_is_gone_after_a_second() -> None:
    tracker = Tracker(patience=1.0)
    assert tracker.update(boxes_at((50, 50)), 0.0) == [1]
    assert tracker.update(boxes_at(), 0.5) == []
    assert tracker.update(boxes_at((52, 50)), 0.9) == [1]
    assert tracker.numbers == {1}
    assert tracker.update(boxes_at((52, 50)), 2.0) == [2]
    assert tracker.numbers == {2}
    tracker.end_all()
    assert tracker.update(boxes_at((52, 50)), 2.04) == [3]
    assert tracker.count == 3


def test_more_faces_than_before_and_boxes_of_no_size() -> None:
    tracker = Tracker()
    places = [(100.0 * column, 100.0 * row) for row in range(5) for column in range(8)]
    assert tracker.update(boxes_at(*places), 0.0) == list(range(1, 41))
    order = np.random.default_rng(1).permutation(40)
    moved = boxes_at(*(places[i] for i in order)) + 7
    assert tracker.update(moved, 0.04) == [i + 1 for i in order]
    tracker.update(boxes_at((5, 5), side=0), 0.08)
    assert np.isfinite([face.centre for face in tracker._faces]).all()


# Cuts


def test_only_the_cut_is_a_cut(tiny_net: object) -> None:
    find = CutFinder()
    found = [number for number, frame in enumerate(frames_of_film(tiny_net)) if find(frame)]
    assert found == [CUT]


def textured(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).uniform(20, 235, (12, 16, 3))
    return np.kron(coarse, np.ones((40, 40, 1))).astype(np.uint8)


def test_light_and_a_moving_face_are_no_cuts() -> None:
    find = CutFinder()
    scene = textured(3)
    assert not find(scene)
    assert not find((scene * 0.6).astype(np.uint8)), "the light goes down"
    assert not find(np.minimum(scene.astype(int) + 60, 255).astype(np.uint8)), "it goes up"
    wall = np.full((480, 640, 3), 120, np.uint8)
    find = CutFinder()
    find(wall)
    for x in (0, 300):
        frame = wall.copy()
        frame[100:300, x : x + 200] = 30
        assert not find(frame), "a dark square that moves by more than itself"
    noise = np.random.default_rng(0)
    for _ in range(5):
        dark = noise.normal(20, 5, (480, 640, 3)).clip(0, 255).astype(np.uint8)
        assert not find(dark) or _ == 0, "noise of a dark room"


@pytest.mark.parametrize("size", [(48, 48), (30, 20), (480, 640)])
def test_another_scene_is_a_cut_at_any_size(size: tuple[int, int]) -> None:
    find = CutFinder()
    rows, columns = (np.linspace(0, most - 1, n).astype(int) for most, n in zip((480, 640), size))
    assert not find(textured(3)[rows][:, columns])
    assert not find(textured(3)[rows][:, columns])
    assert find(textured(4)[rows][:, columns])
    assert find(np.zeros((10, 10, 3), np.uint8)), "another size is another source"
