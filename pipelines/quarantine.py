"""Why a sample is rejected: one table of reason codes, and the exception that carries one."""

OK = "ok"
"""The status of a sample without a reason."""

STAGES = {
    "index": {
        "no_video": "the sample has captions but neither a video nor an image",
        "not_downloaded": "the program that made the shard could not download the video",
        "many_videos": "the sample has more than one video, or no video and more than one image",
        "empty_video": "the video or image holds no bytes",
        "bad_json": "the json member is not the expected object",
        "bad_text": "the txt member is not UTF-8",
        "bad_segment": "start_s and end_s are not a span of time, or are to cut an image",
        "text_too_large": "a json or txt member is over the size limit",
        "duplicate_key": "two samples or two members of the shard share a name",
        "dotted_key": "the key holds a dot, so readers disagree about where it ends",
        "cut_member": "a member runs past the end of the shard",
    },
    "read": {
        "missing_shard": "the shard is gone",
        "missing_video": "the video is gone",
        "short_read": "the shard ends before the sample",
        "changed_bytes": "the bytes are not those that were indexed",
    },
    "decode": {
        "bad_suffix": "no demuxer or image format is allowed for the suffix",
        "too_large": "the video or image is over a limit on bytes, pixels, frames, seconds or memory",
        "bad_container": "the container cannot be opened as what its suffix says",
        "no_stream": "the container holds no video stream",
        "no_decoder": "nothing here can decode the video stream: unknown codec, or encrypted",
        "no_frames": "the video stream holds no frame",
        "bad_stream": "the video stream cannot be decoded to its end",
        "empty_segment": "the segment lies outside the video",
        "bad_frames": "the stored frames are damaged, or were made for a model that sees other pictures",
        "bad_image": "the image is not what its suffix says, or cannot be decoded to its end",
        "too_slow": "decoding took more time than it is given, or stood still",
        "decoder_crashed": "decoding ended the process it ran in, or met an error that nobody foresaw",
    },
    "encode": {
        "not_finite": "the model gave a vector that is not finite",
    },
}
REASONS: dict[str, str] = {code: text for codes in STAGES.values() for code, text in codes.items()}
_STAGE_OF = {code: stage for stage, codes in STAGES.items() for code in codes}


def stage_of(code: str) -> str:
    """The stage (``index``, ``read``, ``decode``, ``encode``) at which ``code`` is found."""
    return _STAGE_OF[code]


class SampleError(Exception):
    """One sample is unusable. ``code`` is a key of ``REASONS``; ``detail`` says what was seen."""

    def __init__(self, code: str, detail: str = ""):
        assert code in REASONS, code
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    @classmethod
    def of(cls, code: str, error: Exception) -> "SampleError":
        """``code`` for what a library says of the bytes; ``too_large`` if it had not enough memory."""
        detail = f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"
        return cls("too_large" if isinstance(error, MemoryError) else code, detail)

    @property
    def stage(self) -> str:
        return stage_of(self.code)

    def __str__(self) -> str:
        return f"{self.code}: {self.detail or REASONS[self.code]}"
