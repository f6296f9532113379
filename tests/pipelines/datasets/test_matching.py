"""Videos are found by id, whatever their suffix and folder."""

import pytest

from pipelines.annotations import Record, match_videos
from pipelines.datasets.importing import other_paths

LSMDC = "0001_American_Beauty_00.00.51.926-00.00.54.129"


@pytest.mark.parametrize(
    ("layout", "name", "files", "found"),
    [
        ("msrvtt-9k", "video7", ["video7.mp4", "video77.mp4"], "video7.mp4"),
        ("msrvtt-9k", "video7", ["all/train/video7.webm", "video77.mp4"], "all/train/video7.webm"),
        ("msrvtt-9k", "video7", ["video7.mp4", "video7.json", "thumbs/video7.jpg"], "video7.mp4"),
        (
            "lsmdc",
            LSMDC,
            [f"0001_American_Beauty/{LSMDC}.avi", f"{LSMDC[:-3]}130.avi"],
            f"0001_American_Beauty/{LSMDC}.avi",
        ),
        ("didemo", "1@N00_2_ab.mov", ["1@N00_2_ab.mov"], "1@N00_2_ab.mov"),
        ("didemo", "1@N00_2_ab.mov", ["1@N00_2_ab.mp4"], "1@N00_2_ab.mp4"),
        ("didemo", "1@N00_2_ab.3gp", ["test/1@N00_2_ab.3gp.mp4"], "test/1@N00_2_ab.3gp.mp4"),
        ("didemo", "1@N00_2_ab.3GP", ["1@N00_2_ab.mp4"], "1@N00_2_ab.mp4"),
        ("activitynet", "-0abc", ["-0abc.mkv"], "-0abc.mkv"),
        ("activitynet", "-0abc", ["v_-0abc.mp4", "v_-0abcd.mp4"], "v_-0abc.mp4"),
        ("activitynet", "-0abc", ["-0abc.mp4", "v_-0abc.mp4"], "-0abc.mp4"),
        ("jsonl", "film/clip1", ["clip1.mp4"], "clip1.mp4"),
        ("jsonl", "film/clip1", ["film/clip1.avi", "other/clip1.avi"], "film/clip1.avi"),
        ("vindlu", "msrvtt/video1.mp4", ["video1.webm"], "video1.webm"),
        ("msrvtt-9k", "video7", ["a/video7.mp4", "b/video7.mp4"], "unclear_video"),
        ("msrvtt-9k", "video7", ["video7.mp4", "video7.avi"], "unclear_video"),
        ("msrvtt-9k", "video7", ["xvideo7.mp4"], "missing_video"),
        ("lsmdc", "a_00.00.51.926", ["a_00.00.51.mp4"], "missing_video"),
        ("vindlu", "../../etc/passwd", ["passwords.mp4"], "missing_video"),
    ],
)
def test_a_video_is_found_by_its_id(layout, name, files, found):
    record = Record(name, name, "all", (), None, None)
    kept, problems = match_videos([record], files, by_end=True, other_paths=other_paths(layout))
    assert [record.path for record in kept] + [problem.kind for problem in problems] == [found]
